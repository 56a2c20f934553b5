"""The moderation example: no text leaves it, what each model reads, and that it runs on any source."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t

import gapkit as gk
from gapkit.commands.studyfile import load_study
from gapkit.examples import moderation as example
from gapkit.runs import Run

FILE = Path(example.__file__)
SECRET = "zyxwvut"  # stands for what must never be seen


def fortunes(folder: Path, n: int = 240) -> Path:
    """Sections of two languages; half of the words are a language's own, a word more in offensive ones."""
    rng = np.random.default_rng(0)
    homes = {
        ("es", 0): "es/varios.fortunes", ("es", 1): "off/es/off/varios.fortunes",
        ("it", 0): "it/norm", ("it", 1): "off/it/norm-o",
    }  # fmt: skip
    for (language, label), name in homes.items():
        words = [f"{language}{chr(97 + i)}{chr(97 + j)}" for i in range(8) for j in range(8)]
        rows = [" ".join([*rng.choice(words, 6), *([SECRET] if label else [])]) for _ in range(n)]
        whole = "\n%\n".join(rows)
        if (language, label) == ("es", 1):
            whole = codecs.encode(whole, "rot13")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(whole, encoding="utf-8")
    (folder / "it" / "norm.dat").write_bytes(b"\x00\xff")
    (folder / "it" / "italia").write_text("left out", encoding="utf-8")
    return folder


def a_table(path: Path, rows: list[str], head: str = "text,label,language") -> Path:
    path.write_text("\n".join([head, *rows]), encoding="utf-8")
    return path


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """No variable, no package."""
    monkeypatch.delenv(example.VARIABLE, raising=False)
    monkeypatch.setattr(example, "FORTUNES", tmp_path / "absent")


def test_pieces_are_the_same_everywhere_and_share_how_words_begin_and_end():
    one, other = example.pieces("Moderating, moderated!")
    assert one[1] == other[1]
    assert one[2] == other[2]
    assert one[0] != other[0]
    code = "from gapkit.examples.moderation import pieces; print(pieces('Moderating, moderated!'))"
    again = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1], env=os.environ | {"PYTHONHASHSEED": "7"},
    ).stdout  # fmt: skip
    assert again.strip() == str((one, other))
    assert len(example.pieces("word " * 100)) == example.N_WORDS
    assert min(min(row) for row in example.pieces("all but padding")) >= 1


def test_texts_are_counted_once_and_those_without_words_left_out():
    found = example.encoded([("one two", 0, "en"), ("One, two", 1, "en"), ("?!", 0, "en")], "csv")
    assert found.labels.tolist() == [0]
    assert found.ids.shape == (1, example.N_WORDS, example.N_PIECES)
    assert (found.ids[0, 2:] == 0).all()


def test_sections_are_deciphered_and_the_unclear_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(example, "FORTUNES", fortunes(tmp_path, n=5))
    rows = list(example.from_fortunes())
    assert len(rows) == 20
    assert all((SECRET in text) == bool(label) for text, label, _ in rows)
    assert {language for _, _, language in rows} == {"es", "it"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (f"{SECRET},1,", "but line 3 lacks one"),
        (f"{SECRET},,en", "but line 3 lacks one"),
        (f"en,1,{SECRET} and more", "but line 3 lacks one or has another form"),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_not_shown(tmp_path, row, said):
    path = a_table(tmp_path / "texts.csv", ["hello,0,en", row])
    with pytest.raises(gk.InputError, match=said) as caught:
        list(example.from_csv(path))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_cannot_be_read_is_named_and_shows_nothing_of_it(monkeypatch, tmp_path):
    path = tmp_path / "texts.csv"
    path.write_bytes(b"text,label,language\n" + SECRET.encode() + b"\xff,1,en\n")
    monkeypatch.setenv(example.VARIABLE, str(path))
    with pytest.raises(gk.InputError, match="UnicodeDecodeError") as caught:
        load_study(FILE, tmp_path / "run")
    assert SECRET not in str(caught.value)
    monkeypatch.setenv(example.VARIABLE, str(tmp_path / "absent.csv"))
    with pytest.raises(gk.InputError, match=r"absent\.csv"):
        load_study(FILE, tmp_path / "run")
    with pytest.raises(gk.InputError, match="line 2"):
        list(example.from_csv(a_table(path, ["a,x,en"], head="words,label,language")))


def test_texts_of_one_label_are_refused():
    found = example.encoded([(f"word{position}", 0, "en") for position in range(20)], "csv")
    with pytest.raises(gk.InputError, match="Expected two labels or more"):
        example.splits(found)


def test_labels_of_a_file_are_numbered_by_name(tmp_path):
    path = a_table(tmp_path / "texts.csv", ['"so, so",rude,en', "bom dia,fine,pt-BR"])
    assert list(example.from_csv(path)) == [("so, so", 1, "en"), ("bom dia", 0, "pt-BR")]


def test_what_is_used_is_said(nothing, monkeypatch, tmp_path, capsys):
    assert example.texts().source == "generated"
    assert "texts from generated: 2,2" in capsys.readouterr().err
    monkeypatch.setattr(example, "FORTUNES", fortunes(tmp_path / "fortunes"))
    assert example.texts().source == "fortunes"
    assert "texts from fortunes: 480 es, 480 it" in capsys.readouterr().err
    monkeypatch.setenv(example.VARIABLE, str(a_table(tmp_path / "t.csv", ["a,0,en", "b,1,en"])))
    assert example.texts().source == "csv"
    assert "texts from csv: 2 en" in capsys.readouterr().err


def test_the_rare_language_is_thinned_for_the_student_and_read_by_the_teacher(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(example, "FORTUNES", fortunes(tmp_path))
    found = example.balanced(example.encoded(example.from_fortunes(), "fortunes"))
    parts = example.splits(found, seed=1)
    rare = {name: (part.languages == example.RARE).mean() for name, part in parts.items()}
    assert rare["train"] < 0.05 < rare["validation"] < 0.3 < rare["collected"]
    assert rare["teacher"] > 0.4
    seen = {name: {row.numpy().tobytes() for row in part.ids} for name, part in parts.items()}
    assert seen["train"] < seen["collected"] < seen["teacher"]
    assert not seen["teacher"] & (seen["validation"] | seen["test"])
    assert not seen["validation"] & seen["test"]
    for name in ("train", "validation", "test"):
        labels, languages = parts[name].labels, parts[name].languages
        assert abs(labels[languages == "it"].mean() - 0.5) < 0.02


def test_other_texts_are_split_as_they_are(nothing):
    parts = example.splits(example.texts())
    assert len(parts["teacher"].labels) == len(parts["collected"].labels)
    assert torch.equal(parts["teacher"].ids, parts["train"].ids)
    few = parts["train"].rows(np.arange(20))
    with pytest.raises(gk.InputError, match="8 texts or more of each in every language"):
        example.splits(few)


def test_repeating_makes_languages_as_frequent(nothing):
    parts = example.splits(example.texts())
    before, after = (
        np.unique(parts[name].languages, return_counts=True)[1] for name in ("train", "weighed")
    )
    assert before.max() / before.min() > 5
    assert after.max() / after.min() < 1.2
    assert after[0] == before[0] == before.max()


def test_padding_changes_no_answer_and_order_does():
    torch.manual_seed(0)
    model = example.Moderator(8).eval()
    found = example.encoded([("one two three four five", 0, "en")], "csv")
    with torch.no_grad():
        whole = model(found.ids)
        short = model.table(found.ids[:, :5]).sum(2) + model.position[:5]
        there = torch.ones(1, 5, dtype=torch.bool)
        for block in model.blocks:
            short = block(short, there)
        torch.testing.assert_close(whole, model.head(model.norm(short.mean(1))))
        turned = found.ids.clone()
        turned[:, :5] = found.ids[:, :5].flip(1)
        assert (model(turned) - whole).abs().max() > 1e-6


def test_the_table_holds_each_language_beside_the_teacher():
    rng = np.random.default_rng(0)
    languages = np.array(["es"] * 30 + ["it"] * 10)
    found = {"teacher": rng.integers(0, 2, (1, 40)), "labels": rng.integers(0, 2, (3, 40))}
    lines = example.table(
        {name: each * 1.0 for name, each in found.items()}, languages
    ).splitlines()
    assert lines[0].split("  ")[0] == "3 seeds"
    assert "it (n = 10)" in lines[0]
    assert "±" not in lines[1]
    own = found["labels"].mean(0)[30:] - found["teacher"][0, 30:]
    half = t.ppf(0.975, 9) * own.std(ddof=1) / 10**0.5
    said = f"{found['labels'][:, 30:].mean():.3f} ({own.mean():+.3f} ± {half:.3f})"
    assert lines[-1].split("  ")[-1].strip() == said


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Narrow models on made-up sections."""
    monkeypatch.setattr(example, "FORTUNES", fortunes(tmp_path / "fortunes"))
    found = example.balanced(example.encoded(example.from_fortunes(), "fortunes"))
    monkeypatch.setattr(example, "TEACHER", 32)
    monkeypatch.setattr(example, "STUDENT", 8)
    return found


@pytest.mark.slow
def test_students_of_every_kind_are_scored_on_every_text(small, tmp_path):
    found = example.compare(small, tmp_path / "runs", epochs=2, seeds=(0, 1))
    assert list(found) == [
        "teacher", "labels", "responses", "hints where it matters", "hints everywhere",
        "responses, weighed", "responses, collected",
    ]  # fmt: skip
    n = len(example.splits(small)["test"].labels)
    assert all(each.shape == (1 if name == "teacher" else 2, n) for name, each in found.items())
    assert found["teacher"].mean() > 0.6  # one word decides; two epochs see some of it


@pytest.mark.slow
def test_hints_go_to_the_layer_that_matters_most_or_to_all(small, tmp_path):
    opened = example.study(epochs=2, found=small, out=tmp_path / "run")
    knowledge = example.arms(opened)
    (best,) = [part for part in knowledge["hints where it matters"] if part.kind == "feature"]
    (all_of_them,) = [part for part in knowledge["hints everywhere"] if part.kind == "feature"]
    assert len(best.layers) == 1 < len(all_of_them.layers)
    importance = opened.measure().find("layer_importance", of="teacher", split="validation")
    values = {item.layer: item.value for item in importance}
    matched = [layer for _, layer in all_of_them.layers]
    assert values[best.layers[0][1]] == max(values[layer] for layer in matched)


@pytest.mark.slow
def test_the_study_runs_to_a_report_that_holds_no_text(small, tmp_path, capsys):
    opened = example.study(epochs=2, found=small)
    opened.run = Run(tmp_path / "run")
    opened.measure()
    opened.diagnose(budget=1)
    opened.plan(budget=1)
    opened.distill()
    report = opened.report(tmp_path / "gap.md").read_text(encoding="utf-8")
    assert "moderation" in report
    assert "fortunes" in report
    shown = capsys.readouterr()
    kept = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(kept) > 5
    for text in (report.encode(), shown.out.encode(), shown.err.encode(), *kept):
        assert SECRET.encode() not in text
        assert codecs.encode(SECRET, "rot13").encode() not in text


@pytest.mark.slow
def test_a_file_of_ones_own_is_a_study(monkeypatch, tmp_path, capsys):
    rows = [f"{text},{label},{language}" for text, label, language in example.made_up(800)]
    monkeypatch.setenv(example.VARIABLE, str(a_table(tmp_path / "texts.csv", rows)))
    opened = load_study(FILE, tmp_path / "run", epochs=1)
    assert opened.name == "moderation-csv"
    assert set(opened.data.slices("test")["language"]) == {"x-a", "x-b", "x-c"}
    assert opened.measure().has("gap", of="pair", split="test", group="language=x-a")
