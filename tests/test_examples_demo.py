"""`gapkit demo` ends with a PDF that holds what the run folder says, and a summary for a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pypdf import PdfReader
from pypdf.generic import Destination
from sklearn.datasets import load_digits

import gapkit as gk
from gapkit.examples.digits import build, digits, study
from gapkit.gap import Gap
from gapkit.measurement import Measurements
from gapkit.outcome import Outcome
from gapkit.plans import Plan
from gapkit.quality.exhibits import Exhibits
from gapkit.reports.compose import compose
from gapkit.runs import Run
from gapkit.wording import Wording

ROOT = Path(__file__).parents[1]
SAY = Wording(unit="share", score_name="accuracy")


class Demo(NamedTuple):
    """A finished demo: its folder, what it printed, and its report."""

    folder: Path
    done: subprocess.CompletedProcess[str]
    reader: PdfReader

    def read(self, name: str, kind):
        found = Run(self.folder).load(name, kind)
        assert found is not None
        return found

    @property
    def text(self) -> str:
        """The words of all pages in one line, soft hyphens and break points left out."""
        return plain(" ".join(page.extract_text() for page in self.reader.pages))


def plain(text: str) -> str:
    """Text as it can be compared: one line, no break points, hyphens of line ends joined."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub("[\u00ad\u200b\u2060]", "", text)
    return " ".join(text.split())


def squeezed(text: str) -> str:
    """Without spaces and hyphens, which a line's end takes away or adds."""
    return re.sub(r"[\s‐-]", "", plain(text))


def demo_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`gapkit demo` in a process of its own, on one thread."""
    return subprocess.run(
        [sys.executable, "-m", "gapkit", "demo", *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Demo:
    folder = tmp_path_factory.mktemp("demo") / "run"
    done = demo_command("--epochs", "3", "--out", str(folder), cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return Demo(folder, done, PdfReader(folder / "gap.pdf"))


def bookmarks(reader: PdfReader) -> list[Destination]:
    """All bookmarks, nested ones too."""

    def flat(items):
        for item in items:
            yield from flat(item) if isinstance(item, list) else [item]

    return list(flat(reader.outline))


@pytest.mark.slow
def test_the_run_folder_holds_every_noun(demo):
    gap, plan, outcome = (
        demo.read("gap", Gap),
        demo.read("plan", Plan),
        demo.read("outcome", Outcome),
    )
    assert demo.read("measurements", Measurements).study == "digits"
    assert gap.spent <= 36
    assert {run.name for run in gap.controls} >= {"same recipe", "scratch", "next size up"}
    assert plan.search_cost.student_trainings <= 24
    assert outcome.stages[-1].size == 1
    assert outcome.score.n == 797
    assert {run.epochs for stage in outcome.stages for run in stage.trainings} <= {3, 6, 12}


@pytest.mark.slow
def test_the_waterfall_adds_up_on_real_models(demo):
    gap = demo.read("gap", Gap)
    total = sum(step.points.value for step in gap.waterfall.steps)
    assert abs(gap.student.value + total - gap.teacher.value) < 1e-12
    assert gap.teacher.value - gap.student.value > 0.2


@pytest.mark.slow
def test_the_summary_fits_a_terminal_and_says_where_the_report_lies(demo):
    lines = demo.done.stdout.splitlines()
    assert len(lines) >= 8
    report = next(line for line in lines if line.startswith("report "))
    assert report.split(maxsplit=1)[1] == str(demo.folder / "gap.pdf")
    wide = [line for line in lines if len(line) > 80 and line != report]
    assert not wide
    gap, outcome = demo.read("gap", Gap), demo.read("outcome", Outcome)
    said = plain(demo.done.stdout)
    assert gap.cause.replace("_", " ") in said
    assert f"reached {SAY.score_of(outcome.score)} on test" in said
    assert "Traceback" not in demo.done.stderr


@pytest.mark.slow
def test_the_report_has_pages_title_and_bookmarks(demo):
    reader = demo.reader
    assert 4 <= len(reader.pages) <= 40
    assert all(page.extract_text().strip() for page in reader.pages)
    assert "digits" in reader.metadata.title
    marks = bookmarks(reader)
    titles = [mark.title for mark in marks]
    assert {"Why it falls short", "Findings", "Controls"} <= set(titles)
    assert len(titles) >= 6
    pages = [reader.get_destination_page_number(mark) for mark in marks]
    assert pages == sorted(pages)
    for mark, number in zip(marks, pages):
        assert squeezed(mark.title) in squeezed(reader.pages[number].extract_text()), mark.title


@pytest.mark.slow
def test_the_report_says_what_the_run_found(demo):
    words = squeezed(demo.text)
    gap, plan, outcome = (
        demo.read("gap", Gap),
        demo.read("plan", Plan),
        demo.read("outcome", Outcome),
    )
    wanted = [
        gap.verdict,
        SAY.score_of(outcome.score),
        SAY.score_of(outcome.before),
        plan.claim,
        *plan.reasons,
        *(step.name for step in gap.waterfall.steps),
        *(finding.remedy.text for finding in gap.findings),
        *(item.text for finding in gap.findings for item in finding.evidence),
        *(run.name for run in gap.controls),
        *(item.better_than for item in outcome.comparisons),
        *gap.notes,
    ]
    assert [text for text in wanted if squeezed(text) not in words] == []


@pytest.mark.slow
def test_every_figure_of_the_report_is_numbered_and_has_its_caption(demo):
    report = compose(
        study="digits",
        measurements=demo.read("measurements", Measurements),
        gap=demo.read("gap", Gap),
        plan=demo.read("plan", Plan),
        outcome=demo.read("outcome", Outcome),
        exhibits=demo.read("exhibits", Exhibits),
        task_unit="share",
    )
    figures = list(report.figures)
    assert len(figures) >= 5
    words = squeezed(demo.text)
    numbers = [int(number) for number in re.findall(r"Figure(\d+):", words)]
    assert numbers == list(range(1, len(figures) + 1))
    for number, figure in enumerate(figures, 1):
        assert squeezed(f"Figure {number}: {figure.caption}") in words


@pytest.mark.slow
def test_a_second_demo_trains_nothing_and_says_the_same(demo):
    trained = sorted(demo.folder.glob("trainings/*/training.json"))
    before = {path: path.stat().st_mtime_ns for path in trained}
    again = demo_command("--epochs", "3", "--out", str(demo.folder), cwd=demo.folder.parent)
    assert again.returncode == 0, again.stderr
    assert again.stdout == demo.done.stdout
    after = sorted(demo.folder.glob("trainings/*/training.json"))
    assert {path: path.stat().st_mtime_ns for path in after} == before


def test_the_digits_are_split_by_class_without_overlap():
    data = digits(seed=3)
    pixels, labels = load_digits(return_X_y=True)
    sizes = {split: data.size(split) for split in ("train", "validation", "test")}
    assert sizes == {"train": 800, "validation": 200, "test": 797}
    seen = []
    for split, size in sizes.items():
        batch = next(data.batches(split, size, np.arange(size)))
        seen.append(data.student_view(batch.raw).reshape(size, -1))
        counts = torch.bincount(data.targets(split), minlength=10)
        assert (
            counts.float() / size - torch.bincount(torch.tensor(labels)) / 1797
        ).abs().max() < 0.01
    whole = torch.cat(seen)
    expected = torch.tensor(pixels / 16, dtype=torch.float32)
    assert torch.equal(_ordered(whole), _ordered(expected))
    assert not torch.equal(seen[0], digits(seed=4).student_view(_first(digits(seed=4), 800)))


def _first(data: gk.Data, n: int):
    return next(data.batches("train", n, np.arange(n))).raw


def _ordered(rows: torch.Tensor) -> torch.Tensor:
    """Rows in an order of their own, so that sets of them can be compared."""
    return torch.from_numpy(np.array(sorted(map(tuple, rows.tolist())), dtype=np.float32))


def test_the_example_is_the_study_it_says():
    found = study(seed=2, epochs=5)
    assert (found.name, found.seed, found.recipe.epochs) == ("digits", 2, 5)
    assert not found.has_teacher
    assert not found.has_student
    assert found.family.parameters(1) == 10 + 2 + 20 + 4 + 38 + 4 + 30  # convolutions, norms, head
    assert (found.family.student, found.family.teacher) == (1, 32)
    assert build(3)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
