"""The language model example: what it reads, what it predicts, how it is scored, and that it trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import gapkit as gk
from gapkit.examples import language_model as example
from gapkit.knowledge import knowledge_named
from gapkit.probes.interval import mean_interval
from gapkit.runs import Run
from gapkit.task import IGNORED, pseudo_values
from gapkit.training.inherit import inherit

N_FILES = 37  # five to train on


@pytest.fixture(scope="module")
def splits():
    return example.texts(N_FILES)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The study on a few files with narrow models, one epoch."""
    monkeypatch.setattr(example, "LONGEST", 1024)
    monkeypatch.setattr(example, "N_VALIDATION", 2)
    monkeypatch.setattr(example, "N_TEST", 3)
    monkeypatch.setattr(
        example, "build", lambda n_layers: example.ByteTransformer(n_layers, width=16)
    )
    opened = example.study(epochs=1, n_files=20)
    opened.run = Run(tmp_path / "run")
    return opened


def text_of(row: torch.Tensor) -> str:
    return bytes(row.tolist()).decode()


def test_no_file_is_in_two_splits_and_every_window_is_part_of_its_file(splits):
    files = {split: set(text.file) for split, text in splits.items()}
    assert {split: len(names) for split, names in files.items()} == {
        "train": N_FILES - example.N_VALIDATION - example.N_TEST,
        "validation": example.N_VALIDATION,
        "test": example.N_TEST,
    }
    assert len(set.union(*files.values())) == N_FILES
    whole = example.sources()
    for text in splits.values():
        for name, ids in zip(text.file[::50], text.ids[::50]):
            assert text_of(ids) in whole[name][: example.LONGEST]


def test_other_seeds_give_other_splits():
    first, second = (set(example.texts(N_FILES, seed)["test"].file) for seed in (0, 1))
    assert first != second


def test_the_label_of_a_byte_is_the_byte_after_it(monkeypatch):
    monkeypatch.setattr(example, "CONTEXT", 2)
    ids, labels = example.next_bytes(torch.tensor([[10, 11, 12, 13, 14]]))
    assert ids.tolist() == [[10, 11, 12, 13]]
    assert labels.tolist() == [[IGNORED, IGNORED, 13, 14]]


def test_each_byte_after_the_first_context_is_scored_once(monkeypatch):
    monkeypatch.setattr(example, "CONTEXT", 2)
    monkeypatch.setattr(example, "WINDOW", 6)
    ids, labels = example.next_bytes(example.windows(torch.arange(20)))
    assert ids[:, 0].tolist() == [0, 4, 8, 12]
    assert labels[labels != IGNORED].tolist() == list(range(3, 19))


def test_later_bytes_change_no_earlier_logit():
    torch.manual_seed(0)
    model = example.build(2).eval()
    ids = torch.randint(256, (3, 20))
    changed = ids.clone()
    changed[:, 12] = (ids[:, 12] + 1) % 256
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :12], before[:, :12])
    assert (after[:, 12:] - before[:, 12:]).abs().amax(-1).min() > 1e-4


def test_a_byte_of_no_idea_costs_eight_bits():
    labels = torch.arange(256)
    assert example.negated_bits_per_byte(torch.zeros(256, 256), labels) == pytest.approx(-8)
    halved = torch.where(torch.arange(256) < 128, 0.0, -1e9).expand(128, 256)
    assert example.negated_bits_per_byte(halved, labels[:128]) == pytest.approx(-7)


def test_windows_contribute_what_a_jackknife_over_windows_finds():
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 8, 12), torch.randint(12, (30, 8))
    labels[:, :3] = IGNORED
    task = example.NextByte()
    own = task.contributions(logits, labels)
    assert own.std() > 0.1
    assert own.mean() == pytest.approx(task.score(logits, labels))
    np.testing.assert_allclose(own, pseudo_values(task.score, logits, labels), rtol=1e-4)


def test_windows_of_one_file_widen_the_interval():
    task, files = example.NextByte(), np.repeat(np.arange(30), 20)
    torch.manual_seed(0)
    logits = torch.zeros(600, 4, 256)
    logits[:, :, 7] = 3 * torch.randn(30, 1).repeat_interleave(20, 0)  # a file's own ease
    own = task.contributions(logits, torch.full((600, 4), 7))
    alone, together = mean_interval(own), mean_interval(own, groups=files)
    assert together.se / alone.se == pytest.approx(20**0.5, rel=0.05)


def test_prose_is_comments_and_strings_in_triple_quotes():
    text = 'x = "no"  # yes\n"""yes\nyes"""\ny = 1\n'
    marked = example.prose(text)
    shown = "".join(char if mark else "." for char, mark in zip(text, marked))
    assert shown == '..........# yes."""yes\nyes""".......'


def test_a_form_feed_ends_no_line():
    assert example.prose("x = 1\n\x0c\ny = 2  # z\n")[-4:].tolist() == [True] * 3 + [False]


def test_too_few_files_are_refused():
    with pytest.raises(gk.InputError, match="Expected 33 files or more but got 30"):
        example.texts(30)


def test_every_byte_has_a_class():
    found = [example.CLASSES[kind] for kind in example.byte_classes()]
    assert [found[ord(char)] for char in "aZ7 \n_(~\t"] == [
        "letter", "letter", "digit", "space", "newline", *["punctuation"] * 3, "other",
    ]  # fmt: skip
    assert found.count("letter") == 52
    assert found.count("digit") == 10
    assert found.count("punctuation") == 32  # string.punctuation
    assert set(found[128:]) == {"other"}


def test_slices_are_those_of_the_windows(splits):
    data, test = example.library(splits), splits["test"]
    slices = data.slices("test")
    assert set(slices) == {"text", "mostly", "bytes"}
    assert {name: set(values) - {"digit", "newline"} for name, values in slices.items()} == {
        "text": {"prose", "code", "both"},
        "mostly": {"letter", "space", "punctuation"},
        "bytes": {"common", "middling", "rare"},
    }
    rows = np.flatnonzero(slices["mostly"] == "letter")[:20]
    assert all(sum(map(str.isalpha, text_of(test.labels[row, 16:]))) >= 24 for row in rows)
    code = np.flatnonzero(slices["text"] == "code")
    assert not any(text_of(test.ids[row]).count('"""') > 2 for row in code)
    train = data.slices("train")["bytes"]
    assert all(abs((train == value).mean() - 1 / 3) < 0.01 for value in set(train))
    assert (data.groups("test") == test.file).all()


def test_bits_of_windows_add_up_to_the_mean_over_bytes():
    rng = np.random.default_rng(0)
    found = rng.gamma(2, size=(2, 7, 5))
    found[:, rng.random((7, 5)) < 0.3] = np.nan
    np.testing.assert_allclose(example.by_window(found).mean(1), np.nanmean(found, (1, 2)))


def test_students_inherit_the_embedding_and_the_first_layer():
    family = gk.Family(example.build, sizes=[1, 4], teacher=4)
    teacher, student = family.fresh(4, 0), family.fresh(1, 1)
    found = inherit(teacher.state_dict(), student.state_dict())
    assert not found.fresh
    assert found.kept_layers == ("blocks.0",)
    student.load_state_dict(found.state)
    assert torch.equal(student.embedding.weight, teacher.embedding.weight)
    assert torch.equal(student.blocks[0].qkv.weight, teacher.blocks[0].qkv.weight)


def test_students_train_on_the_largest_logits_that_are_kept(small):
    found = example.compare_students(small, seeds=(0,))
    assert list(found) == ["teacher", *(stage.name for stage in example.stages())]
    n = small.data.size("test")
    counted = example.WINDOW - example.CONTEXT
    for name, each in found.items():
        assert each.shape == (1, n, example.WINDOW), name
        assert (np.isfinite(each).sum(2) == counted).all()
        assert 4 < np.nanmean(each) < 8  # it has learned a little
    assert found["KL"].tobytes() != found["labels"].tobytes()
    kept = small.trainings.sources.kept("teacher", knowledge_named("kl1"), 16)
    logits = kept.rows(np.arange(5))["outputs"]
    whole = example.predict(small.teacher, small.data, "train", small.task, positions=np.arange(5))
    top = whole.topk(16).indices
    assert (logits == logits.amin(-1, keepdim=True)).sum(-1).min() >= 256 - 16
    torch.testing.assert_close(
        logits.log_softmax(-1).gather(-1, top), whole.log_softmax(-1).gather(-1, top),
        atol=1e-2, rtol=1e-2,
    )  # fmt: skip


def test_the_tables_say_what_was_found():
    rng = np.random.default_rng(0)
    labels = torch.tensor([[IGNORED, ord("a"), ord(" ")], [IGNORED, ord("b"), ord("c")]] * 6)
    easy = np.where(labels == ord(" "), 1.0, 3.0) + np.zeros((2, 1, 1))
    easy[:, labels == IGNORED] = np.nan
    noise = rng.normal(0, 0.01, easy.shape)
    found = {"teacher": easy[:1], "labels": easy + 0.5, "KL": easy + 0.25 + noise}
    lines = example.table(found, np.arange(12) // 2).splitlines()
    assert lines[1].split() == ["teacher", "2.500", "[2.500,", "2.500]", "2.500"]
    assert "+0.2" in lines[3]
    assert "[+0.2" in lines[3]
    classes = example.class_table(found, labels).splitlines()
    assert classes[0].split() == ["letter", "space"]
    assert classes[1].split() == ["bytes", "18", "6"]
    assert classes[2].split() == ["teacher", "3.000", "1.000"]


class Sentences(Dataset):
    """Token ids that count up by one, some of them padding with whatever fills it."""

    def __init__(self, n: int, filler: int, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        ids = (torch.randint(20, (n, 1), generator=rng) + torch.arange(9)) % 20
        self.mask = torch.arange(9) < torch.randint(4, 10, (n, 1), generator=rng)
        self.ids = torch.where(self.mask, ids, filler)
        after = nn.functional.pad(self.ids[:, 1:], (0, 1))
        self.labels = torch.where(nn.functional.pad(self.mask[:, 1:], (0, 1)), after, IGNORED)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self.ids[row],
            "attention_mask": self.mask[row].long(),
            "labels": self.labels[row],
        }


def causal(filler: int, folder) -> gk.Study:
    """A study of random GPT-2 models on counting."""
    transformers = pytest.importorskip("transformers")

    def gpt2(n_layer: int) -> nn.Module:
        config = transformers.GPT2Config(
            vocab_size=20, n_positions=9, n_embd=16, n_layer=n_layer, n_head=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)

    split = (("train", 160), ("validation", 40), ("test", 40))
    return gk.Study(
        name="counting",
        task=example.NextByte(),
        data=gk.Data(**{name: Sentences(n, filler, seed) for seed, (name, n) in enumerate(split)}),
        family=gk.Family(gpt2, sizes=[1, 2], student=1, teacher=2),
        recipe=gk.Recipe(epochs=8, batch_size=16, lr=1e-2, knowledge="kl1", top_k=4),
        out=folder,
    )


def test_causal_models_of_hugging_face_take_the_same_way(tmp_path):
    opened = causal(0, tmp_path / "zeros")
    found = example.compare_students(opened, seeds=(0,))
    assert all(np.nanmean(each) < np.log2(20) / 2 for each in found.values())
    labels = opened.data.targets("test")
    assert labels is not None
    for each in found.values():
        assert (np.isnan(each[0]) == (labels == IGNORED).numpy()).all()
    other = example.compare_students(causal(13, tmp_path / "thirteens"), seeds=(0,))
    for name, each in found.items():  # whatever fills the padding
        np.testing.assert_allclose(other[name], each, rtol=1e-3, atol=1e-3)
    assert "KL inherited" in example.table(found)
