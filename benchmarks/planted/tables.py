"""Tables of the planted suite from its result lines: `python benchmarks/planted/tables.py FILE ...`.

Every share stands with Wilson's interval and its n. A diagnosis of a case with two causes is right when it
names either; "named" is whatever is not undetermined.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from run import finished

from gapkit.probes.interval import proportion_interval

Line = dict[str, Any]
STATED = {"high": 0.95, "moderate": 0.8, "low": 0.6}
"""What a stated confidence promises, as a share of right verdicts."""

SILENT = ("undetermined", "no_gap")
HEALTHY = "no_gap"


def valid(lines: Iterable[Line]) -> list[Line]:
    """The lines whose plant took and whose diagnosis ended."""
    return [line for line in lines if line.get("took") and "cause" in line]


def right(line: Line) -> bool:
    """Whether the leading cause is one of those planted."""
    return line["cause"] in line["truth"]


def failing(lines: Iterable[Line]) -> list[Line]:
    """Valid lines with a planted cause."""
    return [line for line in valid(lines) if HEALTHY not in line["truth"]]


def healthy(lines: Iterable[Line]) -> list[Line]:
    """Valid lines of healthy pairs."""
    return [line for line in valid(lines) if HEALTHY in line["truth"]]


def named(lines: Iterable[Line]) -> list[Line]:
    """Lines that name a cause."""
    return [line for line in lines if line["cause"] != "undetermined"]


def is_alarm(line: Line) -> bool:
    """Whether a cause is raised, by the leading verdict."""
    return line["cause"] not in SILENT


def share(lines: Sequence[Line], of: Callable[[Line], bool]) -> str:
    """A share in percent with Wilson's 95 % interval and n.

    >>> share([{"x": 1}] * 10, lambda line: True)
    '100 % [72, 100], n = 10'
    """
    found = proportion_interval(sum(map(of, lines)), len(lines))
    if math.isnan(found.value):
        return "none"
    low, value, high = (100 * bound for bound in (found.low, found.value, found.high))
    return f"{value:.0f} % [{low:.0f}, {high:.0f}], n = {len(lines)}"


def promised(line: Line) -> float:
    """The stated probability of the leading finding; where a line has none, what its word promises."""
    lead = next(item for item in line["findings"] if item["cause"] == line["cause"])
    return float(lead.get("probability", STATED[lead["confidence"]]))


def calibration_error(lines: Sequence[Line], n_bins: int = 10) -> float:
    """Expected calibration error Σ_b n_b/n · |share right − mean confidence| over equal bins.

    nan without lines.
    """
    if not lines:
        return math.nan
    sure = np.array([promised(line) for line in lines])
    hits = np.array([right(line) for line in lines], dtype=float)
    bins = np.minimum((sure * n_bins).astype(int), n_bins - 1)
    parts = [abs(float((hits - sure)[bins == bin_].sum())) for bin_ in np.unique(bins)]
    return sum(parts) / len(lines)


def headline(lines: Sequence[Line]) -> str:
    """The bars of the suite as a Markdown table."""
    sick, well = failing(lines), healthy(lines)
    alone = [line for line in sick if len(line["truth"]) == 1]
    double = [line for line in sick if len(line["truth"]) > 1]
    spoken = named(valid(lines))
    tried = [line for line in lines if "took" in line]
    spent = [line["spent"] for line in valid(lines)]
    rows = [
        ("top-1 accuracy, failing students", share(sick, right)),
        ("... one cause", share(alone, right)),
        ("... two causes, either named first", share(double, right)),
        ("... two causes, both among the findings", share(double, _both_found)),
        ("precision among named", share(named(sick), right)),
        ("coverage (named)", share(sick, lambda line: line["cause"] != "undetermined")),
        ("false alarms on healthy pairs", share(well, is_alarm)),
        ("calibration error of stated confidence", f"{calibration_error(spoken):.3f}"),
        ("median cost, student trainings", f"{np.median(spent):.1f}" if spent else "none"),
        ("plants that took", share(tried, lambda line: bool(line["took"]))),
        ("errors", str(sum("error" in line for line in lines))),
    ]
    return _markdown(("", ""), rows)


def _both_found(line: Line) -> bool:
    return set(line["truth"]) <= {item["cause"] for item in line["findings"]}


def by_cause(lines: Sequence[Line]) -> str:
    """Each planted cause: how many took, how often it leads, how often it is among the findings."""
    rows = []
    for cause in dict.fromkeys("+".join(line["truth"]) for line in lines):
        own = [line for line in lines if "+".join(line["truth"]) == cause]
        taken = valid(own)
        taken_of = f"{len(taken)} of {len(own)}"
        rows.append((cause, taken_of, share(taken, right), share(taken, _one_found)))
    return _markdown(("planted", "valid", "leads", "among the findings"), rows)


def _one_found(line: Line) -> bool:
    return bool(set(line["truth"]) & {item["cause"] for item in line["findings"]})


def confusion(lines: Sequence[Line]) -> str:
    """Planted causes against what gapkit named; blank for none."""
    counts = Counter(("+".join(line["truth"]), line["cause"]) for line in valid(lines))
    planted = list(dict.fromkeys(truth for truth, _ in counts))
    said = list(dict.fromkeys([*planted, *(cause for _, cause in counts)]))
    said = [cause for cause in said if any(counts[truth, cause] for truth in planted)]
    rows = [(truth, *(str(counts[truth, cause] or "") for cause in said)) for truth in planted]
    return _markdown(("planted \\ named", *said), rows)


def calibration(lines: Sequence[Line]) -> str:
    """Stated confidence against the share that is right."""
    spoken = named(valid(lines))
    rows = []
    for low, high in pairwise((0.0, 0.6, 0.8, 0.9, 0.95, 1.01)):
        part = [line for line in spoken if low <= promised(line) < high]
        if part:
            mean = float(np.mean([promised(line) for line in part]))
            rows.append((f"{low:.2f} to {min(high, 1.0):.2f}", f"{mean:.2f}", share(part, right)))
    return _markdown(("stated", "mean", "right"), rows)


def wrong(lines: Sequence[Line]) -> str:
    """The wrong verdicts and the errors, one a line."""
    rows = [
        (line["id"], line["cause"], line["findings"][0]["confidence"], line.get("note", ""))
        for line in valid(lines)
        if not right(line)
    ]
    rows += [(line["id"], "error", "", line["error"]) for line in lines if "error" in line]
    return _markdown(("case", "named", "stated", "proofs, points"), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(lines: Sequence[Line], title: str) -> str:
    """All tables of one results file."""
    parts = {
        "": headline(lines),
        "By cause": by_cause(lines),
        "Confusion": confusion(lines),
        "Stated confidence": calibration(lines),
        "Wrong": wrong(lines),
    }
    blocks = [f"#### {name}\n\n{text}" if name else text for name, text in parts.items()]
    return "\n\n".join([f"### {title}", *blocks]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        print(report(list(finished(path).values()), path.stem))


if __name__ == "__main__":
    main()
