"""Survey: every probe reads the same pass over each split; what was chosen is noted, failures are named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gapkit.probes
from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.measurement import Contributions, Curve, Measurement, Measurements
from gapkit.probes import measure
from gapkit.probes.maps import NAMES, SimilarityProbe
from gapkit.probes.probe import Seen, Setting
from gapkit.probes.similarity import cka
from gapkit.task import Classification


class Watcher:
    """Keeps what it was shown and answers with one result of each kind."""

    name = "watcher"

    def __init__(self) -> None:
        self.seen: Mapping[str, Seen] = {}
        self.setting: Setting | None = None

    def measure(self, seen, setting):
        self.seen, self.setting = seen, setting
        for split, item in seen.items():
            mean = float(item.student.outputs.mean())
            yield Measurement(
                name="mean", of="student", split=split, value=mean, low=mean, high=mean, n=1
            )
        yield Contributions(of="student", split="test", values=np.arange(3.0))
        yield Curve(
            name="c",
            of="student",
            x_name="x",
            y_name="y",
            x=[0.0],
            y=[1.0],
            low=[0.0],
            high=[2.0],
            n=[1],
        )


class Failing:
    name = "failing"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def measure(self, seen, setting):
        raise self.error
        yield


def net(width: int = 6, seed: int = 0, depth: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), *hidden, nn.Linear(width, 3))


def survey(**keywords) -> Measurements:
    generator = torch.Generator().manual_seed(0)
    sets = {}
    for split, n in (("train", 60), ("validation", 90), ("test", 120)):
        x = torch.randn(n, 4, generator=generator)
        sets[split] = TensorDataset(x, torch.arange(n) % 3)
    given = {
        "study": "small",
        "task": Classification(),
        "data": Data(**sets),
        "teacher": net(6),
        "student": net(3, 1),
        "probes": [Watcher()],
    }
    return measure(**(given | keywords))


def test_probes_see_every_split_once_and_their_results_are_sorted_by_kind():
    watcher = Watcher()
    found = survey(
        probes=[watcher, SimilarityProbe(n_permutations=19)], untrained=net(3, 2), seed=7
    )
    assert found.study == "small"
    assert [item.split for item in found.values] == ["train", "validation", "test"]
    assert [(m.name, m.split) for m in found.matrices] == [
        (name, split) for split in ("validation", "test") for name in NAMES
    ]
    assert (len(found.curves), len(found.contributions)) == (1, 1)
    assert {split: len(seen.targets) for split, seen in watcher.seen.items()} == {
        **{"train": 60, "validation": 90, "test": 120}
    }
    assert watcher.seen["test"].untrained is not None
    features = watcher.seen["test"].teacher.features, watcher.seen["test"].student.features
    expected = cka(features[0]["1"], features[1]["3"])
    assert abs(expected) > 0.01
    assert found.cka.cell("1", "3") == pytest.approx(expected, rel=1e-9)
    assert found.cka.seed == watcher.setting.seed == 7


def test_every_result_survives_json():
    found = survey(probes=[Watcher(), SimilarityProbe(n_permutations=19)], untrained=net(3, 2))
    assert Measurements.model_validate_json(found.model_dump_json()) == found


def test_the_same_seed_gives_the_same_measurements_whatever_the_batches():
    probes = [SimilarityProbe(n_permutations=19)]
    one = survey(probes=probes, batch_size=64).cka
    assert survey(probes=probes, batch_size=64).cka == one
    other = survey(probes=probes, batch_size=17).cka
    np.testing.assert_allclose(other.values, one.values, rtol=1e-4)


def test_the_setting_holds_models_and_one_sample():
    watcher, teacher = Watcher(), net(6)
    survey(
        probes=[watcher],
        teacher=teacher,
        reduce="flatten",
        splits=("test",),
        seed=3,
    )
    setting = watcher.setting
    assert setting.teacher is teacher
    assert setting.teacher_example.shape == setting.student_example.shape == (1, 4)
    assert (setting.reduce, setting.seed, setting.device) == ("flatten", 3, torch.device("cpu"))
    assert list(watcher.seen) == ["test"]


def test_notes_say_what_was_chosen_left_out_and_summed():
    notes = survey(teacher=net(6, depth=40)).notes
    assert notes[0].startswith("teacher: 24 layers (chosen, 18 left out): 1, ")
    assert notes[1] == "student: 3 layers (chosen, 0 left out): 1, 3, 4"
    assert notes[2] == (
        "train: 60 samples, features of all kept, reduce gap, layer sums: exact sums in one pass"
    )
    wide = survey(teacher=net(200), student=net(200, 1)).notes
    assert wide[4].endswith("layer sums: exact Gram matrices in tiles of 120")
    wanted = survey(layers=["1"], splits=("test",)).notes
    assert wanted[0] == "teacher: 1 layers (as asked): 1"
    assert wanted[2].endswith("layer sums: exact sums in one pass")


def test_layers_may_be_named_for_both_or_each():
    watcher = Watcher()
    survey(probes=[watcher], layers={"teacher": ["[13]"], "student": ["4"]})
    assert watcher.seen["test"].teacher.layers == ("1", "3")
    assert watcher.seen["test"].student.layers == ("4",)
    survey(probes=[watcher], layers={"student": ["4"]})
    assert watcher.seen["test"].teacher.layers == ("1", "3", "4")
    with pytest.raises(InputError, match="student: Expected a known layer but got '5'"):
        survey(layers=["5"], teacher=net(6, depth=2))


def test_progress_tells_phase_and_amount():
    calls = []
    survey(progress=lambda *call: calls.append(call), batch_size=80)
    assert calls == [
        *[("train", 60, 60), ("validation", 80, 90), ("validation", 90, 90)],
        *[("test", 80, 120), ("test", 120, 120), ("probes", 1, 1)],
    ]


def test_a_failing_probe_is_named():
    with pytest.raises(InputError, match="Probe 'failing': Expected more"):
        survey(probes=[Failing(InputError("Expected more"))])
    with pytest.raises(RuntimeError, match="Probe 'failing' failed with KeyError: 'x'"):
        survey(probes=[Failing(KeyError("x"))])


def test_a_probe_that_returns_something_else_is_named():
    class Odd(Watcher):
        name = "odd"

        def measure(self, seen, setting):
            return [{"value": 1.0}]

    with pytest.raises(InputError, match=r"Probe 'odd': Expected Measurement, .* but got dict"):
        survey(probes=[Odd()])


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InputError) as info:
        survey(
            teacher=lambda x: x,
            splits=("tst",),
            reduce="men",
            layers={"pupil": ["1"]},
        )
    text = str(info.value)
    assert "Expected the teacher to be an nn.Module but got function" in text
    assert "known split but got 'tst'; nearest: 'test'" in text
    assert "known reduce but got 'men'" in text
    assert "known model in layers but got 'pupil'" in text
    with pytest.raises(InputError, match="one or more splits but got 'test'"):
        survey(splits="test")


def test_models_are_left_as_they_were():
    teacher, student = net(6).train(), net(3, 1).train()
    random = torch.get_rng_state()
    survey(teacher=teacher, student=student, probes=[SimilarityProbe(n_permutations=19)])
    for module in (*teacher.modules(), *student.modules()):
        assert module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), random)


def test_the_package_imports_nothing_heavy_until_asked():
    code = "import sys, gapkit.probes as p; print('torch' in sys.modules, callable(p.cka))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True"]


def test_all_public_names_are_there():
    for name in gapkit.probes.__all__:
        assert getattr(gapkit.probes, name).__name__ == name
        assert name in dir(gapkit.probes)
    with pytest.raises(AttributeError, match="no attribute 'ckaa'"):
        gapkit.probes.ckaa  # noqa: B018
