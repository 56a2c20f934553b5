"""Every model is trained once, kept by what decides its weights, and checked when it is read back."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gapkit import distiller
from gapkit.errors import InputError
from gapkit.knowledge import knowledge_named
from gapkit.outcome import Training
from gapkit.plans import Phase, Stage
from gapkit.runs import Run
from gapkit.task import Classification
from gapkit.training.answers import predict
from tests.training_fixtures import (
    KL4,
    LABELS,
    N_FEATURES,
    assert_same_state,
    furthest,
    make_trainings,
    noisy_net,
    plain,
    point_data,
    points,
    random_states,
    same,
    seeded_model,
    shaken,
    sharp_teacher,
)


def student(**fields):
    return Stage(
        **({"name": "student", "size": 2, "sources": ("teacher",), "phases": KL4} | fields)
    )


# Once


def test_a_prefix_is_trained_once_and_shared(tmp_path, sizes_trained):
    trainings = make_trainings(tmp_path)
    chain = trainings.arm((16, 8, 4, 2), "kl4", 0)
    assert sizes_trained == [8, 4, 2]
    assert chain.path == (16, 8, 4, 2)
    assert trainings.arm((16, 8, 4), "kl4", 0).path == (16, 8, 4)
    assert trainings.arm((16, 8, 2), "kl4", 0).path == (16, 8, 2)
    assert trainings.arm((16, 8, 4, 2), "kl4", 0) == chain
    assert sizes_trained == [8, 4, 2, 2]


def test_another_process_takes_what_is_there(tmp_path, sizes_trained):
    first = make_trainings(tmp_path).arm((16, 4, 2), "dist1", 3)
    again = make_trainings(tmp_path).arm((16, 4, 2), "dist1", 3)
    assert first == again
    assert len(sizes_trained) == 2
    assert [p.name for p in (tmp_path / "trainings" / first.key).glob("*.pt")] == []


def test_a_prefix_is_trained_as_long_as_it_is_asked_for(tmp_path):
    trainings = make_trainings(tmp_path)
    assert trainings.arm((16, 8, 2), "kl4", 1, 2.0).epochs == 4
    assert trainings.done((16, 8), "kl4", 1, 2.0).epochs == 4
    assert trainings.done((16, 8), "kl4", 1) is None
    assert trainings.done((16, 8), "kl4", 0, 2.0) is None


def test_each_of_a_chain_learns_from_the_one_before(tmp_path):
    trainings = make_trainings(tmp_path)
    chain, hop = trainings.arm((16, 8, 2), "kl4", 0), trainings.arm((16, 2), "kl4", 0)
    assert furthest(trainings.model(chain), trainings.model(hop)) > 1e-3
    middle = trainings.arm((16, 8), "kl4", 0)
    taught = trainings.stage(student(sources=("a",)), 0, (middle.key,))
    assert taught.key == chain.key


def test_done_never_trains(tmp_path, sizes_trained):
    trainings = make_trainings(tmp_path)
    assert trainings.done((16, 8, 2), "kl4", 0) is None
    assert trainings.done((2,), "scratch", 0) is None
    assert sizes_trained == []
    arm = trainings.arm((16, 8, 2), "kl4", 0)
    assert trainings.done((16, 8, 2), "kl4", 0) == arm
    assert trainings.done((16, 8), "kl4", 0).path == (16, 8)
    assert trainings.done((16, 8, 2), "kl4", 1) is None
    assert trainings.done((16, 4, 2), "kl4", 0) is None
    assert len(sizes_trained) == 2


def test_an_interrupted_arm_goes_on_where_it_was(tmp_path, sizes_trained, monkeypatch):
    class Stop(Exception):
        pass

    def stop(share, _):
        if share == 0.75:
            raise Stop

    monkeypatch.setattr(distiller, "SAVE_SECONDS", 0.0)

    data = point_data(augment=shaken)
    whole = make_trainings(tmp_path / "whole", data, build=noisy_net, epochs=4)
    expected = whole.arm((16, 2), "kl4", 0)
    cut = make_trainings(tmp_path / "cut", data, build=noisy_net, epochs=4, tick=stop)
    with pytest.raises(Stop):
        cut.arm((16, 2), "kl4", 0)
    assert cut.done((16, 2), "kl4", 0) is None
    heard = []
    again = make_trainings(
        tmp_path / "cut", data, build=noisy_net, epochs=4, tick=lambda share, _: heard.append(share)
    )
    training = again.arm((16, 2), "kl4", 0)
    assert heard == [1.0]
    assert training.weights_sha256 == expected.weights_sha256
    assert_same_state(again.model(training), whole.model(expected))


def test_a_kill_between_weights_and_record_costs_nothing(tmp_path, monkeypatch):
    trainings = make_trainings(tmp_path)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(distiller, "SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            trainings.arm((16, 2), "kl4", 0)
    assert trainings.done((16, 2), "kl4", 0) is None
    heard = []
    again = make_trainings(tmp_path, tick=lambda share, _: heard.append(share))
    expected = make_trainings(tmp_path / "whole").arm((16, 2), "kl4", 0)
    assert again.arm((16, 2), "kl4", 0).weights_sha256 == expected.weights_sha256
    assert heard == []


# Keys


def test_an_arm_of_the_search_and_a_stage_of_a_plan_are_one(tmp_path, sizes_trained):
    trainings = make_trainings(tmp_path)
    arm = trainings.arm((16, 2), "kl4", 1, 2.0)
    stage = student(name="whatever", recipe={"epochs": 4}, seeds=(1,), on_miss="retry")
    assert trainings.stage(stage, 1, ("teacher",)) == arm
    scratch = trainings.stage(student(sources=(), phases=LABELS, recipe={"epochs": 2}), 0, ())
    assert trainings.arm((2,), "scratch", 0) == scratch
    assert len(sizes_trained) == 2


def test_a_stage_that_is_an_arm_bears_its_name(tmp_path):
    """So that a plan's training is known to the planner when it plans anew."""
    trainings = make_trainings(tmp_path)
    middle = trainings.stage(student(size=4), 0, ("teacher",))
    assert (middle.recipe, middle.path, middle.fraction) == ("kl4", (16, 4), 1.0)
    assert trainings.stage(student(), 0, (middle.key,)).recipe == "kl4"
    assert trainings.stage(student(sources=(), phases=LABELS), 0, ()).recipe == "scratch"
    longer = trainings.stage(student(recipe={"epochs": 3}), 0, ("teacher",))
    assert (longer.recipe, longer.fraction) == ("kl4", 1.5)


def test_a_stage_that_is_no_arm_bears_its_words(tmp_path):
    trainings = make_trainings(tmp_path)
    middle = trainings.stage(student(size=4), 0, ("teacher",))
    trainings.lend("checkpoint:0", sharp_teacher(9))
    words = "0.9·kl τ=4 + 0.1·labels"
    for stage, seed, sources in (
        (student(), 1, (middle.key,)),  # the arm's assistant has the arm's seed
        (student(sources=("checkpoint:0",)), 0, ("checkpoint:0",)),
        (student(recipe={"lr": 0.5}), 0, ("teacher",)),
        (student(sources=("a", "b")), 0, ("teacher", middle.key)),
        (student(init="inherit", size=16), 0, ("teacher",)),
    ):
        assert trainings.stage(stage, seed, sources).recipe == words


KEYS = {
    "seed": (student(), 1, ("teacher",)),
    "size": (student(size=4), 0, ("teacher",)),
    "knowledge": (student(phases=(Phase(knowledge=knowledge_named("kl1")),)), 0, ("teacher",)),
    "phases": (student(phases=(LABELS[0].with_(until=0.5), KL4[0])), 0, ("teacher",)),
    "epochs": (student(recipe={"epochs": 3}), 0, ("teacher",)),
    "learning rate": (student(recipe={"lr": 0.03}), 0, ("teacher",)),
    "optimizer": (student(recipe={"optimizer": "sgd"}), 0, ("teacher",)),
    "precision": (student(recipe={"precision": "bf16-mixed"}), 0, ("teacher",)),
    "source": (student(), 0, ("checkpoint:0",)),
    "sources": (student(), 0, ("teacher", "checkpoint:0")),
    "init": (student(init="student"), 0, ("teacher",)),
}


def test_whatever_decides_the_weights_is_in_the_key(tmp_path):
    trainings = make_trainings(tmp_path)
    trainings.lend("checkpoint:0", sharp_teacher(9))
    trainings.student = seeded_model(plain, 2, 33)
    reference = trainings.stage(student(), 0, ("teacher",))
    found = {name: trainings.stage(*given) for name, given in KEYS.items()}
    assert len({reference.key} | {training.key for training in found.values()}) == 1 + len(KEYS)
    hashes = {reference.weights_sha256} | {t.weights_sha256 for t in found.values()}
    assert len(hashes) == 1 + len(KEYS)  # each of them does decide


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "other"},
        {"seeds": (4, 0)},
        {"on_miss": "replan"},
        {"recipe": {"epochs": 2, "lr": 0.02}},
    ],
)
def test_what_does_not_decide_them_is_not(tmp_path, fields, sizes_trained):
    trainings = make_trainings(tmp_path)
    reference = trainings.stage(student(), 0, ("teacher",))
    assert trainings.stage(student(**fields), 0, ("teacher",)) == reference
    assert len(sizes_trained) == 1


# What is recorded


def test_a_training_records_what_its_model_does(tmp_path):
    teacher = sharp_teacher()
    trainings = make_trainings(tmp_path, teacher=teacher)
    training = trainings.arm((16, 4), "kl4", 0)
    model = trainings.model(training)
    assert not model.training
    (x, y), (xv, yv) = points(40, 1), points(30, 2)
    with torch.no_grad():
        seen, held = model(x).argmax(1), model(xv).argmax(1)
        taught, taught_held = teacher(x).argmax(1), teacher(xv).argmax(1)
    assert training.score == (held == yv).double().mean().item()
    assert training.train_score == (seen == y).double().mean().item()
    assert training.contributions.tolist() == (held == yv).double().tolist()
    assert training.agreement == (held == taught_held).double().mean().item()
    assert training.train_agreement == (seen == taught).double().mean().item()
    assert 0 < training.agreement < 1
    assert training.score != training.agreement
    assert (training.epochs, training.steps, training.fraction, training.seed) == (2, 10, 1.0, 0)
    per_sample = 2 * (6 * 4 + 4 * 3), 2 * (6 * 16 + 16 * 3)
    assert training.flops == 3 * 2 * 40 * per_sample[0] + 40 * per_sample[1]
    weights = tmp_path / "trainings" / training.key / "weights.safetensors"
    assert training.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (
        make_trainings(tmp_path).run.load(f"trainings/{training.key}/training", Training)
        == training
    )


def test_nothing_outside_is_touched(tmp_path):
    teacher = sharp_teacher(build=noisy_net).train()
    teacher[1].eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    modes, states = [module.training for module in teacher.modules()], random_states()
    for augment in (None, same):
        trainings = make_trainings(
            tmp_path / str(augment is None),
            point_data(augment=augment),
            teacher=teacher,
            build=noisy_net,
        )
        trainings.arm((16, 8, 2), "kl4", 0)
    assert random_states() == states
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(w.grad is None and w.requires_grad for w in teacher.parameters())


def test_in_another_precision_too(tmp_path):
    trainings = make_trainings(tmp_path)
    full = trainings.arm((16, 4), "kl4", 0)
    for precision in ("64-true", "bf16-true", "bf16-mixed"):
        training = trainings.stage(
            student(size=4, recipe={"precision": precision}), 0, ("teacher",)
        )
        assert training.score == pytest.approx(full.score, abs=0.1)
        outputs = predict(trainings.model(training), trainings.data, "validation", Classification())
        assert (
            Classification().score(outputs, trainings.data.targets("validation")) == training.score
        )


# The files


def test_unknown_names_are_refused(tmp_path):
    trainings = make_trainings(tmp_path)
    with pytest.raises(InputError, match="known source but got 'teachr'; nearest: 'teacher'"):
        trainings.sources["teachr"]
    with pytest.raises(InputError, match="known knowledge but got 'kl44'; nearest: 'kl4'"):
        trainings.arm((16, 2), "kl44", 0)
    with pytest.raises(InputError, match="known size of the family but got '3'"):
        trainings.arm((16, 3), "kl4", 0)
    with pytest.raises(InputError, match=r"one size for 'scratch'.* got \(16, 2\) by 'scratch'"):
        trainings.arm((16, 2), "scratch", 0)
    with pytest.raises(InputError, match=r"from the teacher down.* got \(2,\) by 'kl4'"):
        trainings.done((2,), "kl4", 0)


def test_epochs_of_a_fraction(tmp_path):
    trainings = make_trainings(tmp_path, epochs=10)
    assert [trainings.epochs(f) for f in (0.01, 0.25, 1.0, 2.5)] == [1, 2, 10, 25]
    quick = trainings.arm((16, 2), "kl4", 0, 0.25)
    assert (quick.epochs, quick.fraction, quick.steps) == (2, 0.25, 10)


def test_a_teacher_of_its_own_kind_is_called_teacher_in_paths(tmp_path):
    trainings = make_trainings(tmp_path)
    trainings.family.teacher = None
    trainings.lend("teacher", nn.Linear(N_FEATURES, 3))
    assert trainings.arm(("teacher", 4, 2), "kl4", 0).path == ("teacher", 4, 2)


def test_the_teacher_is_trained_before_there_is_one(tmp_path):
    trainings = make_trainings(tmp_path, epochs=20, has_teacher=False)
    training = trainings.arm((16,), "scratch", 0)
    assert (training.agreement, training.train_agreement) == (1.0, 1.0)
    assert training.score > 0.6


def test_labels_on_train_are_needed(tmp_path):
    train = TensorDataset(points(40, 1)[0])
    data = point_data(train=train, target=lambda raw: raw[1] if len(raw) > 1 else None)
    with pytest.raises(InputError, match="Expected targets"):
        make_trainings(tmp_path, data).arm((16, 2), "kl4", 0)
