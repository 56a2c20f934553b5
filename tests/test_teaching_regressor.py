"""Regressors bring a student's features to a teacher's shape; exits get an output of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.teaching.regressor import Regressor, aligned, heads
from gapkit.teaching.taps import pooled


def features(*shape, seed=0, **kwargs):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **kwargs)


def halved(maps):
    """Means of blocks of 2 by 2, by a loop."""
    n, c, h, w = maps.shape
    found = torch.empty(n, c, h // 2, w // 2)
    for row in range(h // 2):
        for column in range(w // 2):
            block = maps[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            found[:, :, row, column] = block.sum((2, 3)) / 4
    return found


@pytest.mark.parametrize(
    "ours, theirs, letters",
    [
        ((2, 3), (2, 5), "nc,dc->nd"),
        ((2, 4, 3), (2, 4, 5), "ntc,dc->ntd"),
        ((2, 3, 4, 6), (2, 5, 4, 6), "nchw,dc->ndhw"),
        ((2, 3, 2, 4, 6), (2, 5, 2, 4, 6), "ncthw,dc->ndthw"),
    ],
)
def test_a_regressor_is_one_linear_map_of_channels(ours, theirs, letters):
    student, teacher = features(*ours), features(*theirs, seed=1)
    regressor = Regressor(student, teacher)
    brought, beside = regressor(student, teacher)
    weight = regressor.map.weight.flatten(1)
    assert weight.shape == (5, 3)
    bias = regressor.map.bias.view(-1, *[1] * (len(ours) - 2) * (len(ours) > 3))
    assert torch.allclose(brought, torch.einsum(letters, student, weight) + bias, atol=1e-5)
    assert brought.shape == teacher.shape
    assert beside is teacher
    assert brought.std() > 0.1


def test_maps_of_another_height_and_width_are_pooled_to_the_smaller():
    student, teacher = features(2, 3, 8, 4), features(2, 5, 4, 4, seed=1)
    ours, theirs = aligned(student, features(2, 5, 4, 2, seed=1))
    assert torch.allclose(ours, halved(student), atol=1e-6)
    assert theirs.shape == (2, 5, 4, 2)
    ours, theirs = aligned(features(2, 5, 4, 2), student)  # the teacher's may be the larger
    assert ours.shape == (2, 5, 4, 2)
    assert torch.allclose(theirs, halved(student), atol=1e-6)
    ours, theirs = aligned(features(2, 3, 8, 2), teacher)  # each side is smaller in one direction
    assert (ours.shape, theirs.shape) == ((2, 3, 4, 2), (2, 5, 4, 2))
    assert Regressor(student, teacher)(student, teacher)[0].shape == teacher.shape


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ((2, 3, 4, 4), (2, 7, 5)),
        ((2, 7, 3), (2, 5, 4, 4)),
        ((2, 7, 3), (2, 5)),
        ((2, 3), (2, 5, 4, 4)),
        ((2, 3, 2, 4, 4), (2, 5, 2, 8, 8)),
    ],
)
def test_features_of_unlike_kinds_meet_as_vectors(ours, theirs):
    student, teacher = features(*ours), features(*theirs, seed=1)
    brought, beside = Regressor(student, teacher)(student, teacher)
    assert brought.shape == beside.shape == (2, 5)
    assert torch.equal(beside, pooled(teacher))


def test_tokens_of_another_number_are_refused():
    message = r"as many tokens from student and teacher but got 4 and 6; pool=True"
    with pytest.raises(InputError, match=message):
        aligned(features(2, 4, 3), features(2, 6, 3))
    with pytest.raises(InputError, match=message):
        Regressor(features(2, 4, 3), features(2, 6, 5))


def test_features_in_another_precision_come_to_the_regressors():
    student, teacher = features(2, 3), features(2, 5)
    regressor = Regressor(student, teacher)
    wanted = regressor(student.bfloat16().float(), teacher)[0]
    assert torch.equal(regressor(student.bfloat16(), teacher)[0], wanted)
    assert regressor.double()(student, teacher)[0].dtype == torch.float64


def test_a_linear_map_is_found_from_features_that_it_made():
    torch.manual_seed(0)
    student = features(64, 3)
    teacher = student @ features(3, 5, seed=1) + 2
    regressor = Regressor(student, teacher)
    design = torch.cat([student, torch.ones(64, 1)], 1)
    exact = torch.linalg.lstsq(design, teacher).solution
    with torch.no_grad():
        regressor.map.weight.copy_(exact[:3].T)
        regressor.map.bias.copy_(exact[3])
    brought, beside = regressor(student, teacher)
    assert torch.allclose(brought, beside, atol=1e-5)


# Exits


@pytest.mark.parametrize("shape", [(4, 3), (4, 7, 3), (4, 3, 5, 5), (4, 3, 2, 5, 5)])
def test_an_exit_is_linear_on_the_mean_of_its_layer(shape):
    layer = features(*shape)
    head = heads(layer, torch.ones(4, 2))
    expected = nn.functional.linear(pooled(layer), head.map.weight, head.map.bias)
    assert torch.equal(head(layer), expected)
    assert head(layer).shape == (4, 2)


def test_an_exit_of_tokens_answers_each_token():
    layer, mask = features(4, 7, 3), torch.ones(4, 7, dtype=torch.bool)
    head = heads(layer, torch.ones(4, 7, 2))
    found = head(layer, mask)
    assert torch.allclose(found[1, 5], head.map(layer[1, 5]), atol=1e-6)
    assert found.shape == (4, 7, 2)


def test_an_exit_of_tokens_with_one_answer_a_sample_leaves_padding_out():
    layer, mask = features(2, 4, 3), torch.tensor([[True] * 4, [True, False, False, False]])
    head = heads(layer, torch.ones(2, 2))
    spoiled = layer.clone()
    spoiled[~mask] += 100
    assert torch.allclose(head(layer, mask), head(spoiled, mask), atol=1e-5)
    assert not torch.allclose(head(layer), head(spoiled), atol=1)


def test_an_exit_of_a_single_number_is_flat_as_the_model_is():
    layer = features(4, 3)
    head = heads(layer, torch.ones(4))
    assert head(layer).shape == (4,)
    assert torch.equal(head(layer), head.map(layer)[:, 0])
