"""Quality gates: whether the distillation was done well, each answer with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from gapkit.reports.report import Section, Table
from gapkit.reports.results import Results

HEADING = "Quality gates"
MARKS = {"passed": "✓ passed", "failed": "✗ failed", "open": "○ open"}


def quality(results: Results) -> Iterator[Section]:
    """The gates' answers as a table; nothing where none was asked."""
    gates = results.gates
    if not gates:
        return
    counts = [f"{sum(g.state == state for g in gates)} {state}" for state in MARKS]
    table = Table(
        caption=f"Whether the distillation was set up and checked as it should be: {', '.join(counts)}. "
        "Open: not measured yet; the reason says what settles it.",
        columns=("Gate", "Answer", "Reason"),
        rows=tuple((gate.name, MARKS[gate.state], gate.reason) for gate in gates),
        widths=(1.5, 0.9, 4.6),
    )
    yield Section(heading=HEADING, blocks=(table,))
