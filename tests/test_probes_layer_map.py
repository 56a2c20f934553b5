"""Layer maps: every cell against the pure functions, intervals, edges; the probe of both maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gapkit.errors import InputError
from gapkit.probes import sums
from gapkit.probes.layer_map import cka_map, from_moments
from gapkit.probes.similarity import cka
from gapkit.probes.sums import Grams


def net(width: int = 6, seed: int = 0, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(inplace), nn.BatchNorm1d(width), nn.Linear(width, 3)
    )


def inputs(n: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("size", [200, 64, 33, 199])
def test_the_map_equals_cka_of_each_pair_for_any_batch_size(size, debiased):
    """All batches count, a last one of 1 sample too."""
    teacher, student, x = net(6, 0).eval(), net(3, 1).eval(), inputs()
    layers = ["0", "1", "3"]
    matrix = cka_map(teacher, student, x.split(size), layers, layers, debiased=debiased)
    for row, t in enumerate((1, 2, 4)):
        for column, s in enumerate((1, 2, 4)):
            expected = cka(teacher[:t](x), student[:s](x), debiased=debiased)
            assert 0.01 < expected < 1
            assert matrix.values[row, column] == pytest.approx(expected, rel=1e-4)
    assert matrix.teacher_layers == ("0", "1", "3")
    assert (matrix.teacher_dims, matrix.student_dims) == ((6, 6, 3), (3, 3, 3))
    assert (matrix.n, matrix.reduce) == (200, "gap")
    sd = math.sqrt(2 / (200 * 197))
    free = cka(teacher[:1](x), student[:1](x))
    assert matrix.null_z[0, 0] == pytest.approx(free / sd, rel=1e-4)


def test_a_shuffled_loader_shows_both_models_the_same_samples():
    teacher, x = net(6, 0, inplace=True), inputs()
    loader = DataLoader(TensorDataset(x, torch.zeros(200)), batch_size=30, shuffle=True)
    matrix = cka_map(teacher, teacher, loader)
    np.testing.assert_allclose(matrix.values.diagonal(), 1.0)
    assert (matrix.low.diagonal() > 0.999).all()


def test_in_place_activations_do_not_change_a_kept_layer():
    x = inputs()
    plain, greedy = net(6, 0, False), net(6, 0, True)
    layers = ["0", "1"]
    values = [cka_map(model, model, [x], layers, layers).values for model in (plain, greedy)]
    assert values[0][0, 1] < 0.98
    np.testing.assert_array_equal(values[0], values[1])


def test_mappings_pairs_and_generators_are_read_once():
    class Named(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    model, x = Named(*net()), inputs()
    tensors = cka_map(model, model, (part for part in x.split(50)))
    pairs = cka_map(model, model, [(part, part) for part in x.split(50)])
    dicts = cka_map(model, model, [{"x": part, "labels": part} for part in x.split(50)])
    np.testing.assert_array_equal(tensors.values, pairs.values)
    np.testing.assert_array_equal(tensors.values, dicts.values)


def test_models_are_left_alone_by_the_map():
    teacher, student = net().train(), net(3).train()
    means = teacher[2].running_mean.clone()
    random = torch.get_rng_state()
    with pytest.raises(InputError, match="nan or inf from the teacher at '1' in batch 1"):
        cka_map(teacher, student, [inputs(), torch.full((9, 4), torch.nan)])
    cka_map(teacher, student, [inputs()])
    for module_ in (*teacher.modules(), *student.modules()):
        assert module_.training
        assert not module_._forward_hooks
    assert torch.equal(teacher[2].running_mean, means)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_map_refuses_what_it_cannot_use():
    with pytest.raises(InputError, match="at least one batch"):
        cka_map(net(), net(), [])
    with pytest.raises(InputError, match="known layer but got '7'"):
        cka_map(net(), net(), [inputs()], ["7"])
    with pytest.raises(InputError, match="known reduce but got 'median'"):
        cka_map(net(), net(), [inputs()], reduce="median")


def test_intervals_need_blocks_and_cells_say_why_not():
    matrix = cka_map(net(), net(3, 1), [inputs(40)])
    assert np.isfinite(matrix.values).all()
    assert np.isnan(matrix.low).all()
    assert matrix.reasons["0,0"] == "no interval: 5 blocks of samples, 10 needed"
    enough = cka_map(net(), net(3, 1), [inputs(200)])
    assert (enough.low < enough.values).all()
    assert (enough.values < enough.high).all()
    assert enough.reasons == {}


@pytest.mark.slow
def test_intervals_cover_the_truth():
    teacher, student = net(6, 0).eval(), net(2, 1).eval()
    truth = cka_map(teacher, student, [inputs(20_000, 99)], ["1"], ["1"]).values[0, 0]
    hits = []
    for seed in range(60):
        matrix = cka_map(teacher, student, inputs(240, seed).split(80), ["1"], ["1"])
        hits.append(matrix.low[0, 0] <= truth <= matrix.high[0, 0])
    assert 0.05 < truth < 0.95
    assert 0.88 <= np.mean(hits) <= 1.0


def test_dead_layers_are_nan_with_a_reason():
    dead = net(3)
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1)
    matrix = cka_map(net(), dead, [inputs()], ["0"], ["0", "1", "3"])
    assert np.isnan(matrix.values).all()
    assert matrix.reasons["0,1"] == "the student's '1' is the same for all samples"
    few = cka_map(net(), net(), [inputs(3)], ["0"], ["0"])
    assert few.reasons == {"0,0": "3 samples, 4 needed"}
    eye = {"a": torch.eye(9, dtype=torch.float64)}
    assert "self term is 0" in from_moments(Grams(eye, eye)).reasons["0,0"]


def test_layers_too_wide_for_exact_sums_are_summed_by_batch(monkeypatch):
    exact = cka_map(net(), net(3, 1), inputs(2000).split(100))
    monkeypatch.setattr(sums, "BYTE_BUDGET", 100)
    batched = cka_map(net(), net(3, 1), inputs(2000).split(100))
    assert "exact sums in one pass" in exact.estimator
    assert "HSIC1 summed over batches" in batched.estimator
    np.testing.assert_allclose(batched.values, exact.values, atol=0.05)
    assert not np.array_equal(batched.values, exact.values)
    with pytest.raises(InputError, match="debiased=True for layers this wide"):
        cka_map(net(), net(3, 1), [inputs()], debiased=False)


def test_tokens_are_samples_in_groups_of_their_sequence():
    torch.manual_seed(0)
    teacher, student = nn.Sequential(nn.Linear(3, 6), nn.Tanh()), nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(60, 5, 3)
    found = cka_map(teacher, student, x.split(16), ["1"], ["0"], reduce="tokens")
    with torch.no_grad():
        expected = cka(teacher(x).flatten(0, 1), student(x).flatten(0, 1))
    assert 0.2 < expected < 0.99
    assert found.n == 300
    assert found.values[0, 0] == pytest.approx(expected, abs=1e-6)
    pooled = cka_map(teacher, student, x.split(16), ["1"], ["0"], reduce="mean")
    assert pooled.n == 60
