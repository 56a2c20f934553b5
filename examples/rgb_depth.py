"""Across modalities: a network that sees color teaches one that sees depth, on rendered scenes.

Each scene holds three bodies before a wall: a large one, whose shape is the class, and two small ones that
may hide parts of it. It is seen twice, by a camera (color, shaded by a light) and by a depth sensor, so
that one batch gives two views: the teacher's and the student's. The light moves the colors and leaves the
depths alone. The teacher has seen four times as many scenes. The student learns from labels alone, from
the teacher's answers, or from how the teacher arranges scenes before its last layer, and is judged by
class and by what it keeps of that arrangement.

    python examples/rgb_depth.py          a table over five seeds, in about seven minutes
    gapkit run examples/rgb_depth.py      the whole study of the student taught by KL
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import t
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.knowledge import knowledge_named
from gapkit.plans import Cost, Predicted

torch.set_num_threads(1)  # networks this small lose more by sharing work than they gain

SHAPES = ("disc", "square", "triangle", "ring", "cross")
SIDES = ("right", "top", "left", "bottom")
SIZE = 32  # pixels of a side
N_BODIES = 3
DOME = 0.15  # how far a body's middle stands out of its rim, in units of depth; the wall is at 1
ELEVATION = np.pi / 5  # of the light above the wall
AMBIENT = 0.5  # light that shadows get
COLOR_NOISE, DEPTH_NOISE = 0.05, 0.1  # standard deviations of the two sensors
OCCLUDED = 0.1  # hidden share of the large body from which a scene counts as occluded

N_VALIDATION, N_TEST = 500, 2000
N_TEACHER = 8000  # scenes of the teacher's own, in color alone
TEACHER, STUDENT = 16, 4  # widths
RELATIONS = ("distance_structure", "neighbors_kept", "triplet_order")


class Bodies(NamedTuple):
    """What stands in n scenes of k bodies, and the light.

    Attributes:
        shape: (n, k) index into SHAPES. center: (n, k, 2) pixels. radius: (n, k) pixels.
        turn: (n, k) radians. depth: (n, k) of the rim, 1 for the wall. color: (n, k, 3).
        light: (n,) direction that it comes from, radians from the right.
    """

    shape: np.ndarray
    center: np.ndarray
    radius: np.ndarray
    turn: np.ndarray
    depth: np.ndarray
    color: np.ndarray
    light: np.ndarray


class Scenes(NamedTuple):
    """Two aligned images of each scene, and what is true of it.

    Attributes:
        color: (n, 3, SIZE, SIZE). depth: (n, 1, SIZE, SIZE). owner: (n, SIZE, SIZE) the body seen, -1: wall.
        label: (n,) shape of the largest body. hidden: (n,) share of it behind others. light: (n,) radians.
    """

    color: np.ndarray
    depth: np.ndarray
    owner: np.ndarray
    label: np.ndarray
    hidden: np.ndarray
    light: np.ndarray


def draw(n: int, seed: int) -> Bodies:
    """Bodies at random: the first one large, all others small."""
    rng = np.random.default_rng(seed)
    each, large = (n, N_BODIES), np.arange(N_BODIES) == 0
    return Bodies(
        shape=rng.integers(len(SHAPES), size=each),
        center=rng.uniform(
            np.where(large, 10, 4)[:, None], np.where(large, 22, 28)[:, None], (*each, 2)
        ),
        radius=rng.uniform(np.where(large, 8, 4), np.where(large, 10, 6), each),
        turn=rng.uniform(0, 2 * np.pi, each),
        depth=rng.uniform(0.4, 0.9, each),
        color=rng.uniform(0.3, 1, (*each, 3)),
        light=rng.uniform(0, 2 * np.pi, n),
    )


def covers(shape: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points lie in a shape of radius 1 around the origin; shapes (n, 1, 1), u and v (n, h, w)."""
    r, a, b = np.hypot(u, v), np.abs(u), np.abs(v)
    masks = {
        "disc": r < 1,
        "square": np.maximum(a, b) < 0.8,
        "triangle": (v > -0.5) & (np.sqrt(3) * a + v < 1),
        "ring": (r < 1) & (r > 0.5),
        "cross": ((a < 0.3) | (b < 0.3)) & (np.maximum(a, b) < 0.95),
    }
    return np.choose(shape, [masks[name] for name in SHAPES])


def render(bodies: Bodies) -> Scenes:
    """Both images without noise: at each pixel the nearest surface, domes lit from one side."""
    n, k = bodies.shape.shape
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    depth, owner = np.ones((n, SIZE, SIZE)), np.full((n, SIZE, SIZE), -1)
    lean = np.zeros((2, n, SIZE, SIZE))  # of the surface, to the right and up
    area = np.empty((n, k, SIZE, SIZE), dtype=bool)
    for body in range(k):
        radius, turn = (part[:, body, None, None] for part in (bodies.radius, bodies.turn))
        across = (x - bodies.center[:, body, 0, None, None]) / radius
        up = (bodies.center[:, body, 1, None, None] - y) / radius
        u, v = (
            across * np.cos(turn) + up * np.sin(turn),
            up * np.cos(turn) - across * np.sin(turn),
        )
        area[:, body] = covers(bodies.shape[:, body, None, None], u, v)
        here = bodies.depth[:, body, None, None] - DOME * (1 - across**2 - up**2).clip(0)
        nearest = area[:, body] & (here < depth)
        depth[nearest], owner[nearest] = here[nearest], body
        lean[:, nearest] = 2 * np.stack([across, up])[:, nearest]
    wall = np.full((n, 1, 3), 0.2)
    paint = np.concatenate([bodies.color, wall], axis=1)[np.arange(n)[:, None, None], owner]
    largest = bodies.radius.argmax(1)
    whole = area[np.arange(n), largest]
    seen = whole & (owner == largest[:, None, None])
    return Scenes(
        color=(paint * shade(lean, bodies.light)[..., None]).transpose(0, 3, 1, 2),
        depth=depth[:, None],
        owner=owner,
        label=bodies.shape[np.arange(n), largest],
        hidden=1 - seen.sum((1, 2)) / whole.sum((1, 2)),
        light=bodies.light,
    )


def shade(lean: np.ndarray, light: np.ndarray) -> np.ndarray:
    """(n, h, w) brightness of matt surfaces (Lambert) under lights (n,); normals are (lean, 1)."""
    low, light = np.cos(ELEVATION), light[:, None, None]
    facing = low * (lean[0] * np.cos(light) + lean[1] * np.sin(light)) + np.sin(ELEVATION)
    return AMBIENT + (1 - AMBIENT) * (facing / np.sqrt(1 + (lean**2).sum(0))).clip(0)


def scenes(n: int, seed: int) -> Scenes:
    """Random scenes as the two noisy sensors see them."""
    clean, rng = render(draw(n, seed)), np.random.default_rng([seed, 1])
    return clean._replace(
        color=clean.color + rng.normal(0, COLOR_NOISE, clean.color.shape),
        depth=clean.depth + rng.normal(0, DEPTH_NOISE, clean.depth.shape),
    )


def two_views(n_train: int, seed: int = 0) -> gk.Data:
    """Data whose every batch holds color, which the teacher sees, and depth, which the student sees."""
    sizes = {"train": n_train, "validation": N_VALIDATION, "test": N_TEST}
    splits = {
        name: scenes(n, 4 * seed + position) for position, (name, n) in enumerate(sizes.items())
    }

    def dataset(part: Scenes) -> TensorDataset:
        images = (torch.tensor(image, dtype=torch.float32) for image in (part.color, part.depth))
        return TensorDataset(*images, torch.tensor(part.label))

    def occluded(part: Scenes) -> np.ndarray:
        return np.where(part.hidden > OCCLUDED, "yes", "no")

    def lit_from(part: Scenes) -> np.ndarray:
        return np.array(SIDES)[np.round(part.light / (np.pi / 2)).astype(int) % 4]

    return gk.Data(
        **{name: dataset(part) for name, part in splits.items()},
        teacher_input=lambda batch: batch[0],
        student_input=lambda batch: batch[1],
        target=lambda batch: batch[2],
        slices={
            "occluded": {name: occluded(part) for name, part in splits.items()},
            "light from": {name: lit_from(part) for name, part in splits.items()},
        },
    )


def build(width: int, n_channels: int = 1) -> nn.Module:
    """Three strided 3×3 convolutions of width, 2·width and 4·width channels on one channel, depth."""

    def block(n_in: int, n_out: int) -> nn.Module:
        conv = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU())

    layers = {
        "block1": block(n_channels, width),
        "block2": block(width, 2 * width),
        "block3": block(2 * width, 4 * width),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(4 * width, len(SHAPES)),
    }
    return nn.Sequential(OrderedDict(layers))


def train_teacher(n: int, epochs: int, seed: int = 0) -> nn.Module:
    """A network that sees color, trained on labels of n scenes of its own."""
    seen, rng = scenes(n, 4 * seed + 3), np.random.default_rng(seed)
    images, labels = torch.tensor(seen.color, dtype=torch.float32), torch.tensor(seen.label)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(TEACHER, n_channels=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-4)
    steps = epochs * -(-n // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.tensor(rng.permutation(n)).split(100):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def study(
    seed: int = 0,
    n_train: int = 2000,
    epochs: int = 20,
    n_teacher: int = N_TEACHER,
    out: str | Path | None = None,
) -> gk.Study:
    """Color teacher, depth student; other seeds give other scenes, teachers and students."""
    return gk.Study(
        name="rgb_depth",
        task=gk.Classification(),
        teacher=train_teacher(n_teacher, epochs, seed),
        data=two_views(n_train, seed),
        family=gk.Family(build, sizes=[STUDENT, 8, TEACHER], student=STUDENT),
        recipe=gk.Recipe(epochs=epochs, batch_size=100, lr=1e-2, knowledge="kl4"),
        layers=["block1", "block2", "block3", "flat"],
        seed=seed,
        out=out,
    )


def arms() -> dict[str, tuple[gk.Knowledge, ...]]:
    """What the student learns from: labels, answers, or relations between scenes before the last layer."""

    def relations(**weights: float) -> tuple[gk.Knowledge, ...]:
        layers = (("flat", "flat"),)
        labels = gk.Knowledge(kind="label")
        return labels, *(
            gk.Knowledge(kind="relation", loss=loss, weight=weight, layers=layers)
            for loss, weight in weights.items()
        )

    named = {name: knowledge_named(name) for name in ("scratch", "kl4", "kl1", "dist1")}
    return named | {
        "rkd": relations(rkd_distance=25.0, rkd_angle=50.0),
        "sp": relations(similarity_preserving=3.0),
    }


def plan(name: str, seed: int) -> gk.Plan:
    """One training of the student across modalities, written by hand: nothing is forecast."""
    knowledge = arms()[name]
    taught = any(part.kind != "label" for part in knowledge)
    stage = gk.Stage(
        name=name,
        size=STUDENT,
        scheme="cross_modal" if taught else "offline",
        sources=("teacher",) if taught else (),
        phases=(gk.Phase(knowledge=knowledge),),
        seeds=(seed,),
    )
    unknown = Predicted(low=0.0, value=0.5, high=1.0)
    return gk.Plan(
        study="rgb_depth", stages=(stage,), predicted=unknown, predicted_run=unknown, cost=Cost()
    )


def kept(outcome: gk.Outcome) -> dict[str, float]:
    """What one student reached on test: accuracy, and what it keeps of the teacher."""
    found = outcome.measurements
    quantities = {"accuracy": ("student", ""), "agreement": ("pair", "")}
    quantities |= {name: ("pair", "flat") for name in RELATIONS}
    return {
        name: found.get(name, of=of, layer=layer, split="test").value
        for name, (of, layer) in quantities.items()
    }


def compare(opened: gk.Study, seeds: Iterable[int] = range(5)) -> dict[str, dict[str, np.ndarray]]:
    """Arm -> quantity -> (seeds,) values on test."""
    found = {}
    for name in arms():
        rows = [kept(opened.distill(plan(name, seed))) for seed in seeds]
        found[name] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return found


def table(found: dict[str, dict[str, np.ndarray]]) -> str:
    """Means over seeds, and below each the paired difference to labels alone with its 95 % t interval."""

    def line(first: str, words: Iterable[str]) -> str:
        return f"{first:8}" + "".join(f"{word:>20}" for word in words)

    alone = found["scratch"]
    n_seeds = len(alone["accuracy"])
    lines = [line(f"{n_seeds} seeds", alone)]
    for arm, values in found.items():
        lines.append(line(arm, (f"{value.mean():.3f}" for value in values.values())))
        if arm != "scratch":
            lines.append(line("", (interval(values[name] - alone[name]) for name in values)))
    return "\n".join(lines)


def interval(differences: np.ndarray) -> str:
    """Mean and half width of the t interval over seeds (n,)."""
    n = len(differences)
    half = t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return f"{differences.mean():+.3f} ± {half:.3f}"


if __name__ == "__main__":
    opened = study(
        out="runs/rgb_depth_table"
    )  # a folder of its own: each plan's outcome replaces the last
    accuracy = opened.measure().get("accuracy", of="teacher", split="test")
    print(f"teacher, on color: {accuracy.value:.3f}")
    print(table(compare(opened)))
