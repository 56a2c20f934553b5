"""Every scheme on the digits of `gapkit demo`: who teaches a student of width 1, all else being equal.

All students have one size and one recipe; what differs is whose answers they learn: nobody's, the
teacher's, an assistant's, all larger models', an earlier generation's of their own size (by DIST and
labels), a peer's that learns beside them, or their own deepest output's (by KL and labels). Each scheme is
a list of stages, such as a plan is made of. (Two views of one scene are shown in examples/rgb_depth.py.)

    python examples/schemes.py            a table over five seeds, in about three minutes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

import gapkit as gk
from gapkit.examples.digits import build, digits
from gapkit.knowledge import SCRATCH, knowledge_named
from gapkit.outcome import Training
from gapkit.training.answers import predict

STUDENT, TEACHER = 1, 32  # widths
ANSWERS = knowledge_named("dist1")
# Labels weigh as much as the other's answers (Zhang 2018): peers that heed each other more agree on little.
MUTUAL = (gk.Knowledge(kind="label"), gk.Knowledge(kind="response", loss="kl"))
LABELS_ALONE = "labels alone"


class Scores(NamedTuple):
    """Accuracy of one scheme's students, one for each seed: (seeds,) on validation and on test."""

    validation: np.ndarray
    test: np.ndarray


def stage(
    name: str,
    size: int = STUDENT,
    sources: Sequence[str] = (),
    knowledge: Sequence[gk.Knowledge] = ANSWERS,
    **scheme: object,
) -> gk.Stage:
    """A stage of one phase."""
    return gk.Stage(
        name=name,
        size=size,
        sources=tuple(sources),
        phases=(gk.Phase(knowledge=tuple(knowledge)),),
        **scheme,
    )


def schemes() -> dict[str, tuple[gk.Stage, ...]]:
    """Name -> stages in order, the last of which trains the student."""
    first = stage("generation 1", knowledge=SCRATCH)
    return {
        LABELS_ALONE: (stage("student", knowledge=SCRATCH),),
        "offline": (stage("student", sources=["teacher"]),),
        "offline, assistant": (
            stage("assistant", 6, ["teacher"]),
            stage("student", sources=["assistant"]),
        ),
        "dense": (
            stage("larger", 12, ["teacher"]),
            stage("smaller", 6, ["teacher", "larger"], scheme="dense"),
            stage("student", sources=["teacher", "larger", "smaller"], scheme="dense"),
        ),
        # The peer is of another size: of peers of one size the best is kept, which would flatter it.
        "online, peer": (stage("student", knowledge=MUTUAL, scheme="online", peers=(3,)),),
        "born again": (
            first,
            stage("generation 2", sources=["generation 1"]),
            stage("generation 3", sources=["generation 2"]),
        ),
        "self, exits": (
            stage("student", knowledge=MUTUAL, scheme="self", exits=("block1", "block2")),
        ),
    }


def study(seed: int = 0, epochs: int = 60) -> gk.Study:
    """The digits study with labels alone as the recipe that all schemes are held against."""
    return gk.Study(
        name="schemes",
        task=gk.Classification(),
        data=digits(seed),
        family=gk.Family(build, sizes=[1, 3, 6, 12, 32], student=STUDENT, teacher=TEACHER),
        recipe=gk.Recipe(epochs=epochs, batch_size=100, lr=1e-2, knowledge="scratch"),
        seed=seed,
    )


def carried_out(opened: gk.Study, stages: Sequence[gk.Stage], seed: int) -> Training:
    """The last stage's training; each stage is trained once with that seed and kept in the run folder."""
    keys = {"teacher": "teacher"}
    for each in stages:
        training = opened.trainings.stage(each, seed, [keys[source] for source in each.sources])
        keys[each.name] = training.key
    return training


def on_test(opened: gk.Study, training: Training) -> float:
    """Accuracy on test, which nothing was chosen on."""
    model = opened.trainings.model(training)
    outputs = predict(model, opened.data, "test", opened.task, opened.device)
    return opened.task.score(outputs, opened.data.targets("test"))


def compare(opened: gk.Study, seeds: Iterable[int] = range(5)) -> dict[str, Scores]:
    """Scheme -> scores; the same seed starts every scheme's student from the same weights."""
    found = {}
    for name, stages in schemes().items():
        trained = [carried_out(opened, stages, seed) for seed in seeds]
        validation = np.array([training.score for training in trained])
        test = np.array([on_test(opened, training) for training in trained])
        found[name] = Scores(validation, test)
    return found


def paired(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean difference over seeds (n,) and half the width of its 95 % t interval."""
    better, n = ours - theirs, len(ours)
    return better.mean(), t.ppf(0.975, n - 1) * better.std(ddof=1) / np.sqrt(n)


def table(found: dict[str, Scores]) -> str:
    """One line a scheme: both accuracies, the paired difference on test, test of every seed."""
    lines = [f"{'':20}{'validation':>10}{'test':>8}{'against labels alone':>24}   test by seed"]
    for name, scores in found.items():
        against = ""
        if name != LABELS_ALONE:
            better, half = paired(scores.test, found[LABELS_ALONE].test)
            against = f"{better:+.3f} ± {half:.3f}"
        each = " ".join(f"{value:.3f}" for value in scores.test)
        lines.append(
            f"{name:20}{scores.validation.mean():>10.3f}{scores.test.mean():>8.3f}{against:>24}   {each}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(compare(study())))
