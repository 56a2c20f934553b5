"""Matching: against all order-preserving matchings by brute force, margins, ties, gaps, refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gapkit.errors import InputError
from gapkit.measurement import LayerMatrix
from gapkit.probes.matching import LayerMatching, match_layers


def all_matchings(rows: int, columns: int):
    """Every set of cells that increase in both directions."""
    for size in range(min(rows, columns) + 1):
        for left in itertools.combinations(range(rows), size):
            for right in itertools.combinations(range(columns), size):
                yield tuple(zip(left, right))


def best(values: np.ndarray, forbidden: tuple[int, int] | None = None) -> float:
    return max(
        sum(values[cell] for cell in cells)
        for cells in all_matchings(*values.shape)
        if forbidden not in cells and not any(np.isnan(values[cell]) for cell in cells)
    )


def cells_of(found: LayerMatching) -> list[tuple[int, int]]:
    return [(int(teacher), int(student)) for student, teacher in found.pairs]


def matrix(values: np.ndarray, half: float = 0.1, untrained: bool = True) -> LayerMatrix:
    rows, columns = values.shape
    return LayerMatrix(
        name="cka",
        split="test",
        teacher_layers=[f"t{i}" for i in range(rows)],
        student_layers=[f"s{i}" for i in range(columns)],
        values=values,
        low=values - half,
        high=values + half,
        null_z=np.full_like(values, np.nan),
        untrained=values / 2 if untrained else np.array([]),
        n=100,
        reasons={f"{row},{column}": "" for row, column in np.argwhere(np.isnan(values))},
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (5, 3), (3, 5), (5, 5), (1, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_total_and_margins_against_brute_force(shape, seed):
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.3, 1, size=shape)
    values[rng.uniform(size=shape) < 0.15] = np.nan
    found = match_layers(values)
    cells = cells_of(found)
    assert tuple(cells) in set(all_matchings(*shape))
    assert found.total == pytest.approx(best(values))
    assert found.values.tolist() == [values[cell] for cell in cells]
    expected = [best(values) - best(values, cell) for cell in cells]
    np.testing.assert_allclose(found.margins, expected, atol=1e-9)


def test_the_least_margin_holds_for_all_similarities_within_their_intervals():
    """Against the worst of all matchings, each at its worst; and tried out at random."""
    sure = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        values = rng.uniform(0, 1, size=(4, 4))
        found = match_layers(matrix(values, half=0.08))
        cells = [(int(t[1:]), int(s[1:])) for s, t in found.pairs]
        at_worst = values + 0.08
        for cell in cells:
            at_worst[cell] -= 0.16
        expected = [sum(at_worst[c] for c in cells) - best(at_worst, cell) for cell in cells]
        np.testing.assert_allclose(found.least_margins, expected, atol=1e-9)
        for _ in range(50):
            moved = cells_of(match_layers(values + rng.uniform(-0.08, 0.08, size=(4, 4))))
            assert all(cell in moved for cell, safe in zip(cells, found.decided) if safe)
        sure += found.decided
    assert 0.1 < np.mean(sure) < 0.9


def test_a_shifted_student_is_matched_to_where_it_belongs():
    values = np.full((5, 3), 0.2)
    values[[0, 2, 4], [0, 1, 2]] = 0.9
    found = match_layers(matrix(values, half=0.05))
    assert found.pairs == (("s0", "t0"), ("s1", "t2"), ("s2", "t4"))
    assert found.left_out == (("t1", "t3"), ())
    assert found.decided == (True, True, True)
    np.testing.assert_allclose(found.untrained, found.values / 2)
    np.testing.assert_allclose(found.high - found.low, 0.1)
    assert (found.name, found.split, found.n) == ("cka", "test", 100)
    assert str(found) == "3 pairs of layers by cka: s0 ~ t0 0.900, s1 ~ t2 0.900, s2 ~ t4 0.900"


def test_more_student_than_teacher_layers_leaves_some_out():
    values = np.array([[0.1, 0.9, 0.2, 0.1], [0.1, 0.2, 0.3, 0.8]])
    found = match_layers(values)
    assert found.pairs == (("1", "0"), ("3", "1"))
    assert found.left_out == ((), ("0", "2"))
    transposed = match_layers(values.T)
    assert {pair[::-1] for pair in transposed.pairs} == set(found.pairs)


def test_as_many_layers_on_both_sides_need_not_be_paired_one_by_one():
    values = np.full((4, 4), 0.05) + 0.8 * np.eye(4, k=-1)
    assert match_layers(values).pairs == (("0", "1"), ("1", "2"), ("2", "3"))


def test_ties_go_to_the_earliest_pairs_and_are_not_decided():
    found = match_layers(np.full((4, 2), 0.1) + 0.2)
    assert found.pairs == (("0", "0"), ("1", "1"))
    assert found.margins.tolist() == found.least_margins.tolist() == [0.0, 0.0]
    assert found.decided == (False, False)
    assert "0 ~ 0 0.300 (undecided)" in str(found)


def test_cells_without_a_similarity_above_0_are_never_paired():
    values = np.array([[np.nan, 0.0], [-0.2, np.nan]])
    found = match_layers(values)
    assert (found.pairs, found.total) == ((), 0.0)
    assert found.left_out == (("0", "1"), ("0", "1"))
    assert str(found) == "0 pairs of layers by similarity: none"
    assert match_layers([[np.nan, 0.4], [0.3, np.nan]]).pairs == (("1", "0"),)


def test_without_intervals_or_untrained_student_nothing_is_decided():
    values = np.array([[0.9, 0.1], [0.1, 0.8]])
    given = matrix(values, untrained=False)
    found = match_layers(given.with_(low=np.full((2, 2), np.nan)))
    np.testing.assert_allclose(found.margins, [0.9, 0.8])
    assert np.isnan(found.least_margins).all()
    assert found.decided == (False, False)
    assert found.untrained.size == 0
    assert match_layers(given).decided == (True, True)
    assert match_layers(values).decided == (True, True)


def test_a_matching_survives_json():
    found = match_layers(matrix(np.random.default_rng(0).uniform(size=(3, 2))))
    assert LayerMatching.model_validate_json(found.model_dump_json()) == found


def test_what_is_no_matrix_is_refused():
    with pytest.raises(InputError, match=r"\(teacher layers, student layers\) but got \(2,\)"):
        match_layers([0.1, 0.2])
    with pytest.raises(InputError, match=r"but got \(0, 3\)"):
        match_layers(np.empty((0, 3)))
    with pytest.raises(InputError, match="finite similarities or nan but got inf"):
        match_layers([[np.inf]])
    with pytest.raises(InputError, match="similarities but got list"):
        match_layers([["a"]])
