"""Attribution: closed forms, completeness and captum's own layer methods as oracles; nothing left on the models."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.measurement import Measurement
from gapkit.probes import measure
from gapkit.probes.attribution import (
    AttributionProbe,
    integrated_gradients,
    occlusion,
    saliency,
)
from gapkit.probes.evidence import overlaid, same_evidence, shuffled_evidence, side_by_side
from gapkit.probes.probe import Probe
from gapkit.probes.question import Question, Unattributable, answer_score, named_answer
from gapkit.task import Classification


class Plain(Classification):
    """Outputs of another kind: the tensor itself, and targets that nobody looks at."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def check(self, outputs: torch.Tensor, targets: Any, who: str) -> None:
        return None


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cnn(width: int = 4, seed: int = 0, in_place: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=in_place),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=in_place),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 3),
    )


class Reader(nn.Module):
    """A small text classifier: embeddings, a mask, keywords, a tuple answer."""

    def __init__(self, seed: int = 0, padding: int | None = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.places = nn.Embedding(9, 5)
        self.words = nn.Embedding(20, 5, padding_idx=padding)
        self.mix = nn.Linear(5, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        places = self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        hidden = torch.tanh(self.mix(self.words(input_ids) + 0.1 * places))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return (self.head(pooled), hidden)


def sentences(n: int = 30, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    ids = torch.tensor(rng.integers(1, 20, (n, length)))
    mask = (torch.arange(length) < torch.tensor(rng.integers(3, length + 1, (n, 1)))).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


# Integrated Gradients, saliency, occlusion


def test_linear_models_have_closed_forms():
    x, weight, baseline = drawn(6, 5), drawn(5, seed=1), drawn(6, 5, seed=2)
    answer = lambda z: z @ weight + 3  # noqa: E731
    ways = integrated_gradients, occlusion
    for way in ways:
        torch.testing.assert_close(way(answer, x, baseline), weight * (x - baseline))
        torch.testing.assert_close(way(answer, x), weight * (x - x.mean(0)))
    torch.testing.assert_close(saliency(answer, x), weight.expand(6, 5))


def test_integrated_gradients_of_a_square_are_the_difference_of_squares():
    """f = Σx²: each value's share is x² - b² exactly, and its gradient 2x."""
    x, baseline = drawn(4, 3), drawn(4, 3, seed=1)
    answer = lambda z: z.square().sum(1)  # noqa: E731
    found = integrated_gradients(answer, x, baseline, n_steps=4)
    torch.testing.assert_close(found, (x - baseline) * (x + baseline))
    torch.testing.assert_close(saliency(answer, x), 2 * x)


def test_integrated_gradients_are_complete_and_better_with_more_steps():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 1))
    torch.manual_seed(0)
    for part in net.parameters():
        nn.init.normal_(part, std=0.3)
    answer = lambda z: net(z)[:, 0]  # noqa: E731
    x, baseline = 2 * drawn(5, 1, 8, 8), drawn(5, 1, 8, 8, seed=3)
    with torch.no_grad():
        fall = answer(x) - answer(baseline)
    errors = [
        (integrated_gradients(answer, x, baseline, n).flatten(1).sum(1) - fall).abs().max().item()
        for n in (1, 4, 16)
    ]
    assert fall.abs().min() > 0.1
    assert errors[2] < 1e-4 < errors[0]


def test_occlusion_takes_windows_out_and_needs_no_gradient():
    x, baseline = drawn(3, 2, 16, 10), drawn(3, 2, 16, 10, seed=1)

    def answer(z: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(
            z.detach().numpy().max((1, 2, 3)) + z.detach().numpy().sum((1, 2, 3))
        )

    found = occlusion(answer, x, baseline)
    for row in (0, 3, 15):
        for column in (0, 9):
            rows = slice(row // 2 * 2, row // 2 * 2 + 2)
            columns = slice(column // 2 * 2, column // 2 * 2 + 2)
            hidden = x.clone()
            hidden[:, :, rows, columns] = baseline[:, :, rows, columns]
            fall = answer(x) - answer(hidden)
            for channel in (0, 1):
                torch.testing.assert_close(found[:, channel, row, column], fall)


def test_what_cannot_be_attributed_is_refused():
    for way in (integrated_gradients, saliency, occlusion):
        with pytest.raises(InputError, match="floating inputs of shape"):
            way(lambda z: z.sum(1), torch.ones(3, 2, dtype=torch.long))
        with pytest.raises(InputError, match=r"but got torch.float32 \(3,\)"):
            way(lambda z: z, torch.ones(3))
    with pytest.raises(InputError, match="n_steps of at least 1"):
        integrated_gradients(lambda z: z.sum(1), torch.ones(3, 2), n_steps=0)


# Evidence


def test_agreement_is_spearmans_correlation_of_every_sample():
    t, s = drawn(5, 4, 4), drawn(5, 4, 4, seed=1) + 0.5 * drawn(5, 4, 4)
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(t, s)]
    found = same_evidence(t, s)
    assert np.ptp(expected) > 0.02
    assert found == pytest.approx(expected)
    assert same_evidence(t, 2 * t.exp() + 1) == pytest.approx(np.ones(5))
    assert same_evidence(t, -t) == pytest.approx(-np.ones(5))


def test_masked_cells_and_constant_maps():
    t, s = drawn(3, 6), drawn(3, 6, seed=1)
    t[0, 4:], s[0, 4:] = torch.nan, torch.nan
    t[1], s[2, 2:] = 0.5, torch.nan
    found = same_evidence(t, s)
    assert found[0] == pytest.approx(stats.spearmanr(t[0, :4], s[0, :4]).statistic)
    assert np.isnan(found[1:]).all()


def test_shuffled_evidence_takes_other_samples_maps():
    """Where all students show sample 0's map, only its own teacher's would agree fully."""
    t = drawn(12, 30)
    s = t[:1].repeat(12, 1)
    pairs = np.array([[stats.spearmanr(a, b).statistic for b in s] for a in t])
    found = shuffled_evidence(t, s, seed=4)
    assert found[0] < 0.6
    others = np.delete(pairs[:, 0], 0)
    assert found[0] >= np.sort(others)[:4].mean() - 1e-9
    assert (found[1:] <= pairs.max()).all()
    assert found.mean() == pytest.approx(
        pairs[:, 0].mean(), abs=1e-9
    )  # each map is lent four times
    assert np.isnan(shuffled_evidence(t[:1], s[:1])).all()


def test_maps_are_averaged_to_the_smaller_grid():
    t, s = drawn(2, 3, 8, 4), drawn(2, 1, 4, 8, seed=1)
    wide, narrow = overlaid(t, s)
    summed = t.sum(1)
    torch.testing.assert_close(wide, (summed[:, ::2] + summed[:, 1::2]) / 2)
    torch.testing.assert_close(narrow, (s[:, 0, :, ::2] + s[:, 0, :, 1::2]) / 2)
    alike = overlaid(drawn(2, 5, 3), drawn(2, 5, 3, seed=1))
    torch.testing.assert_close(alike[0], drawn(2, 5, 3))
    waves = overlaid(drawn(2, 1, 6), drawn(2, 1, 3))
    assert waves[0].shape == waves[1].shape == (2, 3)
    assert overlaid(drawn(2, 1, 4, 4, 4), drawn(2, 1, 2, 4, 4))[0].shape == (2, 2, 4, 4)


@pytest.mark.parametrize("other", [(4, 7), (4, 1, 8), (4, 1, 8, 8, 8), (4, 64)])
def test_kinds_that_cannot_be_laid_over_each_other(other):
    with pytest.raises(Unattributable, match="teacher \\(1, 8, 8\\), student"):
        overlaid(drawn(4, 1, 8, 8), drawn(*other))


def test_maps_of_two_shapes_are_refused():
    with pytest.raises(InputError, match="maps of one shape"):
        same_evidence(drawn(2, 3), drawn(2, 4))


# Questions


@pytest.mark.parametrize(
    "kind, outputs, expected",
    [
        ("classification", [[1.0, 4.0], [3.0, 2.0]], [4.0, 3.0]),
        ("multilabel", [[1.0, 4.0], [3.0, 2.0]], [4.0, 3.0]),
        ("classification", [[[0.0, 2.0], [4.0, 1.0]]], [3.0]),
        ("regression", [[1.0, 4.0], [3.0, -2.0]], [5.0, 1.0]),
        ("regression", [1.0, 4.0], [1.0, 4.0]),
        ("embedding", [[3.0, 4.0], [0.0, 2.0]], [5.0, 2.0]),
    ],
)
def test_the_answer_of_every_kind_of_task(kind, outputs, expected):
    outputs = torch.tensor(outputs)
    assert answer_score(kind, outputs, named_answer(kind, outputs)).tolist() == expected


def test_the_embeddings_own_direction_has_a_gradient():
    """The cosine with the embedding itself would have none: it is at its maximum."""
    net = nn.Linear(3, 4)
    x = drawn(5, 3)
    ask = Question(net, x, Plain("embedding"), net(x).detach())
    assert saliency(ask, ask.x).abs().sum(1).min() > 0.1
    norm = net(x).detach().norm(dim=1)
    torch.testing.assert_close(ask(x).detach(), norm)


def test_questions_find_the_floating_tensor_and_keep_the_rest():
    class Two(nn.Module):
        def forward(self, small, *, image, scale, flag):
            assert flag == "yes"
            return {"logits": (image.flatten(1) @ torch.ones(12, 2)) * scale[:, None] + small}

    view = {
        "small": drawn(4, 2),
        "image": drawn(4, 3, 4, seed=1),
        "scale": torch.arange(4.0),
        "flag": "yes",
    }
    ask = Question(Two(), view, Classification(), torch.zeros(4, dtype=torch.long))
    assert ask.x.shape == (4, 3, 4)
    found = saliency(ask, ask.x)
    torch.testing.assert_close(found, torch.arange(4.0).view(4, 1, 1).expand(4, 3, 4))
    twice = ask(ask.x.repeat(2, 1, 1))
    torch.testing.assert_close(twice, ask(ask.x).repeat(2))


def test_low_precision_models_are_attributed_in_float32():
    net = cnn().eval()
    x = drawn(4, 1, 8, 8)
    named = net(x).argmax(1)
    half = Question(copy.deepcopy(net).bfloat16(), x.bfloat16(), Classification(), named)
    full = Question(net, x, Classification(), named)
    assert half.x.dtype == torch.float32
    found, exact = (integrated_gradients(ask, ask.x, ask.baseline) for ask in (half, full))
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.95


def test_tokens_are_attributed_at_the_embedding_that_reads_them():
    """Against captum's LayerIntegratedGradients with the padding token, whose vector is 0, as baseline."""
    net, view = Reader().eval(), sentences()
    named = net(**view)[0].argmax(1)
    ask = Question(net, view, Classification(), named)
    found = integrated_gradients(ask, ask.x, ask.baseline, n_steps=8)
    ids, mask = view["input_ids"], view["attention_mask"]
    oracle = LayerIntegratedGradients(lambda i, m: net(i, m)[0], net.words).attribute(
        ids, baselines=torch.zeros_like(ids), target=named, additional_forward_args=mask,
        n_steps=8,
    )  # fmt: skip
    assert oracle.abs().max() > 0.05
    torch.testing.assert_close(found, oracle, atol=1e-6, rtol=1e-4)
    assert torch.equal(ask.ids, ids)
    assert torch.equal(ask.counts, mask == 1)
    bare_ids = Question(net, ids, Classification(), named)
    assert torch.equal(bare_ids.counts, ids != 0)
    assert Question(Reader(padding=None), ids, Classification(), named).counts is None


def test_tokens_that_do_not_count_are_no_cells():
    view = sentences(6)
    ask = Question(Reader().eval(), view, Classification(), torch.zeros(6).long())
    asked = {"teacher": ask, "student": ask}
    maps = {"teacher": drawn(6, 7, 5), "student": drawn(6, 7, 5, seed=1)}
    for found, given in zip(side_by_side(asked, maps), maps.values()):
        counts = view["attention_mask"] == 1
        assert not counts.all()
        assert torch.equal(found.isnan(), ~counts)
        torch.testing.assert_close(found[counts], given.sum(-1)[counts])


def test_a_model_may_write_into_its_input():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))
    x = drawn(5, 4)
    ask = Question(net, x, Classification(), torch.ones(5).long())
    expected = net[1].weight[1] * (x > 0)
    torch.testing.assert_close(saliency(ask, ask.x), expected.detach())
    assert torch.equal(ask.x, drawn(5, 4))


def test_integers_that_no_embedding_reads_leave_nothing_to_attribute():
    class Sums(nn.Module):
        def forward(self, x):
            return x.float() @ torch.ones(3, 2)

    with pytest.raises(Unattributable, match="reads its integers"):
        Question(
            Sums(), torch.ones(4, 3, dtype=torch.long), Classification(), torch.zeros(4).long()
        )


def test_models_are_left_as_they_were_also_after_an_exception():
    net = cnn()
    net[0].weight.requires_grad_(False)
    x = drawn(6, 1, 8, 8)
    before = copy.deepcopy(net.state_dict())
    ask = Question(net.eval(), x, Classification(), net(x).argmax(1))
    integrated_gradients(ask, ask.x, ask.baseline)
    reader, view = Reader(), sentences(6)
    asked = Question(reader, view, Classification(), torch.zeros(6).long())
    reader.head.in_features, weight = 9, reader.head.weight
    reader.head.weight = nn.Parameter(torch.ones(3, 9))
    with pytest.raises(RuntimeError):
        integrated_gradients(asked, asked.x, asked.baseline)
    reader.head.weight = weight
    for model in (net, reader):
        assert all(part.grad is None for part in model.parameters())
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks
    assert not net[0].weight.requires_grad
    assert net[3].weight.requires_grad
    for name, part in net.state_dict().items():
        assert torch.equal(part, before[name])


# The probe


def surveyed(
    teacher: nn.Module,
    student: nn.Module,
    task: Any = None,
    probe: AttributionProbe | None = None,
    samples: Any = None,
    **views: Any,
) -> list[Measurement]:
    x = samples
    if x is None:
        x = drawn(60, 1, 8, 8)
        x[:, 0, 2:5, 2:5] += 2
    data = TensorDataset(x, torch.arange(len(x)) % 3)
    found = measure(
        study="small",
        task=task or Classification(),
        data=Data(train=data, validation=data, test=data, **views),
        teacher=teacher,
        student=student,
        probes=[probe or AttributionProbe(n_samples=32, n_steps=8)],
        splits=("validation", "test"),
    )
    return list(found.values)


def by_name(found: list[Measurement], name: str, split: str = "test") -> Measurement:
    (item,) = [item for item in found if item.name == name and item.split == split]
    return item


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency", "occlusion"])
def test_a_model_agrees_with_itself_and_not_with_a_stranger(method):
    net, probe = cnn(), AttributionProbe(32, 8, method)
    same = surveyed(net, copy.deepcopy(net), probe=probe)
    for split in ("validation", "test"):
        own = by_name(same, "attribution_agreement", split)
        assert own.value == pytest.approx(1)
        assert by_name(same, "attribution_agreement_shuffled", split).high < 0.8
    assert own.n == 32
    assert "4 other samples" in by_name(same, "attribution_agreement_shuffled").estimator
    apart = surveyed(net, cnn(seed=5), probe=probe)
    assert by_name(apart, "attribution_agreement").high < 0.6


def test_a_near_copy_agrees_more_the_nearer_it_is():
    net, values = cnn(), []
    for noise in (0.02, 0.1, 1.0):
        near = copy.deepcopy(net)
        torch.manual_seed(1)
        with torch.no_grad():
            for part in near.parameters():
                part += noise * torch.randn_like(part)
        values.append(by_name(surveyed(net, near), "attribution_agreement"))
    assert values[0].low > values[1].high > values[1].low > values[2].high


def test_the_estimator_says_what_was_done():
    found = by_name(surveyed(cnn(), cnn(seed=1)), "attribution_agreement")
    assert found.estimator.startswith(
        "Spearman of Integrated Gradients, 8 steps from the mean sample, 8×8 cells; mean"
    )
    assert (found.of, found.seed, found.better) == ("pair", 0, "higher")


def test_views_of_two_sizes_are_compared_on_the_smaller_grid():
    views = {"student_input": lambda raw: raw[0][:, :, ::2, ::2]}
    found = by_name(surveyed(cnn(), cnn(), **views), "attribution_agreement")
    assert "4×4 cells" in found.estimator
    assert math.isfinite(found.value)


def test_a_black_box_is_occluded_and_said_to_be():
    class Box(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = cnn(in_place=False)

        @torch.no_grad()
        def forward(self, x):
            return self.inner(x)

    found = by_name(surveyed(Box(), Box()), "attribution_agreement")
    assert found.value == pytest.approx(1)
    assert "occlusion (a model gives no gradient)" in found.estimator


def test_modalities_that_cannot_be_compared_are_nan_with_a_reason():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    views = {"student_input": lambda raw: raw[0].flatten(1)}
    found = surveyed(cnn(), flat, **views)
    for name in ("attribution_agreement", "attribution_agreement_shuffled"):
        item = by_name(found, name)
        assert math.isnan(item.value)
        assert "student (64,)" in item.reason
    assert any(math.isfinite(item.value) for item in found if item.name == "layer_importance")


def test_a_student_that_does_not_look_is_nan_with_a_reason():
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(64, 3)

        def forward(self, x):
            return self.net(0 * x.flatten(1))

    found = by_name(surveyed(cnn(), Blind()), "attribution_agreement")
    assert "without regard to its input" in found.reason


def texts(same: bool = True) -> dict[str, Any]:
    """A data set of token rows, and views of it for both models; other tokens for the student if asked."""
    rows = sentences(40)
    rows = torch.cat([rows["input_ids"], rows["attention_mask"]], 1)

    def view(raw):
        return {"input_ids": raw[0][:, :7], "attention_mask": raw[0][:, 7:]}

    def other(raw):
        return view(raw) | {"input_ids": (raw[0][:, :7] + 1) % 20}

    return {"samples": rows, "teacher_input": view, "student_input": view if same else other}


def test_text_is_compared_token_by_token():
    net = Reader()
    same = surveyed(net, copy.deepcopy(net), **texts())
    assert by_name(same, "attribution_agreement").value == pytest.approx(1)
    assert "zero embeddings, 7 cells" in by_name(same, "attribution_agreement").estimator
    apart = surveyed(net, Reader(3), **texts())
    assert by_name(apart, "attribution_agreement").high < 0.9


def test_other_tokens_are_nan_with_a_reason():
    found = by_name(surveyed(Reader(), Reader(1), **texts(same=False)), "attribution_agreement")
    assert found.reason == "teacher and student do not read the same tokens"


@pytest.mark.parametrize("kind", ["multilabel", "regression", "embedding"])
def test_every_kind_of_task_is_attributed(kind):
    net = cnn()
    with torch.no_grad():
        net[-1].weight *= 20
    found = surveyed(net, copy.deepcopy(net), task=Plain(kind))
    assert by_name(found, "attribution_agreement").value == pytest.approx(1)
    values = [item.value for item in found if item.name == "layer_importance" and not item.reason]
    assert len(values) >= 2
    assert min(values) > 0


def test_costs_are_bounded_and_groups_give_one_sample_each():
    few = surveyed(cnn(), cnn(), probe=AttributionProbe(max_flops=2.5e7))
    n = by_name(few, "attribution_agreement").n
    assert 8 <= n < 60
    none = surveyed(cnn(), cnn(), probe=AttributionProbe(max_flops=1e3))
    assert "FLOPs a sample" in by_name(none, "attribution_agreement").reason
    assert all(item.reason for item in none)
    columns = {name: np.arange(60) // 4 for name in ("train", "validation", "test")}
    grouped = surveyed(cnn(), cnn(), groups=columns)
    assert by_name(grouped, "attribution_agreement").n == 15
    columns = {name: np.arange(60) // 10 for name in columns}
    assert "6 samples or groups, 8 needed" in surveyed(cnn(), cnn(), groups=columns)[0].reason


def test_the_same_seed_gives_the_same_figures_and_no_random_state_moves():
    state = torch.get_rng_state()
    nets = cnn(), cnn(seed=1)
    modes = [module.training for net in nets for module in net.modules()]
    torch.set_rng_state(state)
    first = surveyed(*nets)
    assert torch.equal(torch.get_rng_state(), state)
    assert [item.value for item in surveyed(*nets)] == pytest.approx(
        [item.value for item in first], nan_ok=True, abs=0
    )
    assert [module.training for net in nets for module in net.modules()] == modes
    assert all(part.grad is None for net in nets for part in net.parameters())
    assert not any(module._forward_hooks for net in nets for module in net.modules())


def test_probe_without_data_or_with_unknown_settings():
    assert isinstance(AttributionProbe(), Probe)
    with pytest.raises(InputError, match="known attribution method but got 'gradient'"):
        AttributionProbe(method="gradient")
    with pytest.raises(InputError, match="n_samples of at least 8"):
        AttributionProbe(n_samples=4)
