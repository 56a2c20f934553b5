"""Permutations: both ways against a plain loop, planted pairs, uniform p values under the null."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gapkit.errors import InputError
from gapkit.probes import permutation as module
from gapkit.probes.permutation import permutation_p
from gapkit.probes.similarity import cka


def related(n: int = 60, p: int = 5, q: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n, 3))
    x = signal @ rng.normal(size=(3, p)) + 0.5 * rng.normal(size=(n, p))
    y = signal @ rng.normal(size=(3, q)) + 0.5 * rng.normal(size=(n, q))
    return x, y


def as_layers(*parts: np.ndarray) -> dict[str, torch.Tensor]:
    return {f"l{i}": torch.tensor(part) for i, part in enumerate(parts)}


def test_both_ways_of_permuting_agree_with_a_plain_loop():
    x, y = related(40)
    z = np.random.default_rng(9).normal(size=(40, 6))
    xs, ys = [x, z], [y]
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(40) for _ in range(6)])
    plain = [[[cka(a, b[order]) for b in ys] for a in xs] for order in orders]
    centered = [[torch.tensor(part - part.mean(0)) for part in side] for side in (xs, ys)]
    by_features = module._permuted_features(*centered, orders)
    by_grams = module._permuted_grams(*centered, orders)
    assert np.std(plain) > 0.01
    np.testing.assert_allclose(by_features, plain, atol=1e-12)
    np.testing.assert_allclose(by_grams, plain, atol=1e-6)


@pytest.mark.parametrize("width", [4, 400])
def test_a_planted_pair_is_found_and_the_rest_is_not(width):
    rng = np.random.default_rng(1)
    x, y = related(80, width, width)
    noise = rng.normal(size=(80, width))
    found = permutation_p(as_layers(noise, x), as_layers(y), n_permutations=99)
    assert found.p_value[1, 0] == 0.01
    assert found.p_value[0, 0] > 0.05
    assert found.p_max == 0.01
    assert (found.n, found.n_permutations, len(found.maxima)) == (80, 99, 99)


def test_p_values_of_unrelated_features_are_uniform_and_the_maximum_is_corrected():
    cells, largest = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        parts = [rng.normal(size=(30, 3)) for _ in range(6)]
        result = permutation_p(as_layers(*parts[:3]), as_layers(*parts[3:]), 39, seed)
        cells.append(result.p_value.min())
        largest.append(result.p_max)
    assert np.mean(np.array(cells) <= 0.05) > 0.2
    assert np.mean(np.array(largest) <= 0.05) < 0.12
    assert np.mean(largest) == pytest.approx(0.5, abs=0.09)


def test_permutations_of_constant_or_few_samples_say_nan():
    x, y = related(20)
    mixed = permutation_p(as_layers(np.ones((20, 2)), x), as_layers(y), 19)
    assert math.isnan(mixed.p_value[0, 0])
    assert mixed.p_value[1, 0] == mixed.p_max == 0.05
    nothing = permutation_p(as_layers(np.ones((20, 2))), as_layers(y), 19)
    assert math.isnan(nothing.p_max)
    assert nothing.n_permutations == 0
    assert math.isnan(permutation_p(as_layers(x[:3]), as_layers(y[:3]), 19).p_max)
    with pytest.raises(InputError, match="at least 1 permutation"):
        permutation_p(torch.tensor(x), torch.tensor(y), 0)
    with pytest.raises(InputError, match="their numbers differ"):
        permutation_p(torch.tensor(x), torch.tensor(y[:9]))


def test_many_layers_are_permuted_on_fewer_samples():
    rng = np.random.default_rng(0)
    layers = {f"l{i}": torch.tensor(rng.normal(size=(1200, 300))) for i in range(3)}
    assert permutation_p(layers, layers, n_permutations=3).n == 1000
    assert module._permutation_size([layers["l0"]] * 24, [layers["l0"]] * 24, 199) == (361, False)
