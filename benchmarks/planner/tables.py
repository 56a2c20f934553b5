"""Tables of the planner's searches from their result lines: `python benchmarks/planner/tables.py FILE ...`.

Every world counts once, however many searches it had: means stand with 95 % t intervals over worlds, shares
with Wilson's for that many worlds. Regret is in points of a 0-100 scale.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rivals import YARDSTICKS
from run import finished

from gapkit.probes.interval import mean_interval, proportion_interval

Line = dict[str, Any]
WORTH = 1.0
"""A chain pays where the best one is worth more than this many points over the best single hop."""


def valid(lines: Iterable[Line]) -> list[Line]:
    """The searches that ended."""
    return [line for line in lines if "regret" in line]


def paying(lines: Iterable[Line]) -> list[Line]:
    """Searches of worlds where a chain pays."""
    return [line for line in lines if line["chain_gain"] > WORTH]


def mean(lines: Sequence[Line], of: Callable[[Line], float]) -> str:
    """The mean of worlds' means, with its interval over worlds.

    >>> mean([{"world": w, "x": x} for w, x in (("a", 1.0), ("b", 3.0))], lambda line: line["x"])
    '2.00 [-10.71, 14.71]'
    """
    if not lines:
        return "none"
    found = mean_interval([np.mean(values) for values in _by_world(lines, of).values()])
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def share(lines: Sequence[Line], of: Callable[[Line], float]) -> str:
    """A share in percent: the mean over worlds, with Wilson's 95 % interval for that many worlds.

    >>> share([{"world": n, "x": 1} for n in range(10)], lambda line: line["x"])
    '100 % [72, 100]'
    """
    by_world = _by_world(lines, of)
    if not by_world:
        return "none"
    hits = sum(float(np.mean(found)) for found in by_world.values())
    found = proportion_interval(min(hits, len(by_world)), len(by_world))
    low, value, high = (100 * bound for bound in (found.low, found.value, found.high))
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"


def _by_world(lines: Iterable[Line], of: Callable[[Line], float]) -> dict[str, list[float]]:
    """World -> a number of each of its searches."""
    found: dict[str, list[float]] = {}
    for line in lines:
        found.setdefault(line["world"], []).append(float(of(line)))
    return found


def headline(lines: Sequence[Line]) -> str:
    """The bars as a Markdown table."""
    done = valid(lines)
    sure = [line for line in done if line["covered"] is not None]
    claims = [line for line in done if line["claimed"]]
    rows = [
        ("mean regret, points", "0.4", mean(done, _regret)),
        ("... where a chain pays > 1 point", "1.2", mean(paying(done), _regret)),
        ("chains chosen below the best single hop", "5 %", share(done, _of("false_chain"))),
        ("choices that were never run", "", share(done, lambda line: not line["tried"])),
        ("choices that the budget could not carry out", "", share(done, _unpayable)),
        ("80 % interval holds the true mean", "75-85 %", share(sure, _of("covered"))),
        ("80 % interval holds one run", "75-85 %", share(done, _of("run_covered"))),
        ("claims that an assistant pays", "", share(done, _of("claimed"))),
        ("... that are right", "", share(claims, _of("claim_right"))),
        ("... where a chain pays", "", share(paying(done), _of("claimed"))),
        ("most spent of the budget", "100 %", _most(done)),
        ("worlds, searches, errors", "", _counts(lines)),
        ("seconds a search, median and most", "", _seconds(done)),
    ]
    return markdown(("", "bar", "planner"), rows)


def against(lines: Sequence[Line]) -> str:
    """Each rival's regret on the same searches, and the planner's advantage, paired."""
    both = [line for line in valid(lines) if "rivals" in line]
    false = share(both, _of("false_chain"))
    rows = [("planner", mean(both, _regret), mean(paying(both), _regret), "", false)]
    for name in both[0]["rivals"] if both else ():
        of, false = _rival(name), share(both, _rival(name, "rivals_false"))
        rows.append((name, mean(both, of), mean(paying(both), of), mean(both, _lead(of)), false))
    head = ("", "mean regret", "where a chain pays", "minus the planner's", "false chains")
    return markdown(head, rows)


def _regret(line: Line) -> float:
    return float(line["regret"])


def _of(field: str) -> Callable[[Line], float]:
    return lambda line: float(line[field])


def _unpayable(line: Line) -> bool:
    return not line["payable"]


def _rival(name: str, field: str = "rivals") -> Callable[[Line], float]:
    return lambda line: float(line[field][name])


def _lead(of: Callable[[Line], float]) -> Callable[[Line], float]:
    return lambda line: of(line) - line["regret"]


def _most(lines: Sequence[Line]) -> str:
    return (
        f"{100 * max((line['spent'] / line['budget'] for line in lines), default=math.nan):.0f} %"
    )


def _counts(lines: Sequence[Line]) -> str:
    n_worlds, n_errors = len({line["world"] for line in lines}), len(lines) - len(valid(lines))
    return f"{n_worlds}, {len(lines)}, {n_errors}"


def _seconds(lines: Sequence[Line]) -> str:
    times = [line["seconds"] for line in lines] or [math.nan]
    return f"{np.median(times):.2f}, {max(times):.2f}"


GROUPS: dict[str, Callable[[Line], str]] = {
    "kind": lambda line: line["kind"],
    "budget": lambda line: _band(line["budget"], (3, 8, 20, 39.9)),
    "noise": lambda line: _band(line["noise"], (0.5, 1, 2, 3)),
    "sizes": lambda line: _band(line["n_sizes"], (3, 5, 8, 12)),
    "recipes": lambda line: str(line["n_recipes"]),
    "fractions": lambda line: str(line["n_fractions"]),
}


def _band(value: float, bounds: Sequence[float]) -> str:
    """Where a value lies between rising bounds, numbered so that it sorts.

    >>> _band(4, (3, 5)), _band(6, (3, 5))
    ('1: above 3, up to 5', '2: above 5')
    """
    n_above = sum(value > bound for bound in bounds)
    low = [f"above {bounds[n_above - 1]:g}"] if n_above else []
    high = [f"up to {bounds[n_above]:g}"] if n_above < len(bounds) else []
    return f"{n_above}: " + ", ".join(low + high)


def by(group: str, lines: Sequence[Line]) -> str:
    """Regret, false chains, coverage and rivals for each value of a group."""
    done, key = valid(lines), GROUPS[group]
    rows = []
    for value in sorted({key(line) for line in done}):
        own = [line for line in done if key(line) == value]
        rows.append((value, *_row(own)))
    head = ("worlds", "regret", "false chains", "covers mean", "covers run", "right claims")
    return markdown((group, *head, "best rival"), rows)


def _row(own: Sequence[Line]) -> tuple[str, ...]:
    sure = [line for line in own if line["covered"] is not None]
    claims = [line for line in own if line["claimed"]]
    right = f"{sum(line['claim_right'] for line in claims)} of {len(claims)}"
    return (
        str(len({line["world"] for line in own})),
        mean(own, _regret),
        share(own, _of("false_chain")),
        share(sure, _of("covered")),
        share(own, _of("run_covered")),
        right,
        _best_rival([line for line in own if "rivals" in line]),
    )


def _best_rival(lines: Sequence[Line]) -> str:
    """The rival of least regret on the same budget, beside the planner on the same searches."""
    if not lines:
        return "none"
    names = [name for name in lines[0]["rivals"] if name not in YARDSTICKS]
    found = {name: float(np.mean([line["rivals"][name] for line in lines])) for name in names}
    best = min(found, key=lambda name: found[name])
    return f"{best} {found[best]:.2f} (planner {np.mean([_regret(x) for x in lines]):.2f})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(lines: Sequence[Line], title: str) -> str:
    """All tables of one results file."""
    rivals = (
        "#### Rivals on the same budget; every affordable arm run without a budget, as yardsticks"
    )
    parts = [f"### {title}", headline(lines), rivals, against(lines)]
    for group in GROUPS:
        parts += [f"#### By {group}", by(group, lines)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        print(report(list(finished(path).values()), path.stem))


if __name__ == "__main__":
    main()
