"""A recipe says how one training goes; what it cannot mean is refused."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from gapkit.errors import InputError
from gapkit.knowledge import Knowledge
from gapkit.recipe import OPTIMIZERS, SCHEDULES, Recipe


@pytest.mark.parametrize(
    "field, value",
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("weight_decay", -1e-4),
        ("momentum", 1.0),
        ("grad_clip", -1.0),
        ("precision", "8-mixed"),
        ("epoch", 3),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    "field, value, nearest",
    [("optimizer", "adamx", "adam"), ("schedule", "cosin", "cosine"), ("knowledge", "kl5", "kl4")],
)
def test_unknown_names_name_the_nearest(field, value, nearest):
    with pytest.raises(
        ValidationError, match=f"known {field} but got '{value}'; nearest: '{nearest}'"
    ):
        Recipe(**{field: value})


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_named_recipes_come_back_from_json(name, schedule):
    recipe = Recipe(epochs=3, lr=0.02, optimizer=name, schedule=schedule, knowledge="dist1")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_knowledge_may_be_a_list_which_comes_back_from_json():
    parts = [Knowledge(kind="response", loss="kl", temperature=2.0), Knowledge(kind="label")]
    recipe = Recipe(knowledge=parts)
    assert recipe.knowledge == tuple(parts)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_functions_are_kept_and_written_by_name():
    recipe = Recipe(optimizer=torch.optim.Adagrad)
    assert recipe.optimizer is torch.optim.Adagrad
    assert '"optimizer":"torch.optim.adagrad.Adagrad (' in recipe.model_dump_json()
    with pytest.raises(ValidationError, match="known optimizer"):  # code is not made from a name
        Recipe.model_validate_json(recipe.model_dump_json())


@pytest.mark.parametrize(
    "n_samples, batch_size, per_epoch",
    [(800, 100, 8), (850, 100, 9), (801, 100, 8), (50, 100, 1), (1, 100, 1), (2, 1, 2)],
)
def test_steps_leave_out_a_last_batch_of_one(n_samples, batch_size, per_epoch):
    assert Recipe(epochs=3, batch_size=batch_size).steps(n_samples) == 3 * per_epoch


def test_a_stage_changes_some_fields_and_knows_which():
    recipe = Recipe(epochs=60, lr=0.01)
    longer = recipe.changed({"epochs": 240})
    assert (longer.epochs, longer.lr) == (240, 0.01)
    assert recipe.epochs == 60
    assert recipe.changed({}) == recipe
    with pytest.raises(InputError, match="known recipe field but got 'epoch'; nearest: 'epochs'"):
        recipe.changed({"epoch": 240})
    with pytest.raises(InputError, match="known recipe field but got 'knowledge'"):
        recipe.changed({"knowledge": "kl1"})
    with pytest.raises(InputError, match=r"usable recipe but lr: .*but got -1"):
        recipe.changed({"lr": -1})


def test_a_misspelled_field_gets_the_nearest_known_one():
    with pytest.raises(
        ValidationError, match="known recipe field but got 'batchsize'; nearest: 'batch_size'"
    ):
        Recipe(batchsize=10)
