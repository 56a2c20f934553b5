"""Search simulated and recorded worlds, one JSON line a search: `python benchmarks/planner/run.py --half tune`.

Lines go to a results file; searches that it holds already are not run again. Nothing is trained.

The report half's worlds are numbered from 13001 (worlds.FIRST), the tuning half's from 0: no search was
tuned on, or looked at in, a world that it reports. Every world is searched under 20 streams of scores, and
by the rivals under one: about 70 minutes a half on two cores, and less with fewer --seeds.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import recorded
import worlds
from arms import World
from rivals import RIVALS, YARDSTICKS, exhaustive

from gapkit.forecast import Arm
from gapkit.planner import Choice, Planner

FOLDER = Path("runs/planner")
HALVES = (*worlds.HALVES, recorded.HALF, "small")
N_SEEDS, N_RIVAL_SEEDS = 20, 1

Line = dict[str, Any]


def listed(half: str) -> list[Callable[[], World]]:
    """The worlds of a half, or those of small budgets, each made when called."""
    if half == recorded.HALF:
        return [_later(recorded.recorded, *which) for which in recorded.students()]
    found = worlds.small() if half == "small" else worlds.half(half)
    return [_later(worlds.simulated, *which) for which in found]


def _later(make: Callable[..., World], *which: Any) -> Callable[[], World]:
    return lambda: make(*which)


def planned(world: World, stream: int = 0) -> tuple[Choice, float]:
    """What the planner chooses after spending the budget, and what it spent."""
    planner = Planner(
        world.sizes,
        world.cost,
        world.recipes,
        world.budget,
        world.teacher_score,
        fractions=world.fractions,
        seed=stream,
    )
    while (trial := planner.ask()) is not None:
        planner.tell(trial, world.draw(trial, stream))
    return planner.choose(), planner.spent


def searched(world: World, name: str, stream: int = 0) -> tuple[Arm, float]:
    """What a rival names after spending the budget, and what it spent."""
    search = RIVALS[name](world, seed=stream)
    while (trial := search.ask()) is not None:
        search.tell(trial, world.draw(trial, stream))
    return search.choose(), search.spent


def described(world: World) -> Line:
    """What is true of the world, in points of a 0-100 scale."""
    return {
        "kind": world.kind,
        "half": world.half,
        "n_sizes": len(world.sizes),
        "n_recipes": len(world.recipes),
        "n_fractions": len(world.fractions),
        "noise": round(world.noise, 3),
        "budget": round(world.budget, 3),
        "n_arms": len(world.affordable),
        "chain_gain": round(world.chain_gain, 4),
    }


def judged(world: World, choice: Choice, stream: int) -> Line:
    """The planner's choice against the truth.

    Fields: regret (points); chain: has an assistant; false_chain: though its true mean is below the best
    single hop's; claimed, claim_right: assistant_pays and whether the true means agree; payable: the
    budget could carry it out (regret is against such arms); covered, run_covered: share of the 80 %
    intervals' targets inside (the true mean; fresh runs). In recorded worlds true means are not known:
    covered is None.
    """
    arm = Arm(choice.path, choice.recipe, choice.fraction)
    mean = world.true_mean(arm.path, arm.recipe, arm.fraction)
    run, fresh = choice.predicted_run, world.fresh(arm, stream)
    inside = choice.predicted.low <= mean <= choice.predicted.high
    return {
        "arm": [list(arm.path), arm.recipe, arm.fraction],
        "regret": round(world.regret(arm), 4),
        "chain": arm.n_assistants > 0,
        "false_chain": world.false_chain(arm),
        "claimed": choice.assistant_pays,
        "claim_right": bool(choice.assistant_pays and mean > world.best_single),
        "payable": arm in world.affordable,
        "tried": choice.tried,
        "n_runs": choice.n_runs,
        "covered": None if world.half == recorded.HALF else inside,
        "run_covered": float(np.mean([run.low <= score <= run.high for score in fresh])),
        "width": round((choice.predicted.high - choice.predicted.low) / world.unit, 4),
    }


def one_search(world: World, stream: int, rivals: bool) -> Line:
    """The line of one world and one stream of scores; an error is a finding too."""
    line: Line = {"id": f"{world.name}/{stream}", "world": world.name, "stream": stream}
    line |= described(world)
    start = time.perf_counter()
    try:
        choice, spent = planned(world, stream)
    except Exception as error:  # the run goes on; the table counts it
        return line | {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    line["seconds"] = round(time.perf_counter() - start, 3)
    line |= {"spent": round(spent, 3)} | judged(world, choice, stream)
    if rivals:
        named = {name: searched(world, name, stream)[0] for name in RIVALS}
        named |= {name: exhaustive(world, stream, n) for name, n in YARDSTICKS.items()}
        line["rivals"] = {name: round(world.regret(arm), 4) for name, arm in named.items()}
        line["rivals_false"] = {name: world.false_chain(arm) for name, arm in named.items()}
    return line


def one_world(
    half: str, index: int, streams: list[int], n_rival_seeds: int, n_each: int = 1
) -> list[Line]:
    """The lines of one world."""
    world = listed(half)[index]()
    world.n_seeds = n_each
    return [one_search(world, stream, stream < n_rival_seeds) for stream in streams]


def finished(path: Path) -> dict[str, Line]:
    """Id -> line of what a results file holds; a line cut off by an interruption does not count."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        found[line["id"]] = line
    return found


def run(
    half: str,
    path: Path,
    limit: int,
    seeds: int,
    rival_seeds: int,
    n: int,
    n_each: int = 1,
) -> None:
    """Search the first `limit` worlds (0: all) in n processes; lines are appended world by world."""
    known = finished(path)
    makers = listed(half)
    todo = []
    for index in range(len(makers))[: limit or None]:
        name = makers[index]().name
        streams = [stream for stream in range(seeds) if f"{name}/{stream}" not in known]
        todo += [(index, streams)] if streams else []
    print(f"{len(todo)} worlds to search, results in {path}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with (
        path.open("a", encoding="utf-8") as out,
        ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool,
    ):
        jobs = [pool.submit(one_world, half, index, s, rival_seeds, n_each) for index, s in todo]
        for number, job in enumerate(as_completed(jobs), 1):
            lines = job.result()
            out.writelines(json.dumps(line) + "\n" for line in lines)
            out.flush()
            passed = time.perf_counter() - start
            print(f"{number}/{len(todo)} {passed:.0f} s  {_said(lines)}", flush=True)


def _said(lines: list[Line]) -> str:
    regrets = [line["regret"] for line in lines if "regret" in line]
    mean = f"{np.mean(regrets):.2f} points" if regrets else "errors"
    return f"{lines[0]['world']}: regret {mean} over {len(lines)} searches"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--half", choices=HALVES, default="tune")
    parser.add_argument("--limit", type=int, default=0, help="worlds at most; 0: all")
    parser.add_argument("--seeds", type=int, default=N_SEEDS, help="searches a world")
    parser.add_argument("--rival-seeds", type=int, default=N_RIVAL_SEEDS)
    parser.add_argument(
        "--each",
        type=int,
        default=1,
        help="seeds an arm of the exhaustive search that the budget is a quarter of",
    )
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    again = "" if args.each == 1 else f"-{args.each}"
    path = args.results or FOLDER / f"{args.half}{again}.jsonl"
    run(args.half, path, args.limit, args.seeds, args.rival_seeds, args.processes, args.each)


if __name__ == "__main__":
    main()
