"""The forecast: against plain formulas, on data drawn from its own law, and on any scale."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t

from gapkit.forecast import (
    MEAN_VARIANCE,
    PRIOR_PATIENCE,
    SCRATCH,
    Arm,
    Forecast,
    Run,
    mixture_quantile,
    systematic,
)
from gapkit.planning.covariance import GRID, LENGTH

SIZES = (16, 8, 4, 1)
DIRECT = Arm((16, 1), "kl")


def runs_of(scores: dict[Arm, list[float]]) -> list[Run]:
    return [Run(arm, seed, s) for arm, many in scores.items() for seed, s in enumerate(many)]


def some_runs(seed: int = 0) -> list[Run]:
    rng = np.random.default_rng(seed)
    arms = [DIRECT, Arm((16, 1), "dist"), Arm((1,), SCRATCH), Arm((16, 8, 1), "kl")]
    level = dict(zip(arms, (0.5, 0.6, 0.55, 0.52)))
    return runs_of({arm: list(level[arm] + 0.03 * rng.normal(size=3)) for arm in arms})


def test_a_mixture_of_one_is_student_t_and_of_two_solves_its_own_cdf():
    one = mixture_quantile(0.9, np.array([[2.0]]), np.array([[3.0]]), np.ones(1), 5.0)
    assert one == pytest.approx(2 + 3 * student_t.ppf(0.9, 5.0))
    mean, scale, weight = np.array([[0.0], [4.0]]), np.array([[1.0], [0.5]]), np.array([0.7, 0.3])
    for q in (0.1, 0.5, 0.8):
        x = mixture_quantile(q, mean, scale, weight, 7.0)[0]
        below = sum(
            w * student_t.cdf((x - m) / s, 7.0) for w, m, s in zip(weight, mean[:, 0], scale[:, 0])
        )
        assert below == pytest.approx(q, abs=1e-9)


def test_what_is_kept_of_a_mixture_has_its_mean_not_its_modes():
    rng = np.random.default_rng(0)
    weight, value = rng.dirichlet(np.full(1000, 0.3)), np.linspace(0, 1, 1000)
    where, count = systematic(weight, 24)
    assert count.sum() == pytest.approx(1.0)
    assert len(where) <= 24
    assert list(count) == sorted(count, reverse=True)
    assert count @ value[where] == pytest.approx(weight @ value, abs=1 / 24)
    assert np.argsort(-weight)[:24] @ np.ones(24) != where.sum()


def test_many_runs_of_one_arm_give_their_mean_and_their_spread():
    rng = np.random.default_rng(1)
    scores = 0.5 + 0.05 * rng.normal(size=120)
    forecast = Forecast(SIZES, runs_of({DIRECT: list(scores)}), teacher_score=0.9)
    mean = forecast.true_mean(DIRECT)
    half = norm.ppf(0.9) * scores.std(ddof=1) / np.sqrt(120)
    assert mean.value == pytest.approx(scores.mean(), abs=0.001)
    assert (mean.high - mean.low) / 2 == pytest.approx(half, rel=0.15)
    assert forecast.run_sd == pytest.approx(scores.std(ddof=1), rel=0.1)
    run = forecast.one_run(DIRECT)
    assert np.mean((scores > run.low) & (scores < run.high)) == pytest.approx(0.8, abs=0.07)


def covariance(v: np.ndarray, a: Arm, b: Arm) -> float:
    """Of two arms of full trainings, with variances v of the components, in plain words."""
    same = float(a.recipe == b.recipe)
    taught = float(len(a.path) > 1 and len(b.path) > 1)
    place = [SIZES.index(arm.path[-2]) / 3 if len(arm.path) > 1 else 0 for arm in (a, b)]
    near = np.exp(-abs(place[0] - place[1]) / LENGTH) * taught
    shared = len(set(a.path[1:-1]) & set(b.path[1:-1]))
    chain = 0.5 * shared + 0.25 * a.n_assistants * b.n_assistants
    path = same * taught * (a.path == b.path)
    return float(v[:5] @ [same, near, near * same, chain, path]) + MEAN_VARIANCE


def of_seeds(point: int, one: tuple[str, int], other: tuple[str, int]) -> float:
    """Covariance of what two seeds add to arms of two recipes."""
    common, by_recipe, _ = GRID.shares[point]
    return (one[1] == other[1]) * (common + by_recipe * (one[0] == other[0]))


def of_runs(point: int, runs: list[Run]) -> np.ndarray:
    """Covariance of scores: arms, seeds and what is each run's own."""
    v, own = GRID.variances[point], GRID.shares[point, 2]
    named = [(run.arm.recipe, run.seed) for run in runs]
    return np.array(
        [
            [covariance(v, a.arm, b.arm) + of_seeds(point, s, t) for b, t in zip(runs, named)]
            for a, s in zip(runs, named)
        ]
    ) + own * np.eye(len(runs))


def test_the_posterior_is_the_gaussian_conditional_computed_the_plain_way():
    """Mean at one grid point against V⁻¹ of a covariance built arm by arm."""
    runs, arms = some_runs(), [DIRECT, Arm((16, 4, 1), "dist", 4.0), Arm((16, 8, 4, 1), "new")]
    fitted = Forecast(SIZES, runs, teacher_score=0.9)
    point = fitted._kept[0]
    z = np.array([run.score for run in runs])
    center = z.mean()
    for arm in arms:
        k = np.array([covariance(GRID.variances[point], arm, run.arm) for run in runs])
        longer = PRIOR_PATIENCE * (0.9 - center) * (1 - arm.fraction**-0.5)
        expected = center + longer + k @ np.linalg.solve(of_runs(point, runs), z - center)
        assert fitted.screen([arm], n_points=1)[0][0] == pytest.approx(expected, abs=1e-6)


def test_what_is_known_of_seeds_is_the_gaussian_conditional_too():
    """Joint covariance of arms and of seeds' effects, at one grid point, in units of a run's variance."""
    runs, arms = some_runs(), [DIRECT, Arm((16, 8, 1), "dist"), Arm((16, 4, 1), "kl")]
    fitted, seeds = Forecast(SIZES, runs, teacher_score=0.9), (0, 2, 7)
    fitted._weight = np.eye(len(fitted._kept))[0]  # all is said by that one point
    found, point = fitted.belief(arms, seeds), fitted._kept[0]
    v, effects = GRID.variances[point], [(r, s) for r in ("kl", "dist") for s in seeds]
    to_runs = [[covariance(v, arm, run.arm) for run in runs] for arm in arms]
    to_runs += [[of_seeds(point, e, (run.arm.recipe, run.seed)) for run in runs] for e in effects]
    prior = np.zeros((9, 9))
    prior[:3, :3] = [[covariance(v, a, b) for b in arms] for a in arms]
    prior[3:, 3:] = [[of_seeds(point, a, b) for b in effects] for a in effects]
    expected = prior - to_runs @ np.linalg.solve(of_runs(point, runs), np.transpose(to_runs))
    scale = fitted._variance[0] * fitted.unit**2
    np.testing.assert_allclose(found.cov / scale, expected, atol=1e-6)
    np.testing.assert_array_equal(found.effects, [[3, 4, 5], [6, 7, 8], [3, 4, 5]])


def test_joint_and_single_forecasts_agree():
    forecast = Forecast(SIZES, some_runs(), teacher_score=0.9)
    arms = [DIRECT, Arm((16, 8, 1), "dist"), Arm((1,), SCRATCH)]
    belief = forecast.belief(arms, seeds=(0, 1, 7))
    mean, sd = forecast.screen(arms, n_points=99)
    np.testing.assert_allclose(belief.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(belief.cov)[:3]), sd, rtol=1e-6)
    assert np.linalg.eigvalsh(belief.cov).min() > -1e-9
    assert belief.effects.shape == (3, 3)
    effect = np.diag(belief.cov)[belief.effects]
    assert (effect[:, 0] < effect[:, 2]).all()  # a seed that was run is known better than a new one


@pytest.mark.parametrize("scale, shift", [(100.0, 0.0), (5000.0, -8000.0), (1e-3, 2.0)])
def test_another_scale_of_scores_changes_nothing_but_the_scale(scale, shift):
    arms = [DIRECT, Arm((16, 4, 1), "dist"), Arm((16, 1), "never seen")]
    plain = Forecast(SIZES, some_runs(), teacher_score=0.9)
    runs = [Run(run.arm, run.seed, shift + scale * run.score) for run in some_runs()]
    scaled = Forecast(SIZES, runs, teacher_score=shift + scale * 0.9)
    for a, b in zip(plain.true_means(arms), scaled.true_means(arms)):
        assert b.value == pytest.approx(shift + scale * a.value, rel=1e-6)
        assert b.high - b.low == pytest.approx(scale * (a.high - a.low), rel=1e-6)


def test_names_and_the_order_of_runs_do_not_matter():
    runs = some_runs()
    renamed = {"kl": "x", "dist": "y", SCRATCH: SCRATCH}
    other = [Run(Arm(r.arm.path, renamed[r.arm.recipe]), r.seed, r.score) for r in runs[::-1]]
    a = Forecast(SIZES, runs, 0.9).true_mean(Arm((16, 4, 1), "dist"))
    b = Forecast(SIZES, other, 0.9).true_mean(Arm((16, 4, 1), "y"))
    assert (a.low, a.value, a.high) == pytest.approx((b.low, b.value, b.high), rel=1e-9)


def test_the_best_of_noisy_arms_is_shrunk_towards_the_others():
    rng = np.random.default_rng(3)
    arms = [Arm((16, 1), f"r{i}") for i in range(10)]
    runs = runs_of({arm: list(0.5 + 0.05 * rng.normal(size=2)) for arm in arms})
    forecast = Forecast(SIZES, runs, teacher_score=0.9)
    raw = {arm: np.mean([r.score for r in runs if r.arm == arm]) for arm in arms}
    best = max(raw, key=lambda arm: raw[arm])
    assert raw[best] > 0.53
    assert 0.5 < forecast.true_mean(best).value < raw[best] - 0.01


def test_paired_seeds_sharpen_differences():
    """A seed that moves every arm alike is learned, and differences get surer than scores."""
    shared = [-0.1, 0.08, 0.02, -0.05]
    arms = [DIRECT, Arm((16, 1), "dist")]
    runs = runs_of({arm: [0.5 + 0.02 * i + s for s in shared] for i, arm in enumerate(arms)})
    belief = Forecast(SIZES, runs, teacher_score=0.9).belief(arms)
    difference = belief.cov[0, 0] + belief.cov[1, 1] - 2 * belief.cov[0, 1]
    assert difference < 0.5 * belief.cov[0, 0]
    assert belief.mean[1] - belief.mean[0] == pytest.approx(0.02, abs=0.005)


def test_many_arms_under_two_seeds_are_no_stand_in_for_many_seeds():
    """Chains of a recipe whose runs agree by the seed: its mean is known no better than by two runs."""
    rng, assistants = np.random.default_rng(0), (12, 8, 4)
    parts = [part for n in range(4) for part in combinations(assistants, n)]
    arms = [Arm((16, *part, 1), recipe) for part in parts for recipe in ("kl", "dist")]
    shared = {"kl": np.array([-0.04, 0.04]), "dist": np.array([0.03, -0.03])}
    runs = {arm: list(0.5 + shared[arm.recipe] + 0.012 * rng.normal(size=2)) for arm in arms}
    predicted = Forecast((16, *assistants, 1), runs_of(runs), teacher_score=0.9).true_mean(DIRECT)
    assert (predicted.high - predicted.low) / 2 > norm.ppf(0.9) * 0.035 / np.sqrt(2)


@pytest.mark.parametrize("gain, exponent", [(0.1, 0.5), (0.15, 0.3), (0.06, 0.8), (0.0, 0.5)])
def test_patience_is_learned_from_short_and_long_runs(gain, exponent):
    """Runs of a quarter to a full training foretell four times as long, whatever the power law."""
    arms = {Arm((16, 1), "kl", f): 0.5 - gain * (f**-exponent - 1) for f in (0.25, 0.5, 1.0)}
    runs = runs_of({arm: [level - 0.003, level + 0.003] for arm, level in arms.items()})
    forecast = Forecast(SIZES, runs, teacher_score=0.9)
    longer, full = forecast.true_mean(Arm((16, 1), "kl", 4.0)), forecast.true_mean(DIRECT)
    assert longer.low < 0.5 - gain * (4.0**-exponent - 1) < longer.high
    straight = gain * (4.0**exponent - 1)  # as much again as was gained from a quarter on
    assert full.value + 0.2 * gain - 0.01 < longer.value < full.value + straight + 0.01
    assert longer.high - longer.low > full.high - full.low


def test_intervals_hold_on_data_drawn_from_such_a_law():
    """80 % intervals of true means and of single runs, over 60 worlds of six arms."""
    rng = np.random.default_rng(7)
    paths = [(16, 1), (16, 8, 1), (16, 4, 1)]
    arms = [Arm(path, recipe) for path in paths for recipe in ("a", "b")]
    held, run_held = [], []
    for _ in range(60):
        effect = {"a": 0.06 * rng.normal(), "b": 0.06 * rng.normal()}
        by_path = {path: 0.04 * rng.normal() for path in paths}
        mean = {arm: 0.5 + effect[arm.recipe] + by_path[arm.path] for arm in arms}
        seeds = {recipe: 0.02 * rng.normal(size=2) for recipe in ("", "a", "b")}
        tried = {arms[i]: seeds[""] + seeds[arms[i].recipe] for i in rng.permutation(6)[:4]}
        forecast = Forecast(
            SIZES,
            runs_of({a: list(mean[a] + s + 0.022 * rng.normal(size=2)) for a, s in tried.items()}),
            teacher_score=0.9,
        )
        for arm, predicted in zip(arms, forecast.true_means(arms)):
            held.append(predicted.low <= mean[arm] <= predicted.high)
        run, new = forecast.one_run(arms[0]), mean[arms[0]] + 0.036 * rng.normal()
        run_held.append(run.low <= new <= run.high)
    assert 0.72 < np.mean(held) < 0.95
    assert 0.65 < np.mean(run_held) < 0.97


def test_without_runs_the_interval_is_wide_around_the_teacher():
    forecast = Forecast(SIZES, [], teacher_score=0.9)
    predicted = forecast.true_mean(DIRECT)
    assert predicted.value == pytest.approx(0.9)
    assert predicted.high - predicted.low > 0.9
    assert forecast.belief([DIRECT]).mean == pytest.approx([0.9])


@pytest.mark.parametrize("score", [0.0, 0.7, -3.0, 1e9])
def test_equal_scores_and_a_teacher_without_lead_are_no_trouble(score):
    runs = runs_of({DIRECT: [score] * 3, Arm((1,), SCRATCH): [score] * 3})
    predicted = Forecast(SIZES, runs, teacher_score=score).true_mean(DIRECT)
    assert predicted.value == pytest.approx(score, abs=1e-6 * max(1, abs(score)))
    assert predicted.low < predicted.high


def test_three_hundred_runs_are_still_exact():
    rng = np.random.default_rng(0)
    arms = [Arm((16, 1), f"r{i}") for i in range(6)]
    runs = runs_of({arm: list(0.1 * i + rng.normal(size=50)) for i, arm in enumerate(arms)})
    values = [p.value for p in Forecast(SIZES, runs, teacher_score=5.0).true_means(arms)]
    assert np.all(np.isfinite(values))
    assert np.corrcoef(values, 0.1 * np.arange(6))[0, 1] > 0.3
