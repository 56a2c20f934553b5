"""How to reproduce: command, seeds, versions, fingerprints; how to read the numbers; the words used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gapkit.reports.report import Block, Bullets, Command, Paragraph, Section, Table
from gapkit.reports.results import Results, matrix_of
from gapkit.wording import words

GLOSSARY = (
    ("teacher, student", "the large network whose behavior is passed on, and the small one that learns it"),
    ("assistant", "a network of a size in between: taught by the teacher, it teaches the student"),
    ("distillation", "training a student on a teacher's outputs besides, or instead of, the labels"),
    ("temperature (τ)", "softens the teacher's probabilities before they are taught; 1 leaves them as they are"),
    ("kl4, kl1", "knowledge taught by matching probabilities (KL divergence) at temperature 4 or 1"),
    ("dist1", "knowledge taught by matching the order of probabilities (DIST) at temperature 1, gentler than KL"),
    ("std2", "KL at temperature 2 on logits brought to one scale"),
    ("scratch", "training on the labels alone, without a teacher"),
    ("points", "percentage points: the difference between two percentages"),
    ("interval", "the range in which the true value plausibly lies; 95 % unless another level is said"),
    ("n", "samples behind a number; for trainings, seeds"),
    ("seed", "the start of the random numbers of one training; other seeds give other students"),
    ("validation, test", "samples that decide, and samples that only report; no decision here saw the test split"),
    ("CKA", "similarity of two layers' responses to the same samples: 0 unrelated, 1 equal up to rotation and scale"),
    ("linear probe", "a linear classifier trained on a layer's responses; tells what can easily be read off it"),
    ("student training", "unit of cost: one full training of the student"),
)  # fmt: skip


def reproduce(results: Results) -> tuple[Section, ...]:
    """The last part: reproduction, reading notes, glossary."""
    return (
        Section(heading="How to reproduce", blocks=tuple(_manifest(results))),
        Section(heading="How to read the numbers", blocks=tuple(_notes(results))),
        Section(heading="Words used", blocks=(_glossary(),)),
    )


def _manifest(results: Results) -> Iterator[Block]:
    manifest = dict(results.manifest)
    command = manifest.pop("command", "")
    if command:
        yield Paragraph(
            text="This command repeats the study; finished work in the folder is not repeated."
        )
        yield Command(text=str(command))
    rows = tuple(flattened(manifest))
    if rows:
        yield Table(
            caption="What the numbers rest on.",
            columns=("What", "Value"),
            rows=rows,
            widths=(1.0, 2.6),
        )
    if not command and not rows:
        yield Paragraph(
            text="This report was made outside a run folder: seeds and versions are not known."
        )


def flattened(manifest: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of every entry; nested ones are named by their path.

    >>> list(flattened({"seed": 0, "versions": {"torch": "2.6"}}))
    [('seed', '0'), ('versions: torch', '2.6')]
    """
    for key, value in manifest.items():
        name = f"{prefix}{words(str(key))}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name}: ")
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(str(item) for item in value) or "none"
        else:
            yield name, str(value)


def _notes(results: Results) -> Iterator[Block]:
    items = [
        "Every score is given with a 95 % interval and the number of samples n. An interval over samples "
        "says what other samples would give; an interval over seeds, what other trainings would.",
        "Differences between two models are paired: computed on the same samples, so that easy and hard "
        "samples cancel.",
        "Validation decides, test reports: the diagnosis, the plan and the choice among seeds never saw the "
        "test split.",
        "CKA describes, it does not decide: it shows where two networks differ, and no study shows that it "
        "predicts whether distillation works. Untrained networks already resemble each other; judge a value "
        "against the untrained student's.",
        "A forecast is a statement about trainings not yet made; its interval is narrower or wider than 95 % "
        "where another level is said.",
    ]
    matrix = matrix_of(results.measurements, "cka")
    if matrix is not None:
        reduce = {"gap": "averaged over positions", "flatten": "flattened"}.get(
            matrix.reduce, f"pooled to {matrix.reduce}"
        )
        how = f" ({matrix.estimator})" if matrix.estimator else ""
        items.append(
            f"How maps become vectors moves CKA more than any estimator does; here they were {reduce}{how}."
        )
    yield Bullets(items=tuple(items) + results.measurements.notes)


def _glossary() -> Table:
    return Table(
        caption="Words used in this report.",
        columns=("Word", "Meaning"),
        rows=GLOSSARY,
        widths=(1.0, 3.4),
    )
