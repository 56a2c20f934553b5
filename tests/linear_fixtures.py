"""Features and labels that linear readouts are tried on: pixels of scikit-learn's digits."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n images (n, 64) in random order, and their labels."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:n]
    return x[order], y[order]


def standardized(x: np.ndarray) -> np.ndarray:
    """The features that vary, with mean 0 and standard deviation 1."""
    kept = x.std(0) > 0
    return (x[:, kept] - x[:, kept].mean(0)) / x[:, kept].std(0)
