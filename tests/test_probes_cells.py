"""Cells: exact oracles, coverage by enumeration far in the tails, groups, and what has no value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gapkit.probes.cells import gap_cells, score_cells

ONE = np.array([0.95])


def at(level: float, *, k: int = 1) -> np.ndarray:
    return np.full(k, level)


def tables(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every count of samples that only the teacher, and that only the student, has right."""
    only = np.array([(a, b) for a in range(n + 1) for b in range(n + 1 - a)])
    return only[:, 0], only[:, 1]


def pairs(n: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers (0/1) of both models of every table, one slice each."""
    place = np.arange(n)
    teacher = place < a[:, None]
    student = (place >= a[:, None]) & (place < (a + b)[:, None])
    return teacher.ravel() * 1.0, student.ravel() * 1.0, np.repeat(np.arange(len(a)), n)


def test_shares_are_those_of_an_exact_test_at_each_slices_own_level():
    hits = {0: (0, 5), 1: (5, 5), 2: (17, 40), 3: (99, 100)}
    values = np.concatenate([np.arange(n) < x for x, n in hits.values()])
    codes = np.repeat(list(hits), [n for _, n in hits.values()])
    level = np.array([0.95, 0.99, 0.999, 0.9999])
    mixed = np.random.default_rng(0).permutation(len(codes))
    found = score_cells(values[mixed], codes[mixed], level)
    for index, (x, n) in hits.items():
        want = stats.binomtest(x, n).proportion_ci(level[index], method="exact")
        assert found.value[index] == x / n
        assert (found.low[index], found.high[index]) == pytest.approx((want.low, want.high))
        assert found[index].n == n
        assert found[index].level == level[index]


def test_means_are_between_students_t_and_halls():
    values = np.random.default_rng(1).exponential(size=60)
    found = score_cells(values, np.repeat([0, 1], 30), at(0.999, k=2))
    for index, part in enumerate((values[:30], values[30:])):
        t = stats.t.interval(0.999, 29, part.mean(), stats.sem(part))
        gamma = stats.skew(part)

        def hall(y, gamma=gamma):
            return y + gamma * y**2 / 3 + gamma**2 * y**3 / 27 + gamma / (6 * 30)

        cell = found[index]
        assert cell.value == pytest.approx(part.mean())
        assert cell.se == pytest.approx(stats.sem(part))
        assert cell.low == pytest.approx(t[0])  # skewed to the right: Hall's is the upper bound
        assert cell.high > t[1]
        deviation = stats.sem(part) * math.sqrt(30)
        bound = hall((part.mean() - cell.high) / deviation) * math.sqrt(30)
        assert bound == pytest.approx(stats.t.ppf(0.0005, 29))
    symmetric = np.r_[np.linspace(-1, 1, 30)] + 3
    plain = score_cells(symmetric, np.zeros(30, int), ONE)[0]
    want = stats.t.interval(0.95, 29, 3, stats.sem(symmetric))
    assert (plain.low, plain.high) == pytest.approx(want)


@pytest.mark.parametrize("n, alpha", [(20, 0.05), (20, 0.001), (60, 0.001), (40, 0.0001)])
def test_gaps_of_shares_cover_far_in_the_tails(n, alpha):
    """By enumeration of all tables: no truth is missed more than 1.2 times as often as allowed."""
    only_teacher, only_student = tables(n)
    cells = gap_cells(*pairs(n, only_teacher, only_student), at(1 - alpha, k=len(only_teacher)))
    np.testing.assert_allclose(cells.value, (only_teacher - only_student) / n)
    counts = np.stack([only_teacher, only_student, n - only_teacher - only_student], axis=1)
    missed = []
    for a, b in ((0.01, 0.0), (0.03, 0.03), (0.2, 0.0), (0.3, 0.1), (0.3, 0.3), (0.5, 0.3)):
        chance = stats.multinomial.pmf(counts, n, [a, b, 1 - a - b])
        wrong = (cells.low > a - b + 1e-12) | (cells.high < a - b - 1e-12)
        missed.append(chance[wrong].sum() / alpha)
    assert max(missed) < 1.2
    assert np.mean(missed) > 0.02


def test_gaps_are_opposed_when_models_change_places():
    rng = np.random.default_rng(2)
    teacher, student = rng.random((2, 90)) < [[0.9], [0.6]]
    codes = np.repeat([0, 1, 2], 30)
    one = gap_cells(teacher, student, codes, at(0.99, k=3))
    two = gap_cells(student, teacher, codes, at(0.99, k=3))
    np.testing.assert_allclose(one.value, -two.value)
    np.testing.assert_allclose(one.low, -two.high)
    assert (one.low < one.value).all()


def test_a_gap_of_no_discordant_sample_is_left_as_wide_as_the_exact_limit():
    found = gap_cells(np.ones(20), np.ones(20), np.zeros(20, int), at(0.999))[0]
    limit = 1 - 0.0005 ** (1 / 20)
    assert (found.low, found.high) == pytest.approx((-limit, limit))
    lost = gap_cells(np.ones(20), np.zeros(20), np.zeros(20, int), at(0.999))[0]
    assert (lost.value, lost.high) == (1.0, 1.0)
    assert 0 < lost.low < 1 - limit + 1e-9


def test_gaps_of_other_scores_are_the_means_of_differences():
    rng = np.random.default_rng(3)
    teacher, student = rng.normal(size=(2, 50))
    codes = rng.integers(0, 4, 50)
    one = gap_cells(teacher, student, codes, at(0.95, k=4))
    two = score_cells(teacher - student, codes, at(0.95, k=4))
    np.testing.assert_allclose(one.low, two.low)
    np.testing.assert_allclose(one.value, two.value)


def test_a_sample_may_be_in_several_slices():
    values = np.array([1.0, 0.0, 1.0, 1.0])
    rows, codes = np.array([0, 1, 2, 3, 2, 3]), np.array([0, 0, 0, 0, 1, 1])
    found = score_cells(values[rows], codes, at(0.95, k=2))
    assert found.value.tolist() == [0.75, 1.0]
    assert found.n.tolist() == [4, 2]


def test_groups_of_one_are_samples_and_copies_count_once():
    rng = np.random.default_rng(4)
    hits, errors = (rng.random(60) < 0.7) * 1.0, rng.exponential(size=60)
    codes = np.repeat([0, 1], 30)
    level = at(0.99, k=2)
    for values in (hits, errors):
        alone = score_cells(values, codes, level)
        named = score_cells(values, codes, level, groups=np.arange(60))
        np.testing.assert_allclose(named.low, alone.low, rtol=0.02)
        rows = np.repeat(np.arange(60), 5)
        copied = score_cells(values[rows], codes[rows], level, groups=rows)
        np.testing.assert_allclose(copied.value, alone.value)
        np.testing.assert_allclose(copied.high, alone.high, rtol=0.03)
        assert copied.n.tolist() == [150, 150]
    gaps = [
        gap_cells(hits[rows], 1 - hits[rows], codes[rows], level, groups)
        for rows, groups in ((np.arange(60), None), (rows, rows))
    ]
    np.testing.assert_allclose(gaps[0].low, gaps[1].low, atol=0.05)


def test_groups_never_claim_more_than_their_samples():
    """Groups that balance each other vary less than samples would; the interval is not narrower for it."""
    hits = np.tile([1.0, 0.0, 1.0, 1.0, 1.0, 0.0], 10)
    hits[0] = 0.0
    codes = np.zeros(60, int)
    one, two = (score_cells(hits, codes, ONE, groups)[0] for groups in (None, np.arange(60) // 6))
    assert (one.low, one.high) == pytest.approx((two.low, two.high))


def test_one_group_leaves_its_slice_open():
    codes, groups = np.repeat([0, 1], 10), np.r_[np.zeros(10), np.arange(10)]
    hits = np.arange(20) % 2
    found = score_cells(hits, codes, at(0.95, k=2), groups)
    assert (found.low[0], found.high[0]) == (0.0, 1.0)
    assert found.low[1] > 0
    gap = gap_cells(hits, 1 - hits, codes, at(0.95, k=2), groups)
    assert (gap.low[0], gap.high[0]) == (-1.0, 1.0)
    errors = score_cells(hits / 3, codes, at(0.95, k=2), groups)
    assert (errors.low[0], errors.high[0]) == (-math.inf, math.inf)
    assert math.isfinite(errors.low[1])


def test_slices_without_a_value_say_why_and_leave_others_alone():
    values = np.array([0.5, np.nan, 1.0, 2.0, 3.0])
    found = score_cells(values, np.array([0, 0, 2, 2, 2]), at(0.95, k=3))
    assert found[0].reason == "1 of 2 values are not finite"
    assert found[1].reason == "no samples"
    assert np.isnan([found.value[0], found.low[1], found.high[0]]).all()
    assert found[2].value == 2.0
    assert not found[2].reason
    none = gap_cells(np.ones(2), np.ones(2), np.array([1, 1]), at(0.95, k=2))
    assert none[0].reason == "no samples"
    assert none[1].low < 0


def test_grouped_intervals_cover_together():
    """40 slices of 60 samples in groups of 5 that share their luck, at the level corrected for 40."""
    rng, level = np.random.default_rng(5), at(1 - 0.05 / 40, k=40)
    codes = np.repeat(np.arange(40), 60)
    groups = np.arange(2400) // 5
    hold = []
    for _ in range(300):
        of_group = rng.beta(6, 2, 480)[groups]
        teacher, student = rng.random((2, 2400)) < of_group - [[0.0], [0.1]] * of_group
        found = (
            (score_cells(teacher, codes, level, groups), 0.75),
            (gap_cells(teacher, student, codes, level, groups), 0.075),
            (score_cells(teacher, codes, level), 0.75),
        )
        hold.append([((x.low <= true) & (x.high >= true)).all() for x, true in found])
    scores, gaps, without_groups = np.mean(hold, axis=0)
    assert scores >= 0.95
    assert gaps >= 0.95
    assert without_groups < 0.9


def test_skewed_errors_are_covered_where_students_t_alone_is_not():
    """Squared errors of 50 samples a slice, at 0.999: how often a slice's mean is missed, over how often allowed."""
    rng = np.random.default_rng(6)
    values = rng.standard_normal(40_000 * 50) ** 2
    codes = np.repeat(np.arange(40_000), 50)
    found = score_cells(values, codes, at(0.999, k=40_000))
    missed = ((found.low > 1) | (found.high < 1)).mean() / 0.001
    half = stats.t.ppf(0.9995, 49) * found.se
    by_t = (np.abs(found.value - 1) > half).mean() / 0.001
    assert missed < 3
    assert by_t > 8
