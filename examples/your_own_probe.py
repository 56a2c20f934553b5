"""A probe and a loss of your own, registered without touching gapkit, in a study on the digits of `gapkit demo`.

The probe says on which classes the student is surer than its teacher though it is wrong. The loss asks the
student for the teacher's order of the classes alone, pair by pair, and not for how far they lie apart. A
probe runs in every later `study.measure()`; a loss can be named in recipes and in plan.json.

    python examples/your_own_probe.py     the probe's values and both losses over five seeds
    gapkit run examples/your_own_probe.py the whole study of the student taught by that loss
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch.nn.functional as F
from scipy.stats import t
from torch import Tensor

import gapkit as gk
from gapkit.examples.digits import build, digits
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.outcome import Training
from gapkit.probes.interval import mean_interval, measured
from gapkit.probes.probe import Result, Seen, Setting, standard
from gapkit.training.answers import predict

LEAST = 10  # samples of a class, below which nothing is said of it
STUDENT, TEACHER = 1, 32  # widths


class BoldProbe:
    """How much surer than its teacher the student is of answers that are wrong.

    Named "boldness": the mean over samples of 1[wrong] · (p_S − p_T), both probabilities of the class that
    the student names; 0 for a student that is its teacher. For the whole and for every class. It says nothing
    of answers that are right, and little where few are wrong.
    """

    name = "boldness"

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterator[Result]:
        """One measurement a split, then one a class; none for tasks without classes."""
        for split, shown in seen.items():
            if setting.task.kind != "classification" or shown.targets is None:
                continue
            bold = boldness(shown.student.outputs, shown.teacher.outputs, shown.targets)
            labels = shown.targets.numpy()
            groups = {"": np.ones(len(labels), dtype=bool)}
            groups |= {f"class={label}": labels == label for label in np.unique(labels)}
            for group, rows in groups.items():
                if rows.sum() >= LEAST:
                    yield measured(
                        self.name,
                        "pair",
                        split,
                        mean_interval(bold[rows]),
                        unit="share",
                        better="lower",
                        group=group,
                        estimator="mean of (student's − teacher's confidence) where the student errs",
                    )


def boldness(student: Tensor, teacher: Tensor, labels: Tensor) -> np.ndarray:
    """(n,) of logits (n, K) and labels (n,): how much surer the student is where it is wrong, 0 elsewhere.

    >>> import torch
    >>> one, other = torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)
    >>> boldness(one, other, torch.tensor([1])).round(3), boldness(one, other, torch.tensor([0]))
    (array([0.381], dtype=float32), array([0.], dtype=float32))
    """
    named = student.argmax(1, keepdim=True)
    ours, theirs = (logits.softmax(1).gather(1, named)[:, 0] for logits in (student, teacher))
    return ((ours - theirs) * (named[:, 0] != labels)).float().numpy()


def pairwise_order(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """RankNet's loss on classes (Burges 2005): which of two classes the teacher holds likelier.

    Mean over samples and pairs of classes of the cross-entropy of σ((z_i − z_j)/τ), student's to teacher's,
    less its least value, times τ²: 0 where all differences are the teacher's. Logits (n, K); scalar.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> pairwise_order(logits, logits).item(), pairwise_order(-logits, logits).item() > 1
    (0.0, True)
    """
    z, goal = (
        (logits.float() / temperature)[:, :, None] - (logits.float() / temperature)[:, None, :]
        for logits in (student, teacher.detach())
    )
    target = goal.sigmoid()
    least = F.binary_cross_entropy_with_logits(goal, target)
    return temperature**2 * (F.binary_cross_entropy_with_logits(z, target) - least)


def register() -> None:
    """Make both known to gapkit, once in a process."""
    if "boldness" not in {probe.name for probe in standard()}:
        gk.probes.register(BoldProbe())
    if "pairwise_order" not in gk.losses.names():
        gk.losses.register("pairwise_order", pairwise_order, tasks=("classification",))


ORDER = (
    Knowledge(kind="response", loss="pairwise_order", temperature=2.0, weight=0.9),
    Knowledge(kind="label", weight=0.1),
)


def study(seed: int = 0, epochs: int = 60) -> gk.Study:
    """The digits study, its student taught by the registered loss; other seeds give other splits."""
    register()
    return gk.Study(
        name="your_own_probe",
        task=gk.Classification(),
        data=digits(seed),
        family=gk.Family(
            build, sizes=[STUDENT, 3, 6, 12, TEACHER], student=STUDENT, teacher=TEACHER
        ),
        recipe=gk.Recipe(epochs=epochs, batch_size=100, lr=1e-2, knowledge=ORDER),
        seed=seed,
    )


def taught(opened: gk.Study, knowledge: tuple[Knowledge, ...], seed: int) -> Training:
    """One training of the student by that knowledge, kept in the run folder."""
    labels_alone = all(part.kind == "label" for part in knowledge)
    stage = gk.Stage(
        name="student",
        size=STUDENT,
        sources=() if labels_alone else ("teacher",),
        phases=(gk.Phase(knowledge=knowledge),),
    )
    return opened.trainings.stage(stage, seed, stage.sources)


def compare(opened: gk.Study, seeds: Iterable[int] = range(5)) -> dict[str, np.ndarray]:
    """Name -> (seeds, 2): accuracy and boldness on test."""
    arms = {name: knowledge_named(name) for name in ("scratch", "kl4")} | {"pairwise_order": ORDER}
    labels = opened.data.targets("test")
    assert labels is not None
    teacher = predict(opened.teacher, opened.data, "test", opened.task)
    found = {}
    for name, knowledge in arms.items():
        rows = []
        for seed in seeds:
            model = opened.trainings.model(taught(opened, knowledge, seed))
            outputs = predict(model, opened.data, "test", opened.task)
            bold = boldness(outputs, teacher, labels).mean()
            rows.append((opened.task.score(outputs, labels), bold))
        found[name] = np.array(rows)
    return found


def table(found: Mapping[str, np.ndarray]) -> str:
    """One line an arm: means over seeds, and paired differences to labels alone with 95 % t intervals."""
    scratch = found["scratch"]
    n = len(scratch)
    lines = [f"{f'{n} seeds, test':16}{'accuracy':>10}{'boldness':>10}{'against labels alone':>34}"]
    for name, values in found.items():
        words = "".join(f"{value:>10.3f}" for value in values.mean(0))
        against = ""
        if name != "scratch":
            better = values - scratch
            half = t.ppf(0.975, n - 1) * better.std(0, ddof=1) / n**0.5
            against = ", ".join(
                f"{mean:+.3f} ± {each:.3f}" for mean, each in zip(better.mean(0), half, strict=True)
            )
        lines.append(f"{name:16}{words}{against:>34}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(gk.check_loss(pairwise_order))
    opened = study()
    for item in opened.measure().find("boldness", split="test"):
        print(item)
    print(table(compare(opened)))
