"""Spectrum: principal axes of a layer's features and how much variance lies along each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

from gapkit.errors import InputError


def feature_matrix(x: Any, what: str = "features") -> np.ndarray:
    """Features (n, d) in float64, from arrays or tensors; refused of another shape, empty, not finite."""
    x = x.detach().cpu().double() if hasattr(x, "detach") else x  # NumPy has no bfloat16
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise InputError(f"Expected {what} of shape (samples, features) but got {x.shape}")
    if not np.isfinite(x).all():
        raise InputError(f"Expected finite {what} but some are not")
    return x


def spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariance eigenvalues (r,) of features (n, d), largest first, and scores (n, r) along their axes.

    Rounding is left out: constant features have r = 0.

    >>> spectrum(np.array([[3.0, 1.0], [-1.0, 1.0]]))[0]
    array([4.])
    """
    centered = x - x.mean(0)
    n, d = x.shape
    if np.abs(centered).max() <= 1e-9 * np.abs(x).max():
        return np.empty(0), np.empty((n, 0))
    values, vectors = _eigen(centered)
    return values, vectors * np.sqrt(values * n) if d > n else centered @ vectors


@dataclass(frozen=True)
class Basis:
    """Standardized training features in their principal axes: what every linear fit on them shares.

    Attributes:
        mean, scale: (k,) of the features that vary, `kept` (d,) of all.
        axes: (k, r); values: (r,) variance along each; scores: (n, r) the training samples.
    """

    mean: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    axes: np.ndarray
    values: np.ndarray
    scores: np.ndarray

    def project(self, x: np.ndarray) -> np.ndarray:
        """(m, r) principal scores of new samples."""
        return (x[:, self.kept] - self.mean) / self.scale @ self.axes


def basis_of(x: np.ndarray) -> Basis:
    """The Basis of training features (n, d), finite as `feature_matrix` gives them.

    Raises:
        InputError: when none of them varies.
    """
    mean = x.mean(0)
    z = x - mean
    scale = np.sqrt(np.einsum("ij,ij->j", z, z) / len(z))
    kept = scale > 1e-9 * (np.abs(mean) + 1e-30) + 1e-30
    if not kept.any():
        raise InputError("Expected a feature that varies over the training samples but got none")
    if not kept.all():
        z, mean, scale = z[:, kept], mean[kept], scale[kept]
    z /= scale
    n = len(z)
    values, vectors = _eigen(z)
    if z.shape[1] > n:
        axes, scores = z.T @ vectors / np.sqrt(values * n), vectors * np.sqrt(values * n)
    else:
        axes, scores = vectors, (vectors.T @ z.T).T  # so that scores.T runs along memory
    return Basis(mean, scale, kept, axes, values, scores)


def _eigen(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the smaller Gram matrix of centred x, largest first, over n."""
    n, d = x.shape
    values, vectors = linalg.eigh((x @ x.T if d > n else x.T @ x) / n)
    good = values > values[-1] * 1e-12 * max(n, d)
    return values[good][::-1], vectors[:, good][:, ::-1]
