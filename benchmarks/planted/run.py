"""Diagnose the planted failures, one JSON line a case: `python benchmarks/planted/run.py --half tune`.

Lines go to a results file; cases that it holds already are not run again. Every case is trained and
diagnosed in a worker process of one thread, in a folder that is removed afterwards unless it is to be
kept; trained teachers are kept always. What is kept is not trained again when rules change.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import logging
import shutil
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from suite import HALVES, Case, half

FOLDER = Path("runs/planted")


def one_case(
    case: Case, folder: Path, budget: float, controls: bool, keep: bool = False
) -> dict[str, Any]:
    """Plant a case, diagnose it, and say what was found; an error is a finding too."""
    import torch
    from plants import plant

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    line: dict[str, Any] = {
        "id": case.name,
        "half": case.half,
        "truth": list(case.causes),
        "controls": controls,
        "budget": budget if controls else 0.0,
    }
    start = time.perf_counter()
    try:
        planted = plant(case.world, case.causes, case.strength, case.seed, folder, case.name, keep)
        line |= {"took": planted.took, "note": planted.note}
        line["planting"] = round(time.perf_counter() - start, 2)
        if planted.took:
            line |= diagnosed(planted.study, budget, controls)
    except Exception as error:  # the suite goes on; the table counts it
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        line["error"] = f"{type(error).__name__} at {place}: {str(error)[:300]}"
    line["seconds"] = round(time.perf_counter() - start, 2)
    if not keep:
        shutil.rmtree(folder / "studies" / case.name, ignore_errors=True)
    return line


def diagnosed(study: Any, budget: float, controls: bool) -> dict[str, Any]:
    """What gapkit says of a study, as JSON."""
    gap = study.diagnose(controls=controls, budget=budget)
    findings = [
        {
            "cause": finding.cause,
            "points": [finding.points.value, finding.points.low, finding.points.high],
            "confidence": finding.confidence,
            "probability": finding.probability,
        }
        for finding in gap.findings
    ]
    return {
        "cause": gap.cause,
        "findings": findings,
        "teacher": gap.teacher.value,
        "student": gap.student.value,
        "spent": gap.spent,
    }


def finished(path: Path) -> dict[str, dict[str, Any]]:
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
    todo: list[Case],
    path: Path,
    folder: Path,
    budget: float,
    controls: bool,
    n: int,
    keep: bool = False,
) -> None:
    """Run cases in n processes and append their lines as they come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with (
        path.open("a", encoding="utf-8") as out,
        ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool,
    ):
        jobs = [pool.submit(one_case, case, folder, budget, controls, keep) for case in todo]
        for number, job in enumerate(as_completed(jobs), 1):
            line = job.result()
            out.write(json.dumps(line) + "\n")
            out.flush()
            said = line.get("error") or line.get("cause") or "did not take"
            passed = time.perf_counter() - start
            print(f"{number}/{len(todo)} {passed:.0f} s  {line['id']}: {said}", flush=True)


def results_file(folder: Path, name: str, controls: bool, budget: float) -> Path:
    """Where the lines of a half go: one file for each budget, and one without controls."""
    return folder / f"{name}-{f'budget-{budget:g}' if controls else 'no-controls'}.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--half", choices=HALVES, default="tune")
    parser.add_argument("--limit", type=int, default=0, help="cases at most; 0: all")
    parser.add_argument("--only", default="", help="causes, separated by commas")
    parser.add_argument("--budget", type=float, default=16.0)
    parser.add_argument("--no-controls", action="store_true")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="keep students and their studies")
    args = parser.parse_args()
    controls = not args.no_controls
    path = args.results or results_file(args.folder, args.half, controls, args.budget)
    only = set(args.only.split(",")) - {""}
    todo = [case for case in half(args.half) if not only or set(case.causes) <= only]
    known = finished(path)
    todo = [case for case in todo[: args.limit or None] if case.name not in known]
    print(f"{len(todo)} cases to run, results in {path}", flush=True)
    run(todo, path, args.folder, args.budget, controls, args.processes, args.keep)


if __name__ == "__main__":
    main()
