"""What the tests of the training rooms share: blobs of points, small perceptrons, jobs over them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gapkit import distiller
from gapkit.data import Data
from gapkit.distiller import Loop
from gapkit.family import Family
from gapkit.knowledge import KNOWLEDGE, knowledge_named
from gapkit.plans import Phase, Stage
from gapkit.recipe import Recipe
from gapkit.runs import Run
from gapkit.task import Classification
from gapkit.training.answers import Memory, Source, answers, feature_names
from gapkit.training.job import Job
from gapkit.training.trainings import Trainings

N_CLASSES, N_FEATURES = 3, 6
KL4 = (Phase(knowledge=knowledge_named("kl4")),)
LABELS = (Phase(knowledge=knowledge_named("scratch")),)


def plain(width: int) -> nn.Sequential:
    """A perceptron with one hidden layer: nothing random, nothing that depends on the batch."""
    return nn.Sequential(nn.Linear(N_FEATURES, width), nn.ReLU(), nn.Linear(width, N_CLASSES))


def noisy_net(width: int) -> nn.Sequential:
    """The same with BatchNorm and dropout.

    No bias before BatchNorm: its gradient is rounding noise, which Adam would blow up to full steps.
    """
    return nn.Sequential(
        nn.Linear(N_FEATURES, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(width, N_CLASSES),
    )


def seeded_model(build: Callable[[int], nn.Module], width: int, seed: int) -> nn.Module:
    """A fresh model whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(width)


def sharp_teacher(seed: int = 7, build: Callable[[int], nn.Module] = plain) -> nn.Module:
    """An untrained teacher with logits large enough to matter, in eval mode."""
    model = seeded_model(build, 16, seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    return model.eval()


def points(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n points around one center a class, and their classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(N_CLASSES, (n,), generator=draw)
    centers = 1.5 * torch.eye(N_CLASSES, N_FEATURES)
    return centers[labels] + torch.randn(n, N_FEATURES, generator=draw), labels


def point_data(n: int = 40, **fields: Any) -> Data:
    """n points to train on, 30 to validate, 50 to test."""
    sets = {name: TensorDataset(*points(size, seed)) for name, size, seed in SIZES}
    sets["train"] = TensorDataset(*points(n, 1))
    return Data(**(sets | fields))


SIZES = (("train", 40, 1), ("validation", 30, 2), ("test", 50, 3))


def shaken(batch: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """An augmentation that draws from torch, numpy and Python."""
    x, y = batch
    shift = 0.1 * float(np.random.randn()) + 0.1 * random.random()
    return x + 0.2 * torch.randn_like(x) + shift, y


def same(batch: Any) -> Any:
    """An augmentation that changes nothing."""
    return batch


def point_family(build: Callable[[int], nn.Module] = plain) -> Family:
    """Widths 2, 4, 8 and 16: the first the student's, the last the teacher's."""
    return Family(build, sizes=[2, 4, 8, 16], student=2, teacher=16)


def memory(source: Source, data: Data, names: Sequence[str]) -> Memory:
    """A source's answers on train, its features among them."""
    parts = [rows for _, rows in answers(source, data, "train", Classification(), "cpu", names)]
    return Memory({name: torch.cat([rows[name] for rows in parts]) for name in parts[0]})


def make_job(
    folder: Path,
    data: Data,
    *,
    build: Callable[[int], nn.Module] = noisy_net,
    phases: tuple[Phase, ...] = KL4,
    teachers: Sequence[nn.Module] | None = None,
    seed: int = 5,
    **recipe: Any,
) -> Job:
    """A job for a student of width 4, taught by `sharp_teacher` unless other teachers are given."""
    models = [sharp_teacher()] if teachers is None else list(teachers)
    sources = tuple(
        Source(f"teacher {i}", (16,), model, "teacher") for i, model in enumerate(models)
    )
    kept = (None,) * len(models)
    if data.augment is None:
        knowledge = [part for phase in phases for part in phase.knowledge]
        kept = tuple(memory(source, data, feature_names(knowledge)) for source in sources)
    stage = Stage(
        name="student", size=4, sources=tuple(f"s{i}" for i in range(len(models))), phases=phases
    )
    settings = {"epochs": 4, "batch_size": 8, "lr": 0.02} | recipe
    return Job(seeded_model(build, 4, seed), stage, Recipe(**settings), seed, sources, kept, folder)


def trained(job: Job, data: Data, tick: Callable[[float, str], None] | None = None) -> nn.Module:
    """The job's model after its training."""
    Loop(job, Classification(), data, "cpu").run(tick)
    return job.model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    """Equal bit for bit, names and buffers included."""
    ours, theirs = state(first), state(second)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"differ: {different}"


def furthest(first: nn.Module, second: nn.Module) -> float:
    """The largest difference of any two weights."""
    theirs = state(second)
    return max(
        float((mine.double() - theirs[name].double()).abs().max())
        for name, mine in state(first).items()
    )


def random_states() -> tuple[Any, ...]:
    """The random states of torch, numpy and Python, as values that compare."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # type: ignore[misc]
    return (
        torch.get_rng_state().numpy().tobytes(),
        (kind, keys.tobytes(), position, has_gauss, cached),
        random.getstate(),
    )


def train_for_a_kill(folder: str) -> None:
    """Train long and say each epoch, until somebody ends the process; see test_gapkit_distiller."""
    distiller.SAVE_SECONDS, distiller.CHECK_STEPS = 0.0, 2
    data = point_data(augment=shaken)
    job = make_job(Path(folder), data, epochs=LONG)
    trained(job, data, lambda share, _: print(round(share * LONG), flush=True))


LONG = 60


def make_trainings(
    folder: Path,
    data: Data | None = None,
    *,
    build: Callable[[int], nn.Module] = plain,
    teacher: nn.Module | None = None,
    epochs: int = 2,
    has_teacher: bool = True,
    **fields: Any,
) -> Trainings:
    """Trainings in that folder, with a teacher of width 16 lent unless there is none yet."""
    run = Run(folder)
    run.open({"study": "points"})
    found = Trainings(
        Classification(),
        point_data() if data is None else data,
        point_family(build),
        Recipe(epochs=epochs, batch_size=8, lr=0.02),
        run,
        knowledge=dict(KNOWLEDGE),
        **fields,
    )
    if has_teacher:
        found.lend("teacher", sharp_teacher(build=build) if teacher is None else teacher)
    return found
