"""Several runs side by side: what is said, what is not claimed, and the file."""

from __future__ import annotations

import re

import numpy as np
import pypdf
import pytest

from gapkit.errors import InputError
from gapkit.reports import compare
from gapkit.reports.compose_compare import comparison
from gapkit.reports.intervals import paired_difference
from gapkit.reports.report import Report, Table
from gapkit.reports.results import Results, read_run
from gapkit.runs import Run
from tests import report_fixtures as made


def run(accuracy: float = 0.42, data: str = "a", **changes) -> Results:
    """A run without a plan, of a student with that accuracy, on test samples of that fingerprint."""
    given = {
        "study": "digits",
        "measurements": made.measurements(accuracy=accuracy),
        "gap": made.gap(),
    }
    return Results(**(given | {"manifest": {"inputs": {"data": data}}} | changes))


def table(report: Report, heading: str) -> Table:
    return next(block for block in report.section(heading).blocks if isinstance(block, Table))


def test_the_best_student_is_named_and_its_lead_only_when_it_is_clear():
    report, _ = comparison([run(0.42), run(0.60)], ["runs/small", "runs/large"])
    assert report.headline.startswith(
        "The student of large scores highest: 60.0 % [56.6, 63.4], n = 797"
    )
    assert "overlaps" not in report.headline
    close, _ = comparison([run(0.42), run(0.44)], ["runs/small", "runs/large"])
    assert close.headline.endswith("on test; another run's interval overlaps it.")
    level, _ = comparison([run(0.42), run(0.60), run(0.60)], ["x/a", "x/b", "x/c"])
    assert level.headline.startswith("The students of b and c score level: 60.0 %")


def test_differences_are_paired_only_over_the_same_test_samples():
    report, _ = comparison([run(0.42), run(0.60)], ["a", "b"])
    low, high = (made.contributions("student", share).values for share in (0.42, 0.60))
    mean, bottom, top = (100 * number for number in paired_difference(high, low))
    assert f"b +{mean:.1f} points [+{bottom:.1f}, +{top:.1f}]" in report.verdict
    other, _ = comparison([run(0.42), run(0.60, data="b")], ["a", "b"])
    assert "not compared sample by sample" in other.verdict
    silent, _ = comparison([run(manifest={}), run(manifest={})], ["a", "b"])
    assert "not compared sample by sample" in silent.verdict


def test_scores_ways_and_plans_stand_side_by_side():
    whole = Results(**(made.results() | {"manifest": {"inputs": {"data": "a"}}}))
    report, compared = comparison([run(), whole, run(gap=None)], ["x/a", "x/b", "x/c"])
    assert compared.names == ("a", "b", "c")
    rows = table(report, "Scores").rows
    assert [row[3] for row in rows] == ["–", "58.0 % [54.6, 61.4], n = 797", "–"]
    assert [row[5] for row in rows] == ["harsh targets", "harsh targets", "–"]
    plans = table(report, "Plans").rows
    assert plans[0][1] == "none"
    assert plans[1][1].startswith("teacher → assistant 6 (6) → student (1); ")
    assert plans[1][3] == "59.5 %"
    assert [figure.name for figure in report.figures] == ["scores", "ways"]
    assert [block.lead for block in report.section("Verdicts").blocks] == ["a.", "b.", "c."]


def test_of_many_runs_the_first_are_drawn_and_all_are_in_the_table():
    runs = [run(0.3 + 0.01 * index) for index in range(20)]
    report, _ = comparison(runs, [f"runs/{index}" for index in range(20)])
    assert len(table(report, "Scores").rows) == 20
    captions = [figure.caption for figure in report.figures]
    assert "12 more runs are in the table" in captions[0]
    assert "The first 8 of 20 are drawn" in captions[1]


def test_runs_of_one_name_are_told_apart():
    _, compared = comparison([run(), run()], ["runs/a", "runs/a"])
    assert compared.names == ("a (1)", "a (2)")


@pytest.mark.parametrize(
    "runs, match",
    [
        ([run()], "Expected two runs or more to compare but got 1"),
        (
            [run(), run(gap=None, measurements=made.measurements().with_(values=tuple(
                item.with_(name="r2", unit="") if item.name == "accuracy" else item
                for item in made.measurements().values)))],
            r"Expected runs with one score to compare but got accuracy \(share\) and r2 \(no unit\)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(runs, match):
    with pytest.raises(InputError, match=match):
        comparison(runs, ["a"] * len(runs))


def kept(folder, results: Results):
    """A run folder that holds what a comparison reads."""
    found = Run(folder)
    found.open({"study": results.study, "data": "a"})
    found.save("measurements", results.measurements)
    if results.gap is not None:
        found.save("gap", results.gap)
    return folder


def test_folders_are_read_and_one_pdf_is_written(tmp_path):
    folders = [
        kept(tmp_path / name, run(score)) for name, score in (("small", 0.42), ("large", 0.6))
    ]
    read = read_run(folders[0])
    assert read.measurements == run(0.42).measurements
    assert read.manifest["inputs"]["data"] == "a"
    path = compare(tmp_path / "both.pdf", folders)
    reader = pypdf.PdfReader(path)
    words = re.sub(r"\s+", "", " ".join(page.extract_text() for page in reader.pages))
    assert "2runssidebyside" in words
    assert "Thestudentoflargescoreshighest" in words
    assert compare(tmp_path / "again.pdf", folders).read_bytes() == path.read_bytes()
    page = compare(tmp_path / "both.html", folders).read_text(encoding="utf-8")
    assert page.count("<svg") == 2


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Expected a run folder but .*none does not exist"):
        read_run(tmp_path / "none")
    with pytest.raises(InputError, match=r"Expected measurements in .* but found none"):
        read_run(tmp_path)
    folder = kept(tmp_path / "run", run())
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"Expected a gapkit manifest in .*manifest\.json but"):
        read_run(folder)


def test_scores_are_drawn_where_they_are():
    from gapkit.reports.draw_compare import draw_comparison

    report, compared = comparison([run(0.42), run(0.60)], ["a", "b"])
    drawings = draw_comparison(report, compared)
    assert set(drawings) == {"scores", "ways"}
    values = [item.value for item in compared.scores("student")]
    np.testing.assert_allclose(values, [0.42, 0.60])
    assert draw_comparison(report, compared) == drawings
