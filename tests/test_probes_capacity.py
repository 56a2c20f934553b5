"""CapacityProbe: counts by hand, ranks and dimension of every layer, width shares and their refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.measurement import LayerMatrix, Measurement, Measurements
from gapkit.probes.capacity import CapacityProbe
from gapkit.probes.probe import Observation, Seen, Setting
from gapkit.probes.ranks import effective_rank, hint_bound
from gapkit.probes.twonn import dimension_interval
from gapkit.task import Classification


def views(groups: np.ndarray | None = None) -> dict[str, Seen]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=rng) * torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5, 0.1])
    rows = np.arange(80)
    teacher = Observation(x, ("in", "out"), {"in": x, "out": x[:, :2]}, rows)
    student = Observation(x, ("a", "dead"), {"a": x[:, :3], "dead": x[:, :1] * 0}, rows)
    return {name: Seen(name, teacher, student, None, None, groups) for name in ("train", "test")}


def surveyed(
    example: object, groups: np.ndarray | None = None, student: nn.Module | None = None
) -> Measurements:
    teacher = nn.Linear(6, 4)
    setting = Setting(
        Classification(), teacher, student or nn.Linear(6, 2), torch.ones(8, 6), example
    )
    found = list(CapacityProbe().measure(views(groups), setting))
    return Measurements(
        study="hand-made",
        values=tuple(item for item in found if isinstance(item, Measurement)),
        matrices=tuple(item for item in found if isinstance(item, LayerMatrix)),
    )


def test_counts_are_per_sample_and_once():
    found = surveyed(torch.ones(5, 6))
    assert found.get("parameters", of="teacher").value == 28
    assert found.get("parameters", of="student").value == 14
    assert found.get("flops", of="teacher").value == 2 * 6 * 4
    assert found.get("flops", of="student").value == 2 * 6 * 2
    assert found.get("flops", of="student").split == ""
    assert found.get("activation_bytes", of="student").value == 4 * 6  # its input
    as_words = surveyed({"input": torch.ones(5, 6)})
    assert as_words.get("flops", of="student").value == 2 * 6 * 2
    assert as_words.get("activation_bytes", of="student").value == 4 * 6


def test_activations_by_hand_whatever_does_not_grow_left_out():
    """Convolution keeps its input; BatchNorm its own, plus statistics; ReLU its output; Linear its input."""
    net = nn.Sequential(
        nn.Conv1d(1, 3, 3, padding=1), nn.BatchNorm1d(3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2),
    ).eval()  # fmt: skip
    found = surveyed(torch.ones(1, 1, 6), student=net)
    floats = 6 + 18 + 18 + 3 + 3
    pooled = found.get("activation_bytes", of="student").value - 4 * floats
    assert pooled in (0, 4 * 18)  # pooling keeps its input in some versions: ReLU's output, shared
    assert found.get("activation_bytes", of="student").better == "lower"
    assert not net.training
    assert int(net[1].num_batches_tracked) == 0


def test_a_model_that_cannot_train_on_copies_says_so():
    class Fussy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("no training\nhere")
            return self.linear(x)

    item = surveyed(torch.ones(5, 6), student=Fussy()).get("activation_bytes", of="student")
    assert item.reason == "no forward pass in train mode over copies of a sample: no training"


def test_several_inputs_are_copied_together():
    student = nn.Bilinear(6, 6, 2)
    found = surveyed((torch.ones(5, 6), torch.ones(5, 6)), student=student)
    assert found.get("activation_bytes", of="student").value >= 2 * 4 * 6


def test_layers_are_measured_and_what_cannot_be_is_said():
    found, x = surveyed(torch.ones(5, 6)), views()["test"].teacher.features["in"].double().numpy()
    rank = found.get("effective_rank", of="teacher", layer="in", split="test")
    assert rank.value == pytest.approx(effective_rank(x))
    assert 1 <= rank.low < rank.value < rank.high <= 6
    assert rank.n == 80
    assert not found.has("effective_rank", split="train")
    assert found.get("effective_rank", of="student", layer="dead", split="test").reason
    assert found.get("intrinsic_dimension", of="student", layer="dead", split="test").reason
    for layer in ("in", "out"):
        item = found.get("intrinsic_dimension", of="teacher", layer=layer, split="test")
        part = views()["test"].teacher.features[layer].double().numpy()
        assert item.value == pytest.approx(dimension_interval(part).value)
    bound = found.get("hint_bound", of="teacher", layer="in", split="test")
    assert bound.value == pytest.approx(hint_bound(x, 3))
    assert "student layer a" in bound.estimator
    assert found.get("hint_bound", of="teacher", layer="out", split="test").value == 1


def test_width_shares_hold_every_pair_of_layers():
    found = surveyed(torch.ones(5, 6))
    matrix = found.matrix("width_share")
    features = views()["test"].teacher.features
    for row, layer in enumerate(("in", "out")):
        for column, width in enumerate((3, 1)):
            want = hint_bound(features[layer], width)
            assert matrix.values[row, column] == pytest.approx(want)
            assert matrix.low[row, column] <= want <= matrix.high[row, column]
    assert 0.5 < matrix.cell("in", "dead") < matrix.cell("in", "a") < 1
    assert (matrix.teacher_dims, matrix.student_dims) == ((6, 2), (3, 1))
    assert matrix.reasons == {}
    assert matrix.n == 80


def test_too_few_samples_cannot_tell_what_a_width_holds():
    x = torch.randn(40, 60, generator=torch.Generator().manual_seed(1))
    rows = np.arange(40)
    teacher = Observation(x, ("wide", "flat"), {"wide": x, "flat": x[:, :39] * 0}, rows)
    student = Observation(x, ("a", "b"), {"a": x[:, :39], "b": x[:, :10]}, rows)
    setting = Setting(
        Classification(), nn.Linear(60, 2), nn.Linear(60, 2), torch.ones(1, 60), torch.ones(1, 60)
    )
    found = list(
        CapacityProbe().measure({"test": Seen("test", teacher, student, None, None)}, setting)
    )
    matrix = next(item for item in found if isinstance(item, LayerMatrix))
    assert np.isnan(matrix.values).tolist() == [[True, False], [True, True]]
    assert matrix.reasons["0,0"] == "40 samples span no more than the 39 directions asked about"
    assert matrix.reasons["1,1"] == "constant features"
    bounds = {item.layer: item for item in found if item.name == "hint_bound"}
    assert "40 samples" in bounds["wide"].reason


def test_one_sample_of_each_group_for_the_dimension():
    found = surveyed(torch.ones(5, 6), groups=np.arange(80) // 2)
    assert found.get("intrinsic_dimension", of="teacher", layer="out", split="test").n == 40


def test_an_example_without_a_tensor_is_refused():
    setting = Setting(Classification(), nn.Identity(), nn.Identity(), "words", "words")
    with pytest.raises(InputError, match="holds a tensor but got str"):
        list(CapacityProbe().measure({}, setting))
