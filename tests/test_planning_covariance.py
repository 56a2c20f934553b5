"""The covariance of arms: a covariance indeed, and what it holds alike is alike."""

from __future__ import annotations

import numpy as np
import pytest

from gapkit.planning.arm import SCRATCH, Arm
from gapkit.planning.covariance import (
    GRID,
    N_PARTS,
    RECIPE_RATIO,
    SEED_RATIO,
    Columns,
    components,
    variances,
)

SIZES = (16, 8, 4, 2, 1)
PATHS = [(16, 1), (16, 8, 1), (16, 4, 1), (16, 2, 1), (16, 8, 4, 1), (16, 8, 4, 2, 1)]
ARMS = [Arm(path, name, f) for path in PATHS for name in "ab" for f in (0.25, 0.5, 1.0, 4.0)]
ARMS += [Arm((1,), SCRATCH, f) for f in (0.25, 1.0, 4.0)]


def table(arms=ARMS, codes=None) -> Columns:
    return Columns.of(arms, SIZES, {} if codes is None else codes)


def test_every_part_is_a_covariance_and_variances_are_its_diagonal():
    parts = components(table(), table())
    assert parts.shape == (N_PARTS, len(ARMS), len(ARMS))
    for part in parts:
        np.testing.assert_allclose(part, part.T)
        assert np.linalg.eigvalsh(part).min() > -1e-9
        assert np.ptp(part) > 0
    np.testing.assert_allclose(variances(table()), np.diagonal(parts, axis1=1, axis2=2))


def test_assistants_of_like_size_act_alike_and_scratch_has_no_teacher():
    arms = [Arm((16, 8, 1), "a"), Arm((16, 4, 1), "b"), Arm((16, 2, 1), "c"), Arm((1,), SCRATCH)]
    near = components(table(arms), table(arms))[1]
    assert near[0, 0] == 1.0
    assert near[0, 1] > near[0, 2] > 0.0
    assert (near[3] == 0).all()


def test_a_full_training_has_no_patience_and_longer_ones_gain_less_and_less():
    codes: dict[str, int] = {}
    full = table([Arm((16, 1), "a")], codes)
    some = table([Arm((16, 1), "a", f) for f in (0.25, 0.5, 1.0, 2.0, 4.0)], codes)
    assert not components(full, some)[5:].any()
    slope = np.diff(some.patience)
    assert (slope > 0).all()
    assert (np.diff(slope) < 0).all()
    assert variances(some)[5, 0] == pytest.approx(1.0)


def test_what_strays_from_the_curve_goes_its_own_way_for_looks_and_for_patience():
    arms = [Arm((16, 1), "a", f) for f in (0.25, 0.5, 1.0, 4.0)]
    walk = components(table(arms), table(arms))[8]
    np.testing.assert_allclose(walk, [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]])


def test_the_grid_covers_little_and_much_of_everything_the_same_every_time():
    assert GRID.variances.shape == (len(GRID.shares), N_PARTS)
    assert (GRID.variances > 0).all()
    ratio = GRID.variances.max(0) / GRID.variances.min(0)
    assert (ratio > 50).all()
    common, by_recipe, own = GRID.shares.T
    np.testing.assert_allclose(common + by_recipe + own, 1.0)
    for found, (least, most) in (
        (common / (by_recipe + own), SEED_RATIO),
        (by_recipe / own, RECIPE_RATIO),
    ):
        assert found.min() == pytest.approx(least, rel=0.05)
        assert found.max() == pytest.approx(most, rel=0.05)
        assert np.median(found) == pytest.approx(np.sqrt(least * most), rel=0.05)
    again = type(GRID).spread(len(GRID.shares))
    np.testing.assert_array_equal(again.variances, GRID.variances)
