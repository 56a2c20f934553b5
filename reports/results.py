"""Results: all that a report draws on, and the few look-ups that several of its parts make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gapkit.errors import InputError
from gapkit.gap import Finding, Gap
from gapkit.measurement import Curve, LayerMatrix, Measurement, Measurements
from gapkit.outcome import Outcome
from gapkit.plans import Plan
from gapkit.quality.choice import Choice
from gapkit.quality.exhibits import Exhibits
from gapkit.quality.grounds import Gate
from gapkit.record import Record
from gapkit.reports.intervals import paired_difference
from gapkit.runs import Run
from gapkit.wording import without_targets

REPORTED: Literal["test"] = "test"
OWN_PLAN = "Distill by a plan of your own: study.distill(plan)"
CONTROLS = "diagnose(controls=True)"  # ends a remedy that takes control runs


class Results(Record):
    """What was measured, diagnosed, planned and reached; what was not done is None.

    `gates` and `choice` are what is judged from that by who knows the task, the study for one;
    `exhibits` are real samples, by who holds models and data.
    """

    study: str
    measurements: Measurements
    gap: Gap | None = None
    plan: Plan | None = None
    outcome: Outcome | None = None
    gates: tuple[Gate, ...] = ()
    choice: Choice | None = None
    exhibits: Exhibits | None = None
    manifest: dict[str, Any] = Field(default_factory=dict)

    @property
    def after(self) -> Measurements | None:
        """What was measured once the plan had been carried out."""
        return self.outcome.measurements if self.outcome else None

    @property
    def score_name(self) -> str:
        """Name of the task's score: the diagnosis says it, else the teacher's first "higher is better".

        Raises:
            InputError: when the measurements hold no score of the teacher.
        """
        if self.gap is not None:
            return self.gap.student.name
        for item in self.measurements.values:
            if item.of == "teacher" and item.better == "higher" and not (item.layer or item.group):
                return item.name
        raise InputError("Expected a score of the teacher among the measurements but found none")

    @property
    def score_unit(self) -> str:
        """Unit of the teacher's score."""
        name = self.score_name
        return next(
            (
                item.unit
                for item in self.measurements.values
                if (item.name, item.of) == (name, "teacher")
            ),
            "",
        )

    @property
    def without_targets(self) -> bool:
        """Whether the data has no targets: then neither controls nor a search for a plan can run."""
        return without_targets(self.measurements)

    @property
    def possible(self) -> Results:
        """These results, where the data has no targets without remedies that need them."""
        gap = self.gap
        if gap is None or not self.without_targets:
            return self
        return self.with_(gap=gap.with_(findings=tuple(map(_without_controls, gap.findings))))

    def score(self, of: str) -> Measurement | None:
        """The model's score on test, as it was before the plan."""
        return one(self.measurements, self.score_name, of)

    @property
    def difference(self) -> Measurement | None:
        """Teacher's score minus student's on test: as measured, else paired over the samples."""
        return one(self.measurements, "gap", "pair") or paired(
            self.measurements, "teacher", self.measurements, "student"
        )

    @property
    def gain(self) -> Measurement | None:
        """The new student's score minus the old one's on test, paired over the samples."""
        if self.after is None:
            return None
        return paired(self.after, "student", self.measurements, "student")


def _without_controls(item: Finding) -> Finding:
    """The finding; a plan of one's own where it asks for control runs."""
    if CONTROLS in item.would_change:
        item = item.with_(would_change="Control runs, which need targets; the data has none.")
    if CONTROLS in item.remedy.text:
        item = item.with_(remedy=item.remedy.with_(text=f"{OWN_PLAN}."))
    return item


def read_run(folder: str | Path) -> Results:
    """What a run folder holds, without the study file that made it.

    Raises:
        InputError: when the folder holds no measurements, or something in it cannot be read.
    """
    run = Run(folder)
    if not run.folder.is_dir():
        raise InputError(f"Expected a run folder but {folder} does not exist")
    measurements = run.load("measurements", Measurements)
    if measurements is None:
        raise InputError(
            f"Expected measurements in {folder} but found none; gapkit measure makes them"
        )
    manifest = _manifest(run)
    return Results(
        study=measurements.study,
        measurements=measurements,
        gap=run.load("gap", Gap),
        plan=run.load("plan", Plan),
        outcome=run.load("outcome", Outcome),
        exhibits=run.load("exhibits", Exhibits),
        manifest={
            "created": manifest.get("created", ""),
            "folder": str(folder),
            "versions": {"gapkit": manifest.get("gapkit", "")},
            "inputs": manifest.get("identity", {}),
        },
    )


def _manifest(run: Run) -> dict[str, Any]:
    path = run.path("manifest.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Expected a gapkit manifest in {path} but: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"Expected a gapkit manifest in {path} but got {type(found).__name__}")
    return found


def one(
    measurements: Measurements, name: str, of: str, split: str = REPORTED, **where: str
) -> Measurement | None:
    """The measurement of a whole model (or of the layer or group said), or None."""
    found = measurements.find(name, of=of, split=split, **({"layer": "", "group": ""} | where))
    return found[0] if found else None


def curve_of(measurements: Measurements, name: str, of: str, split: str = REPORTED) -> Curve | None:
    """The first curve of that name, model and split, or None."""
    for curve in measurements.curves:
        if (curve.name, curve.of, curve.split) == (name, of, split) and curve.x.size:
            return curve
    return None


def matrix_of(measurements: Measurements, name: str, split: str = REPORTED) -> LayerMatrix | None:
    """The layer matrix of that name on that split, or None."""
    for matrix in measurements.matrices:
        if (matrix.name, matrix.split) == (name, split) and matrix.values.size:
            return matrix
    return None


def paired(
    first: Measurements, first_of: str, second: Measurements, second_of: str
) -> Measurement | None:
    """Difference of two models' scores over the same test samples; None when they cannot be paired."""
    values = [
        [item.values for item in source.contributions if (item.of, item.split) == (of, REPORTED)]
        for source, of in ((first, first_of), (second, second_of))
    ]
    if not all(values) or len(values[0][0]) != len(values[1][0]):
        return None
    mean, low, high = paired_difference(values[0][0], values[1][0])
    return Measurement(
        name="difference", of="pair", split=REPORTED, value=mean, low=low, high=high,
        n=len(values[0][0]), estimator="mean paired difference; t interval",
    )  # fmt: skip
