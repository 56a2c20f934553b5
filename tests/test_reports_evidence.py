"""Relations and attributions in the report: what is said, beside what, and what is left out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gapkit.measurement import Measurement
from gapkit.quality.exhibits import Exhibit, Exhibits
from gapkit.reports.compose import report_of
from gapkit.reports.compose_evidence import RELATION, attribution, relation
from gapkit.reports.compose_where import where
from gapkit.reports.draw import draw
from gapkit.reports.report import Figure, Paragraph, Table
from gapkit.reports.results import Results
from gapkit.wording import Wording
from tests.report_fixtures import HOSTILE, measurements, value

SAY = Wording(unit="share", score_name="accuracy")


def results(*values: Measurement) -> Results:
    base = measurements()
    return Results(study="x", measurements=base.with_(values=(*base.values, *values)))


def related(of: str, number: float, layer: str = "") -> list[Measurement]:
    return [value(name, of, number, 0.02, layer=layer, unit="correlation") for name in RELATION]


def undefined(name: str, reason: str, **fields) -> Measurement:
    nan = math.nan
    return Measurement(
        name=name, of="pair", split="test", value=nan, low=nan, high=nan, reason=reason, **fields
    )


def test_relations_stand_beside_the_untrained_student():
    found = results(
        *related("pair", 0.61), *related("untrained", 0.22), *related("pair", 0.48, "pool")
    )
    (table,) = relation(found)
    assert isinstance(table, Table)
    assert len(table.rows) == 2 * len(RELATION)
    first, second = table.rows[0], table.rows[len(RELATION)]
    assert first[1:4] == ("outputs", "0.61 [0.59, 0.63]", "0.22 [0.20, 0.24]")
    assert second[1:4] == ("pool", "0.48 [0.46, 0.50]", "")


def test_nothing_measured_is_nothing_said():
    assert not list(relation(results()))
    assert not list(attribution(results()))
    headings = [section.heading for section in where(results(), SAY)]
    assert "How samples lie to each other" not in headings
    full = results(*related("pair", 0.61))
    assert "How samples lie to each other" in [section.heading for section in where(full, SAY)]


def test_attributions_stand_beside_their_chance():
    found = results(
        value("attribution_agreement", "pair", 0.41, 0.05, unit="correlation", n=64),
        value("attribution_agreement_shuffled", "pair", 0.12, 0.04, unit="correlation", n=64),
    )
    (text,) = attribution(found)
    assert isinstance(text, Paragraph)
    assert "0.41 [0.36, 0.46]" in text.text
    assert "another sample by 0.12" in text.text
    assert "64 samples" in text.text


def test_what_cannot_be_attributed_says_why():
    (text,) = attribution(results(undefined("attribution_agreement", "teacher: no gradient")))
    assert "cannot be compared: teacher: no gradient" in text.text


@pytest.mark.parametrize("n_layers, left", [(3, ""), (14, "4 weaker layers left out")])
def test_the_layers_that_matter_are_listed_in_their_order(n_layers, left):
    values = [
        value("layer_importance", "teacher", 0.01 * (1 + i % 7), 0.001, layer=f"layer{i}")
        for i in range(n_layers)
    ]
    (table,) = attribution(results(*values))
    assert isinstance(table, Table)
    names = [row[0] for row in table.rows]
    assert names == sorted(names, key=lambda name: int(name.removeprefix("layer")))
    assert len(names) == min(n_layers, 10)
    assert left in table.caption
    if n_layers > 10:
        assert "layer6" in names
        assert "layer7" not in names


def shown(reason: str = "") -> Exhibits:
    item = Exhibit(
        position=12, label=HOSTILE, answers={"teacher": "4 (99%)", "student": HOSTILE},
        picture=np.eye(3), maps={"teacher": np.eye(3), "student": -np.eye(3)},
    )  # fmt: skip
    items = () if reason else (item, item.with_(position=13))
    return Exhibits(items=items, estimator="Integrated Gradients, 16 steps", reason=reason)


def test_real_samples_are_told_one_by_one_and_drawn_whatever_they_are_called():
    given = results().with_(exhibits=shown())
    (figure,) = (block for block in attribution(given) if isinstance(block, Figure))
    assert figure.name == "attribution"
    assert (
        f"sample 12 (label {HOSTILE}): teacher says 4 (99%), student says {HOSTILE}" in figure.alt
    )
    assert "Integrated Gradients, 16 steps." in figure.caption
    drawing = draw(report_of(given, SAY), given, SAY)["attribution"].decode()
    assert "sample 13" in drawing
    assert "<b>" not in drawing


@pytest.mark.parametrize("exhibits", [None, shown("the answer has no gradient")])
def test_without_samples_there_is_no_figure_of_them(exhibits):
    given = results().with_(exhibits=exhibits)
    assert not [block for block in attribution(given) if isinstance(block, Figure)]
