"""Variants alter one thing: the same weights as a study that is so by itself, under keys of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from gapkit.causes.variants import (
    RATES,
    SHORT,
    _short_score,
    best_checkpoint,
    best_rate,
    offered,
    price_of_rates,
    reinitialized,
    varied,
)
from gapkit.data import Data
from gapkit.family import Family
from gapkit.gap import ALIKE, EARLIER, HALF, LIKE_TEACHER, RATE, VIEW
from gapkit.knowledge import KNOWLEDGE
from gapkit.recipe import Recipe
from gapkit.runs import Run
from gapkit.task import Classification
from gapkit.training.trainings import Trainings
from tests.training_fixtures import (
    N_CLASSES,
    N_FEATURES,
    assert_same_state,
    make_trainings,
    noisy_net,
    plain,
    point_data,
    random_states,
    sharp_teacher,
    state,
)

ARM = ((16, 2), "kl4", 0)


def half_blind(raw: Any) -> torch.Tensor:
    """A student's view in which half of the features are zero."""
    kept = torch.arange(N_FEATURES) < N_FEATURES // 2
    return raw[0] * kept


def known(sign: float, scale: float = 2.0) -> nn.Module:
    """A model that answers by the centers of the points: right for a positive sign, wrong for a negative."""
    model = nn.Linear(N_FEATURES, N_CLASSES)
    with torch.no_grad():
        model.weight.copy_(sign * scale * torch.eye(N_CLASSES, N_FEATURES))
        model.bias.zero_()
    return model.eval()


def stranger(folder: Path, teacher: nn.Module, data: Data | None = None) -> Trainings:
    """Trainings whose teacher is not of the family."""
    run = Run(folder)
    run.open({"study": "points"})
    found = Trainings(
        Classification(),
        point_data() if data is None else data,
        Family(plain, sizes=[2, 4], student=2),
        Recipe(epochs=2, batch_size=8, lr=0.02),
        run,
        knowledge=dict(KNOWLEDGE),
    )
    found.lend("teacher", teacher)
    return found


# what each alters: the same arm of a study that is so by itself


def test_half_the_samples_with_as_many_steps(tmp_path):
    own = make_trainings(tmp_path / "own", point_data(32))
    half = varied(own, HALF)
    assert (half.data.size("train"), own.data.size("train")) == (16, 32)
    assert set(half.data.ids("train")) < set(own.data.ids("train"))
    assert half.data.ids("validation").tolist() == own.data.ids("validation").tolist()
    found, whole = half.arm(*ARM), own.arm(*ARM)
    assert found.steps == whole.steps == 8
    rows = half.data._of("train")
    plain_data = point_data(32)
    fewer = Data(
        train=Subset(plain_data.dataset("train"), rows.tolist()),
        validation=plain_data.dataset("validation"),
        test=plain_data.dataset("test"),
    )
    by_itself = make_trainings(tmp_path / "fewer", fewer, epochs=4).arm(*ARM)
    assert found.weights_sha256 == by_itself.weights_sha256 != whole.weights_sha256
    assert len(found.contributions) == 30  # all of validation is scored


@pytest.mark.parametrize("rate", RATES)
def test_where_short_trainings_like_the_own_rate_best_nothing_is_altered(
    tmp_path, monkeypatch, rate
):
    own = make_trainings(tmp_path)
    monkeypatch.setattr(
        "gapkit.causes.variants._short_score", lambda _, tried: float(tried == rate)
    )
    found = varied(own, RATE)
    assert (found is own) == (rate == 1.0)
    assert found.recipe.lr == pytest.approx(rate * own.recipe.lr)


def test_another_rate_is_the_best_of_three_by_short_trainings(tmp_path):
    own = make_trainings(tmp_path / "own")
    assert price_of_rates(own) == pytest.approx(len(RATES) * own.epochs(SHORT) / own.recipe.epochs)
    found = {rate: _short_score(own, rate) for rate in RATES}
    assert price_of_rates(own) == 0.0  # they are kept
    assert best_rate(own) == max(RATES, key=found.get)


def test_the_training_at_another_rate(tmp_path, monkeypatch):
    monkeypatch.setattr("gapkit.causes.variants.RATES", (0.1,))
    own = make_trainings(tmp_path / "own")
    rate = varied(own, RATE)
    assert rate.recipe.lr == pytest.approx(0.002)
    assert rate.recipe.with_(lr=0.02) == own.recipe
    slower = make_trainings(tmp_path / "slower")
    slower.recipe = own.recipe.with_(lr=own.recipe.lr / 10)
    found = rate.arm(*ARM)
    assert found.weights_sha256 == slower.arm(*ARM).weights_sha256
    assert found.weights_sha256 != own.arm(*ARM).weights_sha256


def test_the_teachers_view(tmp_path):
    own = make_trainings(tmp_path / "own", point_data(student_input=half_blind))
    seeing = make_trainings(tmp_path / "seeing")
    shown = varied(own, VIEW)
    assert shown.data.same_view
    assert not own.data.same_view  # the study's own data stays as it was
    found = shown.arm(*ARM)
    assert found.weights_sha256 == seeing.arm(*ARM).weights_sha256
    assert found.weights_sha256 != own.arm(*ARM).weights_sha256


def test_an_earlier_teacher(tmp_path):
    own = make_trainings(tmp_path / "own")
    own.lend("checkpoint:0", known(-1.0))
    own.lend("checkpoint:1", known(1.0))
    taught = make_trainings(tmp_path / "taught", teacher=known(1.0))
    found = varied(own, EARLIER).arm(*ARM)
    assert found.weights_sha256 == taught.arm(*ARM).weights_sha256
    assert found.weights_sha256 != own.arm(*ARM).weights_sha256


def test_a_network_like_the_teacher(tmp_path):
    teacher = sharp_teacher()
    own = stranger(tmp_path / "own", teacher)
    given = state(teacher)
    found = varied(own, LIKE_TEACHER).arm((ALIKE, ALIKE), "kl4", 0, 0.5)
    trained = varied(own, LIKE_TEACHER).model(found)
    assert found.epochs == 1  # half of two
    assert [w.shape for w in trained.parameters()] == [w.shape for w in teacher.parameters()]
    for mine, theirs in zip(trained.parameters(), teacher.parameters()):
        assert not torch.isclose(mine, theirs).any()
    assert all(torch.equal(tensor, given[name]) for name, tensor in state(teacher).items())


@pytest.mark.parametrize("name", [HALF, RATE, VIEW, EARLIER])
def test_nothing_is_confused_in_the_run_folder(tmp_path, name, monkeypatch):
    monkeypatch.setattr("gapkit.causes.variants.RATES", (0.1,))
    own = make_trainings(tmp_path, point_data(student_input=half_blind))
    own.lend("checkpoint:0", known(1.0))
    altered = varied(own, name)
    assert altered.altered == name
    assert altered.run is own.run
    found = altered.arm(*ARM)
    assert own.done(*ARM) is None
    first = own.arm(*ARM)
    assert first.key != found.key
    assert first.weights_sha256 != found.weights_sha256
    assert altered.done(*ARM) == found == varied(own, name).done(*ARM)
    assert own.done(*ARM) == first


def test_the_answers_of_other_data_are_kept_apart(tmp_path):
    """Half the samples ask the teacher about half of them: files of the whole would not fit."""
    own = make_trainings(tmp_path)
    own.sources.kept("teacher", KNOWLEDGE["kl4"], None)
    varied(own, HALF).sources.kept("teacher", KNOWLEDGE["kl4"], None)
    assert len(list(own.run.path("answers").glob("teacher-*"))) == 2
    own.sources.kept(
        "teacher", KNOWLEDGE["kl4"], None
    )  # opened again, not made anew in a third place
    assert len(list(own.run.path("answers").glob("teacher-*"))) == 2


# the best earlier teacher


def test_the_best_checkpoint_has_the_least_loss(tmp_path):
    own = make_trainings(tmp_path)
    for position, model in enumerate((known(-1.0), known(1.0), known(-2.0))):
        own.lend(f"checkpoint:{position}", model)
    assert best_checkpoint(own) == "checkpoint:1"


def test_the_loss_and_not_the_score_decides(tmp_path):
    """Both give the same answers; one is much too sure of its mistakes."""
    own = make_trainings(tmp_path)
    own.lend("checkpoint:0", known(1.0, scale=200.0))
    own.lend("checkpoint:1", known(1.0))
    first, second = (own.sources.outputs(f"checkpoint:{i}", "validation").argmax(1) for i in (0, 1))
    assert torch.equal(first, second)
    assert (first != own.data.targets("validation")).any()
    assert best_checkpoint(own) == "checkpoint:1"


# a fresh network


class Scaled(nn.Module):
    """A layer with a parameter of its own that nothing resets."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.own = nn.Parameter(torch.randn(3, 5))


def trained_net() -> nn.Module:
    """A network whose every weight and buffer is far from any initial value."""
    torch.manual_seed(3)
    model = nn.Sequential(noisy_net(4), Scaled())
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(10 + torch.randn_like(tensor))
    return model


def test_a_fresh_network_has_no_weight_of_the_trained_one():
    model = trained_net()
    given = state(model)
    torch.manual_seed(0)
    fresh = reinitialized(model)
    ours = state(fresh)
    assert ours.keys() == given.keys()
    for name, tensor in ours.items():
        if name != "1.own" and tensor.is_floating_point():
            assert tensor.abs().max() < 5 < given[name].abs().min(), name
    assert_same_state(model, trained_net())  # the user's model is not touched


def test_what_nothing_resets_is_shuffled():
    model = trained_net()
    torch.manual_seed(0)
    mine, theirs = reinitialized(model)[1].own, model[1].own
    assert not torch.equal(mine, theirs)
    assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)


def test_a_tied_weight_stays_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    fresh = reinitialized(model)
    assert fresh[1].weight is fresh[0].weight
    assert not torch.equal(fresh[0].weight, model[0].weight)


def test_the_same_seed_gives_the_same_fresh_network():
    def drawn(seed):
        torch.manual_seed(seed)
        return reinitialized(trained)

    trained = trained_net()
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert_same_state(first, again)
    assert not torch.equal(first[1].own, other[1].own)
    assert not torch.equal(first[1].inner.weight, other[1].inner.weight)


def test_the_family_of_fresh_networks_leaves_the_random_state_alone(tmp_path):
    family = varied(stranger(tmp_path, sharp_teacher()), LIKE_TEACHER).family
    before = random_states()
    first, again, other = (family.fresh(ALIKE, seed) for seed in (4, 4, 5))
    assert random_states() == before
    assert_same_state(first, again)
    assert not torch.equal(first[0].weight, other[0].weight)


# what a study offers


@pytest.mark.parametrize(
    "fields, want",
    [
        ({}, (HALF, RATE)),
        ({"student_input": half_blind}, (HALF, RATE, VIEW)),
        ({"student_input": lambda raw: raw[0][:, :3]}, (HALF, RATE)),  # six features do not fit
    ],
    ids=["same view", "views differ", "another shape"],
)
def test_the_view_is_offered_where_views_differ_and_the_student_takes_it(tmp_path, fields, want):
    shape: Callable[[int], nn.Module] = plain
    if want == (HALF, RATE) and fields:
        shape = lambda width: nn.Sequential(nn.Linear(3, width), nn.Linear(width, 3))  # noqa: E731
    assert (
        offered(make_trainings(tmp_path, point_data(**fields), build=shape, teacher=plain(16)))
        == want
    )


def test_earlier_teachers_are_offered_where_there_are_some(tmp_path):
    own = make_trainings(tmp_path)
    assert EARLIER not in offered(own)
    own.lend("checkpoint:0", known(1.0))
    assert offered(own) == (HALF, RATE, EARLIER)


def test_the_teachers_architecture_is_offered_where_it_is_not_of_the_family(tmp_path):
    assert offered(stranger(tmp_path / "a", sharp_teacher())) == (HALF, RATE, LIKE_TEACHER)
    data = point_data(student_input=half_blind)  # it would be trained on what it was not made for
    assert offered(stranger(tmp_path / "b", sharp_teacher(), data)) == (HALF, RATE, VIEW)


def test_asking_leaves_the_teacher_and_the_random_state_alone(tmp_path):
    teacher = sharp_teacher().train()
    own = make_trainings(tmp_path, point_data(student_input=half_blind), teacher=teacher)
    before, weights = random_states(), state(teacher)
    assert VIEW in offered(own)
    assert random_states() == before
    assert teacher.training
    np.testing.assert_equal(
        {name: tensor.numpy() for name, tensor in state(teacher).items()},
        {name: tensor.numpy() for name, tensor in weights.items()},
    )
