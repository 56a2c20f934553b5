"""A model in the fabric's precision takes and gives what that precision says, on the device that was asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gapkit.errors import InputError
from gapkit.training.engine import Casting, make_fabric
from tests.training_fixtures import plain, points, seeded_model

X, Y = points(12, 0)


class Seen(nn.Module):
    """A model that remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.map, self.args = nn.Linear(6, 3), ()

    def forward(self, *args, **kwargs):
        self.args = (args, kwargs)
        return self.map(args[0] if args else kwargs["x"])


def cast(precision, model=None):
    """The model as a fabric converts it, within its Casting."""
    fabric = make_fabric("cpu", precision)
    model = seeded_model(plain, 4, 0) if model is None else model
    return Casting(fabric.strategy.precision.convert_module(model), fabric), model


def test_in_double_precision_inputs_come_as_doubles():
    casting, _ = cast("64-true")
    outputs = casting(X)
    assert outputs.dtype == torch.float64
    exact = seeded_model(plain, 4, 0).double()(X.double())
    assert torch.equal(outputs, exact)
    single = seeded_model(plain, 4, 0)(X)
    assert 0 < (outputs - single).abs().max() < 1e-5
    assert torch.get_default_dtype() == torch.float32


def test_in_mixed_precision_the_model_runs_under_autocast():
    casting, model = cast("bf16-mixed")
    outputs = casting(X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(X)
    assert outputs.dtype == torch.bfloat16
    assert torch.equal(outputs, expected)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    single = model(X)
    assert single.dtype == torch.float32
    assert 1e-4 < (outputs - single).abs().max() < 0.1
    assert not torch.is_autocast_enabled("cpu")


def test_in_plain_precision_nothing_changes():
    casting, model = cast("32-true")
    assert torch.equal(casting(X), model(X))


def test_in_true_half_precision_weights_and_inputs_are_halved():
    casting, model = cast("bf16-true")
    assert casting(X).dtype == torch.bfloat16
    assert model[0].weight.dtype == torch.bfloat16
    assert torch.equal(casting(X), model(X.bfloat16()))


@pytest.mark.parametrize(
    "precision, dtype", [("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_numbers_are_cast_wherever_they_are_and_nothing_else(precision, dtype):
    casting, model = cast(precision, Seen())
    ids, mask = torch.arange(12), torch.ones(12, dtype=torch.bool)
    casting(x=X, more={"ids": ids, "inner": [X]}, mask=mask, word="as it is")
    (args, kwargs) = model.args
    assert args == ()
    assert (kwargs["x"].dtype, kwargs["more"]["inner"][0].dtype) == (dtype, dtype)
    assert (kwargs["more"]["ids"].dtype, kwargs["mask"].dtype) == (torch.int64, torch.bool)
    assert kwargs["word"] == "as it is"
    casting(X, None)
    assert model.args[0][0].dtype == dtype
    assert X.dtype == torch.float32  # the caller's stays


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_gradients_come_in_the_precision_of_the_weights(precision):
    casting, model = cast(precision)
    F.cross_entropy(
        casting(X).to(torch.promote_types(torch.float32, casting(X).dtype)), Y
    ).backward()
    weight = model[0].weight
    assert weight.grad.dtype == weight.dtype
    reference = seeded_model(plain, 4, 0)
    F.cross_entropy(reference(X), Y).backward()
    wanted = reference[0].weight.grad
    assert wanted.abs().max() > 0.01
    assert torch.allclose(
        weight.grad.float(), wanted, atol=1e-6 if precision == "64-true" else 0.02
    )


def test_modes_reach_the_model_inside():
    casting, model = cast("32-true")
    casting.eval()
    assert not model.training
    casting.train()
    assert model.training


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_precisions_that_cpus_lack_are_refused(precision):
    with pytest.raises(InputError, match=f"that CPUs have but got {precision!r}; 'bf16-mixed'"):
        make_fabric("cpu", precision)


def test_a_fabric_is_where_it_was_asked_for():
    fabric = make_fabric(torch.device("cpu"), "32-true")
    assert (fabric.device, fabric.world_size, fabric.global_rank) == (torch.device("cpu"), 1, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_a_device_that_is_not_there_is_said_and_not_replaced():
    with pytest.raises(InputError, match="device that is there but got 'cuda'"):
        make_fabric("cuda", "32-true")
