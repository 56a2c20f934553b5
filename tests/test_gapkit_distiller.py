"""A training is the recipe, survives being killed, and leaves everything else as it was."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gapkit import distiller
from gapkit.distiller import Loop, TrainingFailed
from gapkit.errors import InputError
from gapkit.knowledge import Knowledge
from gapkit.plans import Phase
from gapkit.recipe import Recipe
from gapkit.task import Classification
from gapkit.training.answers import predict
from gapkit.training.checkpoint import Checkpoints
from gapkit.training.optimizer import make_optimizer, make_schedule
from tests.training_fixtures import (
    KL4,
    LABELS,
    LONG,
    assert_same_state,
    furthest,
    make_job,
    noisy_net,
    plain,
    point_data,
    points,
    random_states,
    same,
    seeded_model,
    shaken,
    sharp_teacher,
    state,
    trained,
)

ROOT = Path(__file__).parents[1]
TASK = Classification()


@pytest.fixture(autouse=True)
def _saved_often(monkeypatch):
    """Checkpoints after every second step and after every epoch."""
    monkeypatch.setattr(distiller, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(distiller, "CHECK_STEPS", 2)


class Stop(Exception):
    """Ends a training from outside."""


def stop_after(epoch, epochs):
    def tick(share, _):
        if share * epochs >= epoch:
            raise Stop

    return tick


def listening():
    """A tick, and the epochs at whose ends it was heard."""
    heard = []

    def tick(share, said):
        assert "loss" in said or not heard
        if (share * 4) % 1 == 0:
            heard.append(share * 4)

    return tick, heard


def newest(folder):
    return Checkpoints(folder).load()


def epoch_seeds(seed, epoch, n):
    """Order and torch seed of one epoch, as the module's docstring promises: from (seed, epoch)."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return order, int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def by_hand(model, x, y, teachers, *, optimizer, epochs, batch_size, seed, lr_at=None, **options):
    """A plain PyTorch loop: softened KL and cross-entropy, weighted .9 and .1."""
    schedule, clip = options.get("schedule"), options.get("clip")
    n, step = len(x), 0
    for epoch in range(epochs):
        order, torch_seed = epoch_seeds(seed, epoch, n)
        torch.manual_seed(torch_seed)
        model.train()
        for start in range(0, n - (n % batch_size == 1), batch_size):
            rows = order[start : start + batch_size]
            if lr_at is not None:
                optimizer.param_groups[0]["lr"] = lr_at(step)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.get("bf16", False)):
                z = model(x[rows])
            z, loss = z.float(), 0.0
            for teacher in teachers:
                with torch.no_grad():
                    t = teacher(x[rows])
                soft = F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="batchmean")
                loss = loss + 0.9 * 16 * soft / len(teachers)
            loss = loss + (0.1 if teachers else 1.0) * F.cross_entropy(z, y[rows])
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            step += 1
    return model


def adamw(model, lr=0.02):
    return torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-4)


# Resuming


@pytest.mark.parametrize("epoch", [0.4, 1, 1.8, 2, 3, 3.4])
@pytest.mark.parametrize("augment", [None, shaken])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, epoch, augment):
    data = point_data(augment=augment)
    whole = make_job(tmp_path / "whole", data)
    curve = Loop(whole, TASK, data, "cpu").run()
    with pytest.raises(Stop):
        trained(make_job(tmp_path / "cut", data), data, stop_after(epoch, 4))
    torch.manual_seed(99)  # another process, another random state
    again = make_job(tmp_path / "cut", data)
    tick, heard = listening()
    resumed = Loop(again, TASK, data, "cpu").run(tick)
    assert_same_state(whole.model, again.model)
    assert len(heard) == 4 - int(epoch)
    assert np.array_equal(resumed.losses, curve.losses)
    assert np.array_equal(resumed.scores, curve.scores)
    assert furthest(whole.model, make_job(tmp_path, data).model) > 0.01  # it did train


def test_a_killed_process_goes_on_to_the_same_weights(tmp_path):
    code = (
        f"from tests.training_fixtures import train_for_a_kill as t; t({str(tmp_path / 'cut')!r})"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with child:
        for line in child.stdout:
            if int(line) >= 7:
                child.kill()  # in whatever epoch it is by now
                break
    assert child.returncode == -9
    saved = newest(tmp_path / "cut")["epoch"]
    assert 0 <= saved < LONG
    data = point_data(augment=shaken)
    again = trained(make_job(tmp_path / "cut", data, epochs=LONG), data)
    assert_same_state(trained(make_job(tmp_path / "whole", data, epochs=LONG), data), again)


def test_a_finished_training_is_not_run_again(tmp_path):
    data = point_data()
    first = trained(make_job(tmp_path, data), data)
    tick, heard = listening()
    assert_same_state(first, trained(make_job(tmp_path, data), data, tick))
    assert heard == []


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(tmp_path, caplog):
    data = point_data()
    whole = trained(make_job(tmp_path / "whole", data), data)
    with pytest.raises(Stop):
        trained(make_job(tmp_path / "cut", data), data, stop_after(2, 4))
    files = sorted((tmp_path / "cut").glob("checkpoint-*.pt"))
    assert len(files) == 2
    files[-1].write_bytes(files[-1].read_bytes()[:-100])
    tick, heard = listening()
    with caplog.at_level("WARNING", "gapkit"):
        again = trained(make_job(tmp_path / "cut", data), data, tick)
    assert "damaged" in caplog.text
    assert_same_state(whole, again)
    assert heard == [2, 3, 4]  # the one before was written within the second epoch


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    data = point_data()
    trained(make_job(tmp_path, data, build=plain), data)
    with pytest.raises(InputError, match=r"does not fit .*state_dict") as error:
        trained(make_job(tmp_path, data, build=noisy_net), data)
    assert "\n" not in str(error.value)


def test_a_write_that_fails_halfway_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    data = point_data()
    job = make_job(tmp_path / "cut", data)
    loop = Loop(job, TASK, data, "cpu")
    save = loop.fabric.save

    def full(path, content):
        if content["epoch"] == 3:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(path, content)

    monkeypatch.setattr(loop.fabric, "save", full)
    with pytest.raises(OSError, match="No space"):
        loop.run()
    assert newest(tmp_path / "cut")["epoch"] == 2
    whole = trained(make_job(tmp_path / "whole", data), data)
    assert_same_state(whole, trained(make_job(tmp_path / "cut", data), data))


# Failing


def numbered(spoiled_call):
    """Data whose samples carry their number, and an augmentation that spoils one of its calls."""
    x, y = points(40, 1)
    x[:, 0] = torch.arange(40.0)
    seen = []

    def augment(batch):
        seen.append(batch[0][:, 0].long().tolist())
        return (batch[0] * float("nan"), batch[1]) if len(seen) == spoiled_call else batch

    train = torch.utils.data.TensorDataset(x, y)
    names = {split: [f"img{i}" for i in range(n)] for split, n in (("train", 40), ("test", 50))}
    names["validation"] = [f"val{i}" for i in range(30)]
    return point_data(train=train, augment=augment, ids=names), seen


def test_a_nan_loss_names_stage_epoch_batch_and_samples(tmp_path):
    data, seen = numbered(spoiled_call=2 * 5 + 4)  # 40 samples by 8: the fourth batch of epoch 3
    with pytest.raises(TrainingFailed) as error:
        trained(make_job(tmp_path, data, build=plain), data)
    shown = ", ".join(f"img{number}" for number in seen[13][:3])
    assert str(error.value) == (
        "Expected a finite loss but got nan in stage 'student', epoch 3, step 4 "
        f"(samples {shown} ...); the checkpoint of step 12 is kept"
    )
    kept = newest(tmp_path)
    assert (kept["epoch"], kept["place"]) == (2, 2)
    assert all(tensor.isfinite().all() for tensor in kept["learner"].values())


def test_a_nan_in_the_first_epoch_speaks_of_no_checkpoint(tmp_path):
    data, _ = numbered(spoiled_call=1)
    with pytest.raises(TrainingFailed, match=r"epoch 1, step 1 .*there is no checkpoint yet$"):
        trained(make_job(tmp_path, data), data)
    assert newest(tmp_path) is None


def test_weights_spoiled_by_the_very_last_step_are_no_result(tmp_path):
    data, gradients = point_data(), []
    job = make_job(tmp_path, data, build=plain)

    def spoil(gradient):
        gradients.append(gradient)
        return gradient * float("nan") if len(gradients) == 4 * 5 else gradient

    job.model[2].bias.register_hook(spoil)
    with pytest.raises(
        TrainingFailed, match=r"finite weights but the last step of epoch 4 .*step 19"
    ):
        trained(job, data)
    assert newest(tmp_path)["epoch"] == 3


# The recipe


@pytest.mark.parametrize("build", [plain, noisy_net])
def test_a_training_is_the_plain_loop(tmp_path, build):
    data, (x, y) = point_data(41), points(41, 1)  # the last batch would hold one sample
    job = make_job(tmp_path, data, build=build)
    before = state(job.model)
    ours = trained(job, data)
    theirs = seeded_model(build, 4, 5)
    optimizer = adamw(theirs)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=4 * 5)
    by_hand(
        theirs,
        x,
        y,
        [sharp_teacher()],
        optimizer=optimizer,
        schedule=schedule,
        epochs=4,
        batch_size=8,
        seed=5,
    )
    assert furthest(ours, theirs) < 1e-6
    assert max((ours.state_dict()[name] - before[name]).abs().max() for name in before) > 0.01


OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.02, momentum=0.7, weight_decay=0.03),
    "adam": lambda ps: torch.optim.Adam(ps, 0.02, weight_decay=0.03),
    "adamw": lambda ps: torch.optim.AdamW(ps, 0.02, weight_decay=0.03),
}


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_and_schedule_is_the_one_it_names(tmp_path, name, schedule):
    data, (x, y) = point_data(), points(40, 1)
    settings = {"optimizer": name, "schedule": schedule, "weight_decay": 0.03, "momentum": 0.7}
    ours = trained(make_job(tmp_path, data, build=plain, epochs=2, **settings), data)
    theirs = seeded_model(plain, 4, 5)
    optimizer = OPTIMIZERS[name](theirs.parameters())
    given = {"epochs": 2, "batch_size": 8, "seed": 5, "optimizer": optimizer}
    if schedule == "one_cycle":
        given["schedule"] = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=10)
    if schedule == "cosine":
        given["lr_at"] = lambda step: 0.02 * (1 + np.cos(np.pi * step / 10)) / 2
    by_hand(theirs, x, y, [sharp_teacher()], **given)
    assert furthest(ours, theirs) < 1e-6


def test_the_names_differ(tmp_path):
    data = point_data()
    ends = [
        trained(make_job(tmp_path / f"{o}{s}", data, build=plain, optimizer=o, schedule=s), data)
        for o in OPTIMIZERS
        for s in ("one_cycle", "cosine", "constant")
    ]
    for i, first in enumerate(ends):
        assert all(furthest(first, second) > 1e-4 for second in ends[i + 1 :])


def test_an_optimizer_and_a_schedule_of_ones_own(tmp_path):
    def halving(optimizer, n_steps):
        assert n_steps == 20
        return torch.optim.lr_scheduler.StepLR(optimizer, n_steps // 2, gamma=0.5)

    data, (x, y) = point_data(), points(40, 1)
    job = make_job(
        tmp_path,
        data,
        build=plain,
        optimizer=lambda ps, lr: torch.optim.NAdam(ps, lr / 2),
        schedule=halving,
    )
    ours = trained(job, data)
    theirs = seeded_model(plain, 4, 5)
    by_hand(
        theirs,
        x,
        y,
        [sharp_teacher()],
        optimizer=torch.optim.NAdam(theirs.parameters()),
        lr_at=lambda step: 0.01 if step < 10 else 0.005,
        epochs=4,
        batch_size=8,
        seed=5,
    )
    assert furthest(ours, theirs) < 1e-6


def test_one_cycle_takes_optimizers_without_momentum(tmp_path):
    recipe = Recipe(optimizer=lambda ps, lr: torch.optim.Adagrad(ps, lr), lr=0.1)
    optimizer = make_optimizer(plain(2), recipe)
    schedule = make_schedule(optimizer, recipe, 10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] < 0.01 > rates[-1]


def test_the_schedule_fires_once_a_batch_and_goes_on_after_a_stop(tmp_path):
    data = point_data()
    loop = Loop(make_job(tmp_path, data, schedule="cosine"), TASK, data, "cpu")
    with pytest.raises(Stop):
        loop.run(stop_after(2, 4))
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)  # half of the way down
    loop = Loop(make_job(tmp_path, data, schedule="cosine"), TASK, data, "cpu")
    loop.run()
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_gradients_are_clipped_to_the_norm(tmp_path):
    data, (x, y) = point_data(), points(40, 1)
    settings = {"optimizer": "sgd", "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
    free = trained(make_job(tmp_path / "free", data, build=plain, **settings), data)
    ours = trained(make_job(tmp_path / "held", data, build=plain, grad_clip=0.3, **settings), data)
    theirs = seeded_model(plain, 4, 5)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.02)
    by_hand(
        theirs,
        x,
        y,
        [sharp_teacher()],
        optimizer=optimizer,
        epochs=4,
        batch_size=8,
        seed=5,
        clip=0.3,
    )
    assert furthest(ours, theirs) < 1e-6
    assert furthest(ours, free) > 1e-3


def test_bf16_mixed_is_autocast_around_the_student(tmp_path):
    data, (x, y) = point_data(), points(40, 1)
    settings = {"schedule": "constant", "build": plain}
    ours = trained(make_job(tmp_path / "mixed", data, precision="bf16-mixed", **settings), data)
    full = trained(make_job(tmp_path / "full", data, **settings), data)
    theirs = seeded_model(plain, 4, 5)
    by_hand(
        theirs,
        x,
        y,
        [sharp_teacher()],
        optimizer=adamw(theirs),
        epochs=4,
        batch_size=8,
        seed=5,
        bf16=True,
    )
    assert furthest(ours, theirs) < 1e-6
    assert 1e-5 < furthest(ours, full) < 0.1
    assert all(weight.dtype == torch.float32 for weight in ours.parameters())


@pytest.mark.parametrize("precision, near", [("64-true", 1e-4), ("bf16-true", 0.1)])
def test_a_model_trained_in_another_precision_keeps_its_own(tmp_path, precision, near):
    data = point_data()
    full = trained(make_job(tmp_path / "full", data, build=plain), data)
    ours = trained(make_job(tmp_path / "other", data, build=plain, precision=precision), data)
    assert all(weight.dtype == torch.float32 for weight in ours.parameters())
    assert 0 < furthest(ours, full) < near
    assert predict(ours, data, "test", TASK).dtype == torch.float32


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_a_precision_that_cpus_lack_is_refused_and_not_replaced(tmp_path, precision):
    with pytest.raises(InputError, match=f"CPUs have but got '{precision}'; 'bf16-mixed' is one"):
        trained(make_job(tmp_path, point_data(), precision=precision), point_data())


def test_frozen_weights_stay(tmp_path):
    data = point_data()
    job = make_job(tmp_path, data, build=plain)
    job.model[0].weight.requires_grad_(False)
    before = state(job.model)
    after = state(trained(job, data))
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["2.weight"], after["2.weight"])


# Batches, modes, phases


def test_a_last_batch_of_one_is_left_out(tmp_path):
    sizes = {}
    for n in (40, 41, 42):
        data, seen = point_data(n), []
        job = make_job(tmp_path / str(n), data, epochs=2)
        hook = job.model.register_forward_hook(
            lambda module, args, out, seen=seen: seen.append(len(out)) if module.training else None
        )
        curve = Loop(job, TASK, data, "cpu").run()
        hook.remove()
        sizes[n] = seen
        assert curve.steps == len(seen) == job.recipe.steps(n)
    assert sizes == {40: [8] * 10, 41: [8] * 10, 42: ([8] * 5 + [2]) * 2}


def test_every_batch_trains_and_every_validation_does_not(tmp_path):
    data = point_data()
    job = make_job(tmp_path, data)
    norm, calls = job.model[1], []
    job.model.register_forward_hook(
        lambda m, args, out: calls.append((m.training, norm.training, len(out)))
    )
    trained(job, data)
    assert calls == ([(True, True, 8)] * 5 + [(False, False, 30)]) * 4
    assert norm.num_batches_tracked == 20


def test_a_model_that_is_built_in_eval_mode_trains_all_the_same(tmp_path):
    data = point_data()
    usual, built_in_eval = make_job(tmp_path / "train", data), make_job(tmp_path / "eval", data)
    built_in_eval.model.eval()
    assert_same_state(trained(usual, data), trained(built_in_eval, data))


def test_two_phases_are_two_trainings_after_each_other(tmp_path):
    data, (x, y) = point_data(), points(40, 1)
    phases = (LABELS[0].with_(until=0.5), KL4[0])
    settings = {"optimizer": "sgd", "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
    ours = trained(make_job(tmp_path, data, build=plain, phases=phases, **settings), data)
    theirs = seeded_model(plain, 4, 5)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.02)
    for epoch in range(4):
        order, _ = epoch_seeds(5, epoch, 40)
        for start in range(0, 40, 8):
            rows = order[start : start + 8]
            z, t = theirs(x[rows]), sharp_teacher()(x[rows]).detach()
            soft = F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="batchmean")
            hard = F.cross_entropy(z, y[rows])
            optimizer.zero_grad()
            (hard if epoch < 2 else 0.9 * 16 * soft + 0.1 * hard).backward()
            optimizer.step()
    assert furthest(ours, theirs) < 1e-6


@pytest.mark.parametrize("augment", [None, same])
def test_two_teachers_count_alike(tmp_path, augment):
    data, (x, y) = point_data(augment=augment), points(40, 1)
    teachers = [sharp_teacher(7), sharp_teacher(8)]
    ours = trained(
        make_job(tmp_path / "two", data, build=plain, teachers=teachers, schedule="constant"), data
    )
    one = trained(make_job(tmp_path / "one", data, build=plain, schedule="constant"), data)
    theirs = seeded_model(plain, 4, 5)
    by_hand(theirs, x, y, teachers, optimizer=adamw(theirs), epochs=4, batch_size=8, seed=5)
    assert furthest(ours, theirs) < 1e-6
    assert furthest(ours, one) > 1e-3


def test_labels_alone_need_no_teacher(tmp_path):
    data, (x, y) = point_data(), points(40, 1)
    ours = trained(
        make_job(tmp_path, data, build=plain, phases=LABELS, teachers=[], schedule="constant"), data
    )
    theirs = seeded_model(plain, 4, 5)
    by_hand(theirs, x, y, [], optimizer=adamw(theirs), epochs=4, batch_size=8, seed=5)
    assert furthest(ours, theirs) < 1e-6


# The teacher


def test_cached_outputs_teach_as_the_teacher_itself_does(tmp_path):
    x, y = points(50, 1)
    sets = {
        "train": torch.utils.data.TensorDataset(x, y),
        "validation": None,
    }  # carved: rows are not positions
    kept, seen = point_data(**sets), point_data(**sets, augment=same)
    rows = [row for row in kept.ids("train")]
    assert rows != [f"train/{i}" for i in range(40)]
    teacher, calls = sharp_teacher(build=noisy_net), []
    teacher.register_forward_hook(
        lambda m, args, out: calls.append((m.training, out.requires_grad))
    )
    cached = trained(make_job(tmp_path / "cached", kept, teachers=[teacher]), kept)
    assert calls == [(False, False)]  # all of train at once
    calls.clear()
    called = trained(make_job(tmp_path / "called", seen, teachers=[teacher]), seen)
    assert calls == [(False, False)] * 20
    assert furthest(cached, called) < 1e-6


def a_users_teacher():
    """A teacher with modules in both modes, weights frozen and free, hooks, and gradients left over."""
    model = seeded_model(noisy_net, 16, 3)
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[4].bias.grad = torch.ones_like(model[4].bias)
    calls = []
    model.register_forward_hook(lambda m, args, out: calls.append(m.training))
    model[2].register_forward_pre_hook(lambda m, args: None)
    return model, calls


def portrait(model):
    """All that a guest could have changed."""
    return {
        name: (
            module.training,
            list(module._forward_hooks.items()),
            list(module._forward_pre_hooks.items()),
            [(w.requires_grad, id(w), w.device, w.tolist()) for w in module.parameters()],
            [None if w.grad is None else w.grad.tolist() for w in module.parameters()],
            [(id(b), b.tolist()) for b in module.buffers()],
        )
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("augment", [None, shaken])
def test_a_users_teacher_comes_back_as_it_was_given(tmp_path, augment):
    data = point_data(augment=augment)
    teacher, calls = a_users_teacher()
    before = portrait(teacher)
    trained(make_job(tmp_path, data, teachers=[teacher]), data)
    assert portrait(teacher) == before
    assert calls
    assert not any(calls)


def test_a_users_teacher_comes_back_after_an_exception_too(tmp_path):
    teacher, _ = a_users_teacher()
    before = portrait(teacher)
    data = point_data(augment=shaken)
    with pytest.raises(Stop):
        trained(make_job(tmp_path / "stop", data, teachers=[teacher]), data, stop_after(1, 4))
    assert portrait(teacher) == before
    data, _ = numbered(spoiled_call=7)
    with pytest.raises(TrainingFailed):
        trained(make_job(tmp_path / "nan", data, teachers=[teacher]), data)
    assert portrait(teacher) == before


def test_no_gradient_reaches_the_teacher(tmp_path):
    data = point_data(augment=same)
    teacher = sharp_teacher()
    loop = Loop(make_job(tmp_path, data, teachers=[teacher]), TASK, data, "cpu")
    loop.epoch(0)
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None for weight in loop.job.model.parameters())


@pytest.mark.parametrize("augment", [None, shaken])
def test_random_states_outside_are_untouched(tmp_path, augment):
    class Drawing(torch.utils.data.Dataset):
        """Draws at every access, in measuring too."""

        def __len__(self):
            return 40

        def __getitem__(self, position):
            return torch.randn(6) + np.random.rand(), position % 3

    data = point_data(train=Drawing(), validation=Drawing(), augment=augment)
    data.targets("validation")  # a look of the caller's own
    before = random_states()
    trained(make_job(tmp_path, data), data)
    assert random_states() == before


def test_the_students_own_random_draws_differ_by_seed_and_epoch(tmp_path):
    data, seen = point_data(augment=lambda batch: seen.append(shaken(batch)[0]) or batch), []
    for seed in (1, 1, 2):
        trained(make_job(tmp_path / f"{len(seen)}", data, seed=seed, epochs=2), data)
    first, again, other = seen[:10], seen[10:20], seen[20:]
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(a, b) for a, b in zip(first, other))
    assert not any(torch.equal(a, b) for a, b in zip(first[:5], first[5:]))


# What comes out


def test_the_curve_holds_mean_losses_and_validation_scores(tmp_path):
    data, (tick, heard) = point_data(), listening()
    job = make_job(tmp_path, data, schedule="constant", build=plain)
    curve = Loop(job, TASK, data, "cpu").run(tick)
    assert curve.epochs.tolist() == [1, 2, 3, 4]
    assert heard == [1, 2, 3, 4]
    assert curve.steps == 20
    x, y = points(30, 2)
    assert curve.scores[-1] == (job.model(x).argmax(1) == y).double().mean().item()
    assert curve.losses[-1] < curve.losses[0]
    many = Loop(
        make_job(tmp_path / "many", point_data(8), epochs=50), TASK, point_data(8), "cpu"
    ).run()
    assert many.epochs.tolist() == list(range(2, 51, 2))


def test_predict_gives_a_splits_outputs_in_its_order():
    data, (x, _) = point_data(), points(50, 3)
    model = sharp_teacher(build=noisy_net).train()
    outputs = predict(model, data, "test", TASK, batch_size=7)
    assert model.training
    assert torch.allclose(outputs, model.eval()(x), atol=1e-6)
    some = np.array([3, 0, 49])
    assert torch.allclose(
        predict(model, data, "test", TASK, positions=some), outputs[some], atol=1e-6
    )


def test_predict_shows_each_model_its_own_view():
    data = point_data(
        teacher_input=lambda raw: raw[0] * 2, student_input=lambda raw: raw[0][:, :6] * 0
    )
    model, (x, _) = sharp_teacher(), points(50, 3)
    assert torch.allclose(
        predict(model, data, "test", TASK, sees="teacher"), model(2 * x), atol=1e-6
    )
    assert predict(model, data, "test", TASK).std(0).max() == 0


def test_a_student_sees_its_own_view_and_the_teacher_its_own(tmp_path):
    views = {"teacher_input": lambda raw: raw[0], "student_input": lambda raw: raw[0] * 0.0}
    data = point_data(**views)
    job = make_job(tmp_path, data, build=plain)
    before = state(job.model)
    after = state(trained(job, data))
    decayed = before["0.weight"] / after["0.weight"]  # no input, no gradient: decay alone
    assert torch.allclose(decayed, decayed.flatten()[0], rtol=1e-4)
    assert not torch.allclose(before["2.bias"], after["2.bias"], rtol=1e-2)


def test_missing_targets_are_said_in_one_line(tmp_path):
    data = point_data(target=lambda raw: None)
    kl = (Phase(knowledge=(Knowledge(kind="response", loss="kl", temperature=4.0),)),)
    with pytest.raises(InputError, match="Expected targets on validation"):
        trained(make_job(tmp_path / "kl", data, phases=kl), data)
    with pytest.raises(InputError, match="Expected targets for label knowledge"):
        trained(make_job(tmp_path / "labels", data), data)


def test_accumulated_batches_are_one_larger_batch(tmp_path):
    data = point_data()
    settings = {"build": plain, "epochs": 3}
    whole = trained(make_job(tmp_path / "whole", data, batch_size=16, **settings), data)
    parts = make_job(tmp_path / "parts", data, batch_size=4, accumulate=4, **settings)
    loop = Loop(parts, TASK, data, "cpu")
    loop.run()
    assert loop.course.steps == 3 * 3 == parts.recipe.steps(40)
    assert furthest(whole, parts.model) < 1e-6
    single = trained(make_job(tmp_path / "single", data, batch_size=4, **settings), data)
    assert furthest(whole, single) > 1e-3


def test_accumulated_batches_stop_and_go_on(tmp_path):
    data = point_data(augment=shaken)
    settings = {"batch_size": 4, "accumulate": 2}
    whole = trained(make_job(tmp_path / "whole", data, **settings), data)
    with pytest.raises(Stop):
        trained(make_job(tmp_path / "cut", data, **settings), data, stop_after(1.4, 4))
    assert_same_state(whole, trained(make_job(tmp_path / "cut", data, **settings), data))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_trains_alike(tmp_path):
    data = point_data()
    usual = trained(make_job(tmp_path / "usual", data, build=plain), data)
    job = make_job(tmp_path / "compiled", data, build=plain, compile=True)
    ours = trained(job, data)
    assert furthest(ours, usual) < 1e-4
    assert set(ours.state_dict()) == set(usual.state_dict())


def relation_phases():
    knowledge = (
        Knowledge(kind="relation", loss="rkd_distance", layers=(("0", "0"),), pool=True),
        Knowledge(kind="feature", loss="hint", layers=(("0", "0"),), weight=0.5),
        Knowledge(kind="label", weight=0.1),
    )
    return (Phase(knowledge=knowledge),)


@pytest.mark.parametrize("augment", [None, same])
def test_features_teach_kept_or_asked(tmp_path, augment):
    """Validation between epochs, of another batch size, leaves nothing behind for the next step."""
    data = point_data(augment=augment)
    job = make_job(tmp_path, data, build=plain, phases=relation_phases(), epochs=12)
    curve = Loop(job, TASK, data, "cpu").run()
    assert curve.losses[-1] < 0.8 * curve.losses[0]
    assert not any(module._forward_hooks for module in job.model.modules())
    assert not any(m._forward_hooks for s in job.sources for m in s.model.modules())


def test_kept_features_teach_as_asked_ones_do(tmp_path):
    ends = []
    for name, augment in (("kept", None), ("asked", same)):
        data = point_data(augment=augment)
        job = make_job(tmp_path / name, data, build=plain, phases=relation_phases())
        ends.append(trained(job, data))
    assert furthest(*ends) < 1e-5


def test_regressors_go_on_after_a_stop(tmp_path):
    data = point_data()
    settings = {"build": noisy_net, "phases": relation_phases()}
    whole = trained(make_job(tmp_path / "whole", data, **settings), data)
    with pytest.raises(Stop):
        trained(make_job(tmp_path / "cut", data, **settings), data, stop_after(1.4, 4))
    assert any(
        name.startswith("objective.regressors") for name in newest(tmp_path / "cut")["learner"]
    )
    assert_same_state(whole, trained(make_job(tmp_path / "cut", data, **settings), data))


def test_early_teachers_teach_early_and_late_ones_late(tmp_path):
    data, calls = point_data(augment=same), []
    teachers = [sharp_teacher(7), sharp_teacher(8)]
    for number, teacher in enumerate(teachers):
        teacher.register_forward_hook(lambda m, args, out, number=number: calls.append(number))
    early, late = (
        Phase(knowledge=KL4[0].knowledge, until=until, sources=(source,))
        for until, source in ((0.5, "s0"), (1.0, "s1"))
    )
    job = make_job(tmp_path, data, build=plain, phases=(early, late), teachers=teachers)
    Loop(job, TASK, data, "cpu").run()
    assert calls == [0] * 10 + [1] * 10


def test_the_surest_samples_come_first(tmp_path):
    seen = []
    data = point_data(augment=lambda batch: seen.append(batch[0]) or batch)
    phase = Phase(knowledge=KL4[0].knowledge, easiest=0.2, easiest_end=1.0)
    job = make_job(tmp_path, data, build=plain, phases=(phase,))
    order = np.random.default_rng(0).permutation(40)
    Loop(dataclasses.replace(job, surest=order), TASK, data, "cpu").run()
    x, _ = points(40, 1)
    easiest = {tuple(row.tolist()) for row in x[order[:8]]}
    assert {tuple(row.tolist()) for row in seen[0]} == easiest
    assert len({tuple(row.tolist()) for batch in seen for row in batch}) == 40


def test_weights_may_anneal_to_and_from_nothing(tmp_path):
    fading = Knowledge(kind="response", loss="kl", temperature=4.0, weight=1.0, weight_end=0.0)
    rising = Knowledge(kind="label", weight=0.0, weight_end=1.0)
    data = point_data()
    job = make_job(tmp_path, data, build=plain, phases=(Phase(knowledge=(fading, rising)),))
    curve = Loop(job, TASK, data, "cpu").run()
    assert np.isfinite(curve.losses).all()
    alone = (Phase(knowledge=(fading,)),)
    ended = trained(make_job(tmp_path / "alone", data, build=plain, phases=alone), data)
    assert all(weight.isfinite().all() for weight in ended.parameters())


@pytest.mark.parametrize("scheme", ["offline", "dense", "online", "self", "cross_modal"])
def test_modes_and_gradients_are_right_in_every_scheme_and_phase(tmp_path, scheme):
    """Learners train, validation does not, teachers never do; BatchNorm counts training batches alone."""
    data, calls = point_data(augment=same), []
    teachers = [sharp_teacher(7, noisy_net), sharp_teacher(8, noisy_net)]
    phases = (LABELS[0].with_(until=0.5), KL4[0])
    job = make_job(tmp_path, data, phases=phases, teachers=teachers)
    peers = (seeded_model(noisy_net, 4, 9),) * (scheme == "online")
    fields = {"scheme": scheme, "peers": (4,) * len(peers), "exits": ("0",) * (scheme == "self")}
    job = dataclasses.replace(job, stage=job.stage.with_(**fields), peers=peers)
    for who, model in [("own", job.model), *(("peer", p) for p in peers)]:
        model.register_forward_hook(
            lambda m, args, out, who=who: calls.append((who, m.training, m[1].training, len(out)))
        )
    for teacher in teachers:
        teacher.register_forward_hook(
            lambda m, args, out: calls.append(("teacher", m.training, m[1].training, len(out)))
        )
        before = state(teacher)
    Loop(job, TASK, data, "cpu").run()
    learned = [call for call in calls if call[0] != "teacher" and call[3] == 8]
    assert len(learned) == 20 * (1 + len(peers))
    assert all(call[1] and call[2] for call in learned)
    assert not any(call[1] or call[2] for call in calls if call[0] == "teacher" or call[3] != 8)
    for model in (job.model, *peers):
        assert model[1].num_batches_tracked == 20
    assert all(weight.grad is None for teacher in teachers for weight in teacher.parameters())
    assert_same_state(teachers[1], type("Before", (), {"state_dict": lambda self: before})())
    assert sum(call[0] == "teacher" and call[3] == 8 for call in calls) == 40  # at every batch
