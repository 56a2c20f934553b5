"""Judge the planner by replay: regret, coverage and false claims, without training anything.

    python benchmarks/replay.py                 every world, 12 repeats, report seeds
    python benchmarks/replay.py --worlds digits-1 heavy-noise --repeats 40 --split tune

A world answers trials from a recorded table or from a generator whose true means are known. Regret is the
best true mean of all arms minus the true mean of the chosen one. Generators have two sets of random seeds:
"tune" was used while the planner was written, "report" for the figures quoted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from gapkit.forecast import SCRATCH, Arm
from gapkit.planner import Choice, Planner, Trial

TABLE = Path(__file__).parent / "tables" / "digits.jsonl"
BUDGETS = (3.0, 6.0, 12.0, 24.0)
SPLITS = {"tune": 1000, "report": 2000}


@dataclass
class World:
    """Answers trials; knows the true mean of every arm that ends at the student."""

    sizes: tuple
    recipes: tuple[str, ...]
    teacher_score: float
    means: dict[Arm, float]
    draw: Callable[[Trial], float]
    fractions: tuple[float, ...] = (1.0,)
    cost: dict = field(default_factory=dict)
    mean_of: Callable[[Arm], float] | None = None  # for chains longer than those in `means`

    def __post_init__(self) -> None:
        n = len(self.sizes)
        self.cost = self.cost or {s: 1.0 + 0.8 * (n - 1 - i) / n for i, s in enumerate(self.sizes)}

    def mean(self, arm: Arm) -> float:
        """The true mean of an arm."""
        return self.means[arm] if self.mean_of is None else self.mean_of(arm)

    @property
    def best(self) -> float:
        """The best true mean."""
        return max(self.means.values())

    @property
    def spread(self) -> float:
        """Best minus worst true mean."""
        return self.best - min(self.means.values()) or 1.0

    @property
    def best_single(self) -> float:
        """The best true mean of scratch and single hops."""
        return max(mean for arm, mean in self.means.items() if arm.n_assistants == 0)


def arms_of(sizes: tuple, recipes: tuple[str, ...], fractions: tuple[float, ...]) -> list[Arm]:
    """Scratch, single hops and chains (all of few sizes, up to two assistants of many)."""
    most = len(sizes) - 2 if len(sizes) <= 7 else 2
    arms = []
    for fraction in fractions:
        arms.append(Arm((sizes[-1],), SCRATCH, fraction))
        for recipe in recipes:
            for count in range(most + 1):
                arms += [
                    Arm((sizes[0], *chosen, sizes[-1]), recipe, fraction)
                    for chosen in combinations(sizes[1:-1], count)
                ]
    return arms


def digits(student: int, rng: np.random.Generator) -> World:
    """The recorded table with its eight seeds in random order; accuracy."""
    scores: dict[Arm, dict[int, float]] = defaultdict(dict)
    for line in TABLE.read_text().splitlines():
        row = json.loads(line)
        scores[Arm(tuple(row["path"]), row["recipe"])][row["seed"]] = row["acc"]
    order = rng.permutation(8)
    return World(
        sizes=tuple(size for size in (32, 12, 6, 3, 1) if size >= student),
        recipes=tuple(rng.permutation(["kl4", "kl1", "dist1"])),
        teacher_score=float(np.mean(list(scores[Arm((32,), SCRATCH)].values()))),
        means={
            arm: float(np.mean(list(runs.values())))
            for arm, runs in scores.items()
            if arm.path[-1] == student and (len(arm.path) > 1 or arm.recipe == SCRATCH)
        },
        draw=lambda trial: scores[Arm(trial.path, trial.recipe)][int(order[trial.seed % 8])],
        cost={12: 1.6, 6: 1.3, 3: 1.1, 1: 1.0},
    )


@dataclass
class Law:
    """How a synthetic world's true means come about, in shares of the gap."""

    recipe: float = 0.1
    assistant: float = 0.0
    hop: float = 0.0
    mixed: float = 0.02
    patience: float = 0.04
    noise: float = 0.06
    seed_share: float = 0.4
    crash: float = 0.0
    n_sizes: int = 5
    n_recipes: int = 3
    fractions: tuple[float, ...] = (1.0,)
    scale: tuple[float, float] = (0.5, 0.4)


LAWS: dict[str, Law] = {
    "assistants-help": Law(assistant=0.3, recipe=0.08),
    "assistants-hurt": Law(assistant=-0.2, hop=-0.05),
    "recipe-decides": Law(recipe=0.25, mixed=0.01),
    "heavy-noise": Law(recipe=0.08, assistant=0.05, noise=0.15),
    "patience": Law(patience=0.12, recipe=0.06, fractions=(0.25, 1.0, 4.0)),
    "all-equal": Law(recipe=0.0, mixed=0.0, patience=0.0),
    "twenty-sizes": Law(assistant=0.2, n_sizes=20, recipe=0.08),
    "twelve-recipes": Law(recipe=0.12, n_recipes=12),
    "thousands": Law(assistant=0.1, scale=(-8000.0, 5000.0)),
    "losses": Law(recipe=0.15, scale=(-2.3, 2.0)),
    "non-additive": Law(recipe=0.06, mixed=0.12, noise=0.05),
    "crashing-seeds": Law(recipe=0.12, crash=0.08),
}
"""Score = base + gap·scale: e.g. accuracy .5 with a gap of .4; negative losses; thousands."""


def synthetic(law: Law, rng: np.random.Generator) -> World:
    """A world drawn from the law."""
    base, gap = law.scale
    sizes = tuple(range(law.n_sizes, 0, -1))
    recipes = tuple(f"r{i}" for i in range(law.n_recipes))
    arms = arms_of(sizes, recipes, law.fractions)
    effect = {name: law.recipe * rng.normal() for name in (*recipes, SCRATCH)}
    peak, width = rng.uniform(0.3, 0.9), rng.uniform(0.15, 0.4)
    steep = law.patience * rng.uniform(0.5, 1.5)
    odd = {
        arm: law.mixed * rng.normal() for arm in dict.fromkeys(Arm(a.path, a.recipe) for a in arms)
    }

    def mean_of(arm: Arm) -> float:
        rank = sizes.index(arm.path[-1]) / (len(sizes) - 1)
        value = effect[arm.recipe] + odd.get(Arm(arm.path, arm.recipe), 0.0) + (1 - rank) * 0.9
        if arm.n_assistants:
            last = sizes.index(arm.path[-2]) / (len(sizes) - 1)
            value += law.assistant * np.exp(-(((last - peak) / width) ** 2))
            value += law.hop * arm.n_assistants
        return value + steep * (1.6 - 1.6 * 2 ** (-np.log2(arm.fraction * 4) / 2))

    noise = law.noise * rng.uniform(0.6, 1.6)
    shared = {seed: rng.normal() for seed in range(600)}
    private: dict[Trial, tuple[float, float]] = {}

    def draw(trial: Trial) -> float:
        if trial not in private:
            private[trial] = (rng.normal(), rng.uniform())
        own, luck = private[trial]
        mix = np.sqrt(law.seed_share) * shared[trial.seed] + np.sqrt(1 - law.seed_share) * own
        value = mean_of(Arm(trial.path, trial.recipe, trial.fraction)) + noise * mix
        return base + gap * (value - (0.8 if luck < law.crash else 0.0))

    def true(arm: Arm) -> float:
        return base + gap * (mean_of(arm) - 0.8 * law.crash)

    means = {arm: true(arm) for arm in arms}
    return World(sizes, recipes, base + gap, means, draw, law.fractions, mean_of=true)


def worlds(names: list[str], split: str, repeats: int) -> Iterator[tuple[str, World, int]]:
    """Every named world, several times; the random state is the same for all planners."""
    for name in names:
        for repeat in range(repeats):
            rng = np.random.default_rng([SPLITS[split], repeat, sum(map(ord, name))])
            if name.startswith("digits-"):
                yield name, digits(int(name.split("-")[1]), rng), repeat
            else:
                yield name, synthetic(LAWS[name], rng), repeat


def price(world: World, arm: Arm) -> float:
    """Student trainings that one run of the arm takes, its prefix included."""
    return sum(world.cost[size] for size in arm.path[-1:] + arm.path[1:-1]) * arm.fraction


def planned(world: World, budget: float, seed: int) -> Choice:
    """What the planner chooses after spending the budget."""
    planner = Planner(
        world.sizes,
        world.cost,
        world.recipes,
        budget,
        world.teacher_score,
        fractions=world.fractions,
        seed=seed,
    )
    while (trial := planner.ask()) is not None:
        planner.tell(trial, world.draw(trial))
    return planner.choose()


def sampled(world: World, arms: list[Arm], budget: float, rng: np.random.Generator) -> Arm:
    """Round robin over arms in random order while the budget lasts; the best mean wins."""
    scores: dict[Arm, list[float]] = defaultdict(list)
    order = [arms[i] for i in rng.permutation(len(arms))]
    for turn in range(60):
        for arm in order:
            if price(world, arm) <= budget:
                budget -= price(world, arm)
                scores[arm].append(world.draw(Trial(arm.path, arm.recipe, turn, arm.fraction)))
    return max(scores, key=lambda arm: np.mean(scores[arm])) if scores else order[0]


def baselines(world: World, budget: float, rng: np.random.Generator) -> dict[str, float]:
    """Regret of simpler ways to decide."""
    arms = list(world.means)
    full = max(f for f in world.fractions if f <= 1)
    middle = world.sizes[len(world.sizes) // 2]
    picks = {
        "random": arms[rng.integers(len(arms))],
        "uniform": sampled(world, arms, budget, rng),
        "singles": sampled(world, [a for a in arms if a.n_assistants == 0], budget, rng),
        "direct": Arm((world.sizes[0], world.sizes[-1]), world.recipes[0], full),
        "assistant": Arm((world.sizes[0], middle, world.sizes[-1]), world.recipes[0], full),
    }
    return {name: world.best - world.means[arm] for name, arm in picks.items()}


def replay(world: World, budget: float, seed: int) -> dict[str, float]:
    """One search and its baselines: regrets (score units), coverage, claims."""
    choice = planned(world, budget, seed)
    arm = Arm(choice.path, choice.recipe, choice.fraction)
    mean = world.mean(arm)
    fresh = [world.draw(Trial(arm.path, arm.recipe, 500 + i, arm.fraction)) for i in range(8)]
    run = choice.predicted_run
    held = [
        a.predicted.low <= world.mean(Arm(a.path, a.recipe, a.fraction)) <= a.predicted.high
        for a in choice.alternatives
    ]
    return {
        "planner": world.best - mean,
        **baselines(world, budget, np.random.default_rng(seed)),
        "spread": world.spread,
        "covered": float(choice.predicted.low <= mean <= choice.predicted.high),
        "run_covered": float(np.mean([run.low <= score <= run.high for score in fresh])),
        "all_covered": float(np.mean(held)),
        "claimed": float(choice.assistant_pays),
        "false": float(choice.assistant_pays and mean <= world.best_single + 1e-12),
    }


REGRETS = ("planner", "random", "uniform", "singles", "direct", "assistant")


def table(rows: dict[tuple[str, float], list[dict[str, float]]]) -> Iterator[str]:
    """Lines: mean regret as share of the spread, coverage of 80 % intervals, claims."""
    yield (
        f"{'world':<17}{'budget':>7}{'n':>4}{'regret':>10}{'±se':>9}"
        + "".join(f"{name:>10}" for name in REGRETS)
        + f"{'cover':>8}{'all':>6}{'run':>6}{'claims':>8}{'false':>7}"
    )
    for (name, budget), runs in rows.items():
        mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        regret = [run["planner"] for run in runs]
        share = {key: float(np.mean([run[key] / run["spread"] for run in runs])) for key in REGRETS}
        yield (
            f"{name:<17}{budget:>7g}{len(runs):>4}{mean['planner']:>10.4g}"
            f"{np.std(regret) / max(1, len(runs) - 1) ** 0.5:>9.2g}"
            + "".join(f"{share[key]:>10.3f}" for key in REGRETS)
            + f"{mean['covered']:>8.2f}{mean['all_covered']:>6.2f}{mean['run_covered']:>6.2f}"
            f"{mean['claimed']:>8.2f}{mean['false']:>7.2f}"
        )


def main() -> None:
    known = ["digits-1", "digits-3", *LAWS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worlds", nargs="+", choices=known, default=known)
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--split", choices=SPLITS, default="report")
    args = parser.parse_args()
    start = time.perf_counter()
    rows: dict[tuple[str, float], list[dict[str, float]]] = defaultdict(list)
    for budget in args.budgets:
        for name, world, repeat in worlds(args.worlds, args.split, args.repeats):
            rows[(name, budget)].append(replay(world, budget, repeat))
    order = sorted(rows, key=lambda key: (known.index(key[0]), key[1]))
    for line in table({key: rows[key] for key in order}):
        print(line)
    every = [run for runs in rows.values() for run in runs]
    print(
        f"all: regret share {np.mean([r['planner'] / r['spread'] for r in every]):.3f}, "
        f"covered {np.mean([r['covered'] for r in every]):.2f} (n = {len(every)}), "
        f"false claims {sum(r['false'] for r in every):g} of {sum(r['claimed'] for r in every):g}, "
        f"{time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
