"""A comparison is paired, decides only what its interval decides, and says what would decide the rest."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from gapkit.errors import InputError
from gapkit.quality.comparison import compare, what_would_decide


def number(text, unit):
    """The number before a unit in a sentence."""
    found = re.search(rf"([\d,]+) {unit}", text)
    assert found, text
    return int(found[1].replace(",", ""))


def pinned(mean, by_seed, by_sample, n_seeds=4, n=100, draw=None):
    """Differences (S, N) whose mean and whose variances of row and column means are exactly these."""
    draw = np.random.default_rng(0) if draw is None else draw

    def exact(size, variance):
        values = draw.normal(size=size)
        values -= values.mean()
        return values * np.sqrt(variance / values.var(ddof=1))

    return mean + exact(n_seeds, by_seed)[:, None] + exact(n, by_sample)[None, :]


# The difference


def test_several_seeds_by_hand():
    ours = np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    theirs = np.array([[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    d = ours - theirs
    rows, columns = d.mean(1), d.mean(0)
    by_seed, by_sample = rows.var(ddof=1) / 3, columns.var(ddof=1) / 4
    df = (by_seed + by_sample) ** 2 / (by_seed**2 / 2 + by_sample**2 / 3)
    half = stats.t.ppf(0.975, df) * np.sqrt(by_seed + by_sample)
    found = compare("a", "b", ours, theirs, "share")
    assert found.points.value == pytest.approx(d.mean()) == pytest.approx(7 / 12)
    assert (found.points.low, found.points.high) == pytest.approx(
        (d.mean() - half, d.mean() + half)
    )
    assert (found.n_seeds, found.points.n, found.points.unit, found.points.split) == (
        3,
        4,
        "share",
        "test",
    )
    assert (found.name, found.better_than) == ("a", "b")


def test_two_models_alone_by_hand():
    """Agresti & Min (2005): half a sample in each cell of the two-by-two table."""
    ours, theirs = np.zeros(200), np.zeros(200)
    ours[:60], theirs[40:70] = 1, 1  # right: both 20, ours alone 40, theirs alone 10
    found = compare("a", "b", ours[None], theirs[None], "share")
    middle = 30 / 202
    half = 1.959964 * np.sqrt(51 - 30**2 / 202) / 202
    assert found.points.value == pytest.approx(0.15)
    assert (found.points.low, found.points.high) == pytest.approx(
        (middle - half, middle + half), rel=1e-5
    )
    assert (found.decided, found.n_seeds) == ("better", 1)


def test_values_other_than_hits_take_the_paired_t_interval():
    ours, theirs = np.random.default_rng(1).normal(size=(2, 30))
    found = compare("a", "b", ours[None], theirs[None], "")
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.points.low, found.points.high) == pytest.approx((low, high))


def test_a_handful_of_samples_that_agree_decides_nothing():
    found = compare("a", "b", np.ones((1, 2)), np.zeros((1, 2)), "share")
    assert (found.decided, found.points.value) == ("undecided", 1.0)
    assert compare("a", "b", np.ones((1, 50)), np.zeros((1, 50)), "share").decided == "better"


def test_pairing_counts():
    """The same marginals, paired otherwise: what decides is the spread of the differences."""
    draw = np.random.default_rng(0)
    theirs = draw.normal(size=(5, 200))
    ours = theirs + 0.05
    assert compare("a", "b", ours, theirs, "").decided == "better"
    shuffled = np.stack([draw.permutation(row) for row in ours])
    assert compare("a", "b", shuffled, theirs, "").decided == "undecided"


def test_a_swap_turns_everything_round():
    ours = pinned(0.3, 0.01, 0.5)
    better, worse = (compare("x", "y", *pair, "") for pair in ((ours, 0 * ours), (0 * ours, ours)))
    assert (better.decided, worse.decided) == ("better", "worse")
    assert better.points.low == pytest.approx(-worse.points.high)
    assert better.points.value == pytest.approx(0.3)
    assert better.would_decide == worse.would_decide == ""


@pytest.mark.parametrize("side, decided", [(1.001, "better"), (0.999, "undecided")])
def test_the_interval_decides_and_nothing_else(side, decided):
    d = pinned(0.0, 0.02, 0.3, n_seeds=5, n=80)
    by_seed, by_sample = 0.02 / 5, 0.3 / 80
    df = (by_seed + by_sample) ** 2 / (by_seed**2 / 4 + by_sample**2 / 79)
    half = stats.t.ppf(0.975, df) * np.sqrt(by_seed + by_sample)
    assert compare("a", "b", d + side * half, 0 * d, "").decided == decided
    worse = {"better": "worse", "undecided": "undecided"}[decided]
    assert compare("a", "b", d - side * half, 0 * d, "").decided == worse


@pytest.mark.parametrize("n_seeds", [1, 4])
def test_dependent_samples_count_as_their_groups(n_seeds):
    """Each of 10 samples copied 20 times over: no more is known than from the 10."""
    draw = np.random.default_rng(3)
    ten = draw.normal(0.35, 0.5, size=10) + draw.normal(0, 0.05, size=(n_seeds, 10))
    many, groups = np.repeat(ten, 20, axis=1), np.repeat(np.arange(10), 20)
    few, fooled, grouped = (
        compare("a", "b", values, 0 * values, "", group)
        for values, group in ((ten, None), (many, None), (many, groups))
    )
    assert grouped.points.low == pytest.approx(few.points.low)
    assert grouped.points.high == pytest.approx(few.points.high)
    assert fooled.points.low > grouped.points.low + 0.05
    assert grouped.points.n == 200


def test_other_shapes_are_refused():
    for theirs in (np.zeros((3, 4)), np.zeros((1, 5)), np.zeros((2, 5, 1)), np.zeros(5)):
        with pytest.raises(InputError, match=r"'a' and 'b' but got \(2, 5\) and"):
            compare("a", "b", np.zeros((2, 5)), theirs, "")


# What would decide


def test_missing_contributions_decide_nothing():
    ours = np.ones((2, 5))
    ours[1, 3] = np.nan
    found = compare("a", "b", ours, np.zeros((2, 5)), "share")
    assert found.decided == "undecided"
    assert np.isnan(found.points.value)
    assert "undefined" in found.would_decide
    assert found.points.reason


def test_a_difference_of_nothing_stays_level():
    found = compare("a", "b", np.eye(4), np.eye(4), "share")
    assert (found.decided, found.points.value) == ("undecided", 0.0)
    assert "level" in found.would_decide
    assert "level" in what_would_decide(np.array([[0.5]]))  # one sample: no spread to go by


def test_seeds_needed_by_hand():
    """Smallest S with t²(v/S + w) < d², tried one by one."""
    by_seed, by_sample, mean = 0.04, 0.01, 0.05
    needed = next(
        s
        for s in range(5, 1000)
        if stats.t.ppf(0.975, s - 1) ** 2 * (by_seed / s + by_sample / 100) < mean**2
    )
    text = what_would_decide(pinned(mean, by_seed, by_sample))
    assert text == f"About {needed} seeds (now 4) at this difference."
    assert 60 < needed < 90


def test_samples_needed_by_hand():
    one = pinned(0.05, 0.0, 0.25, n_seeds=2)[:1]
    needed = int(np.ceil(one.var(ddof=1) * (1.959964 / 0.05) ** 2))
    text = what_would_decide(one)
    assert text == f"About {needed} test samples (now 100), and more seeds."
    assert needed > 300


def test_when_no_number_of_seeds_suffices_samples_are_asked_for():
    text = what_would_decide(pinned(0.05, 1e-6, 0.25))
    assert number(text, "test samples") == pytest.approx(2 * 0.25 * (1.959964 / 0.05) ** 2, abs=1)
    assert "seeds" not in text  # there are enough of them
    text = what_would_decide(pinned(0.05, 0.04, 0.25))
    assert number(text, "seeds") == pytest.approx(2 * 0.04 * (1.959964 / 0.05) ** 2, abs=1)


def test_what_takes_too_many_seeds_is_level_for_practical_purposes():
    assert "More than 1,000 seeds" in what_would_decide(pinned(0.001, 0.04, 1e-6))


def test_a_smaller_effect_needs_more_seeds():
    needed = [
        number(what_would_decide(pinned(mean, 0.04, 1e-4)), "seeds")
        for mean in (0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
    ]
    assert needed == sorted(needed)
    assert len(set(needed)) == len(needed)
    assert needed[0] < 12 < 300 < needed[-1]


def test_a_smaller_effect_needs_more_samples():
    for n_seeds, by_seed in ((1, 0.0), (4, 0.04)):
        needed = [
            number(what_would_decide(pinned(mean, by_seed, 1.0)[:n_seeds]), "test samples")
            for mean in (0.1, 0.05, 0.02, 0.01)
        ]
        assert needed == sorted(needed)
        assert needed[-1] > 50 * needed[0]


def test_more_is_asked_for_than_there_is():
    draw = np.random.default_rng(5)
    for _ in range(100):
        n_seeds, n = int(draw.integers(1, 6)), int(draw.integers(2, 60))
        d = draw.normal(draw.normal(0, 0.1), 1, (n_seeds, n)) + draw.normal(0, 0.2, (n_seeds, 1))
        found = compare("a", "b", d, 0 * d, "")
        if found.decided != "undecided":
            continue
        numbers = re.findall(
            r"([\d,]+) (?:test samples|seeds) \(now ([\d,]+)\)", found.would_decide
        )
        assert numbers or "More than 1,000 seeds" in found.would_decide
        assert all(int(a.replace(",", "")) > int(b.replace(",", "")) for a, b in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("mean, sd_seed, sd_sample", [(0.03, 0.06, 0.3), (0.08, 0.1, 0.8)])
def test_with_what_it_asks_for_a_like_difference_is_decided_about_half_the_time(
    mean, sd_seed, sd_sample
):
    """The answer solves for the edge of significance, where power is a half."""
    draw, n = np.random.default_rng(0), 2000

    def trial(n_seeds):
        d = mean + sd_seed * draw.normal(size=(n_seeds, 1)) + sd_sample * draw.normal(size=(1, n))
        return compare(
            "a", "b", d + 0.2 * draw.normal(size=(n_seeds, n)), np.zeros((n_seeds, n)), ""
        )

    pilot = pinned(mean, sd_seed**2, sd_sample**2, n_seeds=4, n=n)
    needed = number(what_would_decide(pilot), "seeds")
    assert needed > 8
    power = {
        s: np.mean([trial(s).decided == "better" for _ in range(300)])
        for s in (needed, 4, 3 * needed)
    }
    assert 0.4 < power[needed] < 0.75
    assert power[4] < power[needed] - 0.15
    assert power[3 * needed] > power[needed] + 0.2
