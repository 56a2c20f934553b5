"""Report: what is said, in order; words, tables and references to figures. No drawing, no typesetting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gapkit.record import Record


class Fact(Record):
    """One key figure: what it is, its value as printed, and the interval, n or source behind it."""

    label: str
    value: str
    note: str = ""
    role: Literal["teacher", "student", "reached", "plain"] = "plain"


class Paragraph(Record):
    """Running text; `lead` is set in bold before it; `tone` "note" sets it apart as an aside."""

    kind: Literal["paragraph"] = "paragraph"
    text: str
    lead: str = ""
    tone: Literal["plain", "note"] = "plain"


class Bullets(Record):
    """A list of short statements."""

    kind: Literal["bullets"] = "bullets"
    items: tuple[str, ...] = Field(min_length=1)


class Command(Record):
    """Something to type, printed as it is."""

    kind: Literal["command"] = "command"
    text: str


class Table(Record):
    """Rows under named columns; `widths` are relative, `right` says which columns hold numbers."""

    kind: Literal["table"] = "table"
    caption: str
    columns: tuple[str, ...] = Field(min_length=1)
    rows: tuple[tuple[str, ...], ...] = Field(min_length=1)
    widths: tuple[float, ...]
    right: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _rectangular(self) -> Table:
        wanted = len(self.columns)
        if any(len(row) != wanted for row in self.rows) or len(self.widths) != wanted:
            raise ValueError(f"Expected {wanted} cells and widths in every row of {self.caption!r}")
        return self


class Figure(Record):
    """A reference to a drawing: its name, caption, and what a reader who cannot see it is told."""

    kind: Literal["figure"] = "figure"
    name: str = Field(pattern=r"^[a-z_]+$")
    caption: str
    alt: str = Field(min_length=1)


class Mark(Record):
    """A quality gate on page one: its name and answer; the reason stands further on."""

    name: str
    state: Literal["passed", "failed", "open"]


class Next(Record):
    """Something to do next, what it is expected to bring, and its price; all in words."""

    do: str
    gain: str
    price: str


Block = Annotated[Paragraph | Bullets | Command | Table | Figure, Field(discriminator="kind")]


class Section(Record):
    """A heading and what stands under it."""

    heading: str
    level: Literal[1, 2] = 1
    blocks: tuple[Block, ...] = ()


class Rung(Record):
    """One bar of the way from student to teacher in display units; ends have no `change`."""

    label: str
    value: float
    text: str
    end: bool = False


class Report(Record):
    """Everything a report says, ready for PDF, Markdown or a terminal.

    Attributes:
        title, study: of the document.
        created: ISO date of the run, or "" (it is printed, and dates the PDF).
        headline: the verdict in one sentence.
        verdict: one paragraph for a reader who stops here.
        facts: the strip of key figures below it.
        opener: the figure of page one.
        next: what to do next, the most promising first.
        marks: the quality gates' answers; none where they were not asked.
        ladder: the waterfall in display units, for text output; empty without a diagnosis.
        planned, reached: one line each; what is missing is said.
        sections: in reading order.
    """

    title: str
    study: str
    created: str = ""
    headline: str = ""
    verdict: str
    facts: tuple[Fact, ...] = ()
    opener: Figure | None = None
    next: tuple[Next, ...] = ()
    marks: tuple[Mark, ...] = ()
    ladder: tuple[Rung, ...] = ()
    planned: str = ""
    reached: str = ""
    sections: tuple[Section, ...] = ()

    @property
    def figures(self) -> Iterator[Figure]:
        """Every figure that the report refers to, in reading order."""
        if self.opener is not None:
            yield self.opener
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Figure):
                    yield block

    def has(self, heading: str) -> bool:
        """Whether there is a section of that heading."""
        return any(section.heading == heading for section in self.sections)

    def section(self, heading: str) -> Section:
        """The section of that heading.

        Raises:
            KeyError: when there is none.
        """
        for section in self.sections:
            if section.heading == heading:
                return section
        raise KeyError(heading)
