"""Plants: one function a cause that changes how a student comes about, and what proves that it took.

Whatever a cause costs is measured by taking it away again: the same student without it, twins of three
seeds, on samples that the study never sees. A plant that costs too little did not take and is no case.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from setups import Setup, student_of, teacher_of
from torch import nn
from torch.utils.data import TensorDataset
from worlds import WORLDS, Sample, World

import gapkit as gk
from gapkit.knowledge import Knowledge, hints, response

LEAST = 0.03  # of the score: three points of accuracy, .03 of R²
LEAST_SLICE = 0.15
HEALTHY, HEALTHY_SLICE = 0.01, 0.05
N_TWINS, N_BLOCKS = 3, 10


@dataclass(frozen=True)
class Check:
    """One proof: a difference of scores on the judge, its standard error and what it must reach."""

    name: str
    value: float
    se: float
    least: float

    @property
    def holds(self) -> bool:
        """Whether the difference reaches the least and lies two standard errors above zero."""
        return self.value >= self.least and self.value > 2 * self.se

    def __str__(self) -> str:
        return f"{self.name} {100 * self.value:+.1f} ± {100 * self.se:.1f}"


@dataclass(frozen=True)
class Planted:
    """A study with a known cause.

    Attributes:
        study: as a user would set it up. truth: the causes planted; ("no_gap",) for a healthy pair.
        checks: what proves them; note: the checks in words.
    """

    study: gk.Study
    truth: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def took(self) -> bool:
        """Whether all proofs hold."""
        return all(check.holds for check in self.checks)

    @property
    def note(self) -> str:
        """The proofs in one line."""
        return "; ".join(map(str, self.checks))


def no_gap(setup: Setup, strength: int) -> Setup:
    """A student nearly as large as its teacher, or as large, honestly trained for long."""
    size = setup.world.able if strength == 1 else setup.world.sizes[-1]
    return setup.but(size=size, epochs=2.0)


def harsh_targets(setup: Setup, strength: int) -> Setup:
    """A tiny student that is to match all logits: by a very high temperature, or as numbers; no labels."""
    harsh = response("kl", 20.0, 1.0) if strength == 1 else response("mse", 1.0, 1.0)
    return setup.but(size=setup.world.small, knowledge=harsh)


def teacher_gap(setup: Setup, strength: int) -> Setup:
    """A teacher that memorized wrong labels of the transfer set; an earlier state of it had not yet."""
    return setup.but(teacher="overfit", label_noise=0.1 + 0.1 * strength)


def undertrained(setup: Setup, strength: int) -> Setup:
    """Training ends long before it has converged."""
    return setup.but(epochs=setup.world.short / strength)


def coverage(setup: Setup, strength: int) -> Setup:
    """A transfer set of a few samples, or of one end of the data, for as many steps as all would get."""
    return setup.but(n_train=100) if strength == 1 else setup.but(n_train=150, biased=True)


def input_gap(setup: Setup, strength: int) -> Setup:
    """The student sees less than its teacher."""
    return setup.but(crop=strength)


def pipeline_fault(setup: Setup, strength: int) -> Setup:
    """A bug in the user's loop; which one goes by seed and strength."""
    faults = ["misaligned", "stuck", "decay"]
    faults += ["statistics"] if setup.world.kind != "transformer" else []
    return setup.but(fault=_turn(faults, setup, strength), fault_share=0.6 + 0.2 * strength)


def _turn(kinds: list[str], setup: Setup, strength: int) -> str:
    """Kinds in turn over strengths and seeds, so that a few seeds hold all of them."""
    return kinds[(2 * setup.seed + strength - 1) % len(kinds)]


def harness_fault(setup: Setup, strength: int) -> Setup:
    """Teacher and data do not fit, for the user's training as for the study."""
    faults = ["classes", "normalization", "head"]
    if not setup.world.names_classes:
        faults = ["scale", "normalization", "head"]
    return setup.but(harness=_turn(faults, setup, strength), fault_share=0.5 * strength)


def false_success(setup: Setup, strength: int) -> Setup:
    """The user's loop leaves out the rare source, or nearly."""
    return setup.but(rare_kept=0.1 if strength == 1 else 0.0)


def capacity(setup: Setup, strength: int) -> Setup:
    """A student far too small, honestly and gently trained for long."""
    return setup.but(size=setup.world.sizes[2 - strength], epochs=2.0)


def overconfident_teacher(setup: Setup, strength: int) -> Setup:
    """A teacher whose answers are the labels that it memorized, wrong ones too, and a student of these alone."""
    noise, knowledge = 0.2 + 0.1 * strength, response("kl", 1.0, 1.0)
    return setup.but(teacher="overconfident", label_noise=noise, knowledge=knowledge)


def optimization(setup: Setup, strength: int) -> Setup:
    """A learning rate that is far too high at every size."""
    return setup.but(lr=setup.world.wild * (0.5 + 0.5 * strength))


def blind_layer(setup: Setup, strength: int) -> Setup:
    """A student architecture that cannot express what its teacher does, at any width."""
    return setup.but(blind=True, size=setup.world.sizes[-1 - strength])


def uniform_transfer(setup: Setup, strength: int) -> Setup:
    """Hints at all layers, weighted alike, early ones too, that leave little room for the labels."""
    names = [name for name, _ in setup.world.build(setup.world.small).named_children()]
    layers = [name for name in names if name[-1].isdigit() or name in ("first", "second")]
    pairs = {(name, name): 1.0 for name in layers}
    feature = hints(pairs, loss="hint", pool=True, weight=30.0 * strength)
    size = setup.world.sizes[1]
    return setup.but(knowledge=(*feature, Knowledge(kind="label")), size=size)


def scheme_mismatch(setup: Setup, strength: int) -> Setup:
    """A teacher from before the rare source, which the labels know about."""
    knowledge = setup.knowledge if strength == 1 else _all_teacher(setup.world)
    return setup.but(teacher="old", knowledge=knowledge)


def _all_teacher(world: World) -> tuple[Knowledge, ...]:
    return response("kl" if world.names_classes else "mse", 1.0, 1.0)


CURES: dict[str, dict[str, Any]] = {
    "harsh_targets": {"knowledge": "scratch"},
    "teacher_gap": {"teacher": "early"},
    "undertrained": {"epochs": 1.0},
    "coverage": {"n_train": 0, "biased": False},
    "input_gap": {"crop": 0},
    "pipeline_fault": {"fault": ""},
    "harness_fault": {"harness": ""},
    "false_success": {"rare_kept": 1.0},
    "overconfident_teacher": {"teacher": "early"},
    "optimization": {"lr": 1.0},
    "blind_layer": {"blind": False},
    "uniform_transfer": {"knowledge": "scratch"},
    "scheme_mismatch": {"teacher": "good"},
}
"""What takes a cause away again; capacity is taken away by the world's able size."""

PLANTS: dict[str, Callable[[Setup, int], Setup]] = {
    function.__name__: function
    for function in (
        no_gap,
        harsh_targets,
        teacher_gap,
        undertrained,
        coverage,
        input_gap,
        pipeline_fault,
        harness_fault,
        false_success,
        capacity,
        overconfident_teacher,
        optimization,
        blind_layer,
        uniform_transfer,
        scheme_mismatch,
    )
}

FOR_CLASSES = ("harsh_targets", "overconfident_teacher", "teacher_gap")
"""Causes that need logits."""

FOR_MADE = ("overconfident_teacher", "teacher_gap")
"""Causes whose teacher has samples of its own; of the digits there are too few."""


def fits(world: World, causes: tuple[str, ...]) -> bool:
    """Whether the causes exist in that world."""
    excluded = set() if world.names_classes else set(FOR_CLASSES)
    excluded |= set(FOR_MADE) if world.name == "digits" else set()
    excluded |= set(FOR_MADE) if world.kind == "mlp" else set()  # memorizes too little
    return not excluded & set(causes)


def set_up(world: str, causes: tuple[str, ...], strength: int, seed: int) -> Setup:
    """The setup with all those causes planted, one after the other."""
    known = WORLDS[world]
    setup = Setup(world=known, seed=seed, size=known.able)
    for cause in causes:
        setup = PLANTS[cause](setup, strength)
    return setup


def plant(
    world: str,
    causes: tuple[str, ...],
    strength: int,
    seed: int,
    folder: Path,
    name: str = "case",
    keep: bool = False,
) -> Planted:
    """Train teacher and student with those causes, prove that they took, and set up the study.

    Args:
        strength: 1 (mild) or 2 (strong).
        folder: trained teachers are kept under `teachers`, the study runs in a folder of its name.
        keep: whether the student and its proofs are kept too, and taken from there when they are.
    """
    setup = set_up(world, causes, strength, seed)
    kept = folder / "students" / name if keep else None
    found = None if kept is None else _kept(setup, kept)
    if found is None:
        student = student_of(setup, folder / "teachers")
        found = student, tuple(_proofs(setup, causes, student, folder / "teachers"))
        if kept is not None:
            _keep(found, kept)
    student, checks = found
    return Planted(build_study(setup, student, folder, name), causes, checks)


def _kept(setup: Setup, path: Path) -> tuple[nn.Module, tuple[Check, ...]] | None:
    if not path.with_suffix(".json").exists():
        return None
    student = setup.world.build(setup.size, blind=setup.blind)
    load_model(student, path.with_suffix(".safetensors"))
    checks = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return student.eval(), tuple(Check(**check) for check in checks)


def _keep(found: tuple[nn.Module, tuple[Check, ...]], path: Path) -> None:
    student, checks = found
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(student, str(path.with_suffix(".safetensors")))
    text = json.dumps([asdict(check) for check in checks])
    path.with_suffix(".json").write_text(text, encoding="utf-8")


def _proofs(
    setup: Setup, causes: tuple[str, ...], student: nn.Module, kept: Path
) -> Iterator[Check]:
    """What must hold of all causes, up to the first that did not take."""
    for cause in causes:
        checks = prove(setup, cause, student, kept)
        yield from checks
        if not all(check.holds for check in checks):
            return


def prove(setup: Setup, cause: str, student: nn.Module, kept: Path) -> list[Check]:
    """What must hold when that cause took; once something does not, nothing more is trained for it."""
    judge = setup.splits.judge
    teacher = teacher_of(setup, kept)
    gap = _blocks(setup, teacher, judge, "teacher") - _blocks(setup, student, judge)
    if cause == "no_gap":
        return _prove_healthy(setup, float(gap.mean()), student, teacher, kept)
    if cause == "harness_fault":
        sound = _blocks(
            setup.but(harness=""), teacher_of(setup.but(harness=""), kept), judge, "teacher"
        )
        lost = sound - _blocks(setup, teacher, judge, "teacher")
        return [_check("teacher without the fault", lost, 2 * LEAST)]
    if cause in ("false_success", "scheme_mismatch"):
        return _prove_slice(setup, cause, student, teacher, kept)
    checks = [_check("gap", gap, LEAST)]
    if checks[0].holds:  # a gap too small to be a case: no twins to train for it
        checks.append(_recovered(setup, cause, kept))
    if not checks[-1].holds:
        return checks
    if cause == "overconfident_teacher":
        checks.append(_labels_alone(setup, teacher))
    if cause == "undertrained":
        doubled = _against(setup, setup.but(epochs=2 * setup.epochs), kept)
        checks.append(_check("twice as long", doubled, LEAST / 2))
    if cause in ("harsh_targets", "uniform_transfer"):
        longer = float(_against(setup, setup.but(epochs=2 * setup.epochs), kept).mean())
        checks.append(Check("knowledge beyond length", checks[1].value - longer, 0.0, 0.0))
    if cause == "capacity":
        other = setup.but(knowledge="scratch"), setup.but(epochs=2 * setup.epochs)
        best = max(float(_against(setup, way, kept).mean()) for way in other)
        checks.append(Check("size beyond other ways", checks[1].value / 2 - best, 0.0, 0.0))
    return checks


def _prove_healthy(
    setup: Setup, gap: float, student: nn.Module, teacher: nn.Module, kept: Path
) -> list[Check]:
    """Room below what would count: of the gap, and on the rare source of the gap and of what labels know better."""
    checks = [Check("room below a gap", HEALTHY - gap, 0.0, 0.0)]
    if not checks[0].holds:
        return checks
    rare = setup.splits.judge.rows(setup.splits.judge.rare)
    reached = float(_blocks(setup, teacher, rare, "teacher").mean())
    behind = reached - float(_blocks(setup, student, rare).mean())
    of_labels = setup.but(knowledge="scratch")
    twins = [_blocks(setup, student_of(of_labels, kept, twin), rare) for twin in range(N_TWINS)]
    for name, lead in (("behind", behind), ("labels ahead", float(np.mean(twins)) - reached)):
        checks.append(Check(f"rare source, room below {name}", HEALTHY_SLICE - lead, 0.0, 0.0))
    return checks


def _labels_alone(setup: Setup, teacher: nn.Module) -> Check:
    """How far below 3/n is what the teacher leaves to other classes on train, as a share of that."""
    train = setup.transfer()
    with torch.no_grad():
        left = float((1 - teacher(train.x).softmax(-1).amax(1)).sum())
    return Check("answers are the labels", 1 - left / 3, 0.0, 0.0)


def _recovered(setup: Setup, cause: str, kept: Path) -> Check:
    """What comes back when the cause is taken away."""
    cure = {"size": setup.world.able} if cause == "capacity" else CURES[cause]
    return _check(f"without {cause}", _against(setup, setup.but(**cure), kept), LEAST)


def _prove_slice(
    setup: Setup, cause: str, student: nn.Module, teacher: nn.Module, kept: Path
) -> list[Check]:
    """On the rare source the student fails its teacher, or the teacher a student of labels alone."""
    judge = setup.splits.judge
    rare = judge.rows(judge.rare)
    if cause == "scheme_mismatch":
        labels = student_of(setup.but(knowledge="scratch"), kept, twin=1)
        lead = _blocks(setup, labels, rare) - _blocks(setup, teacher, rare, "teacher")
        return [_check("labels alone beyond teacher, rare source", lead, LEAST_SLICE)]
    behind = _blocks(setup, teacher, rare, "teacher") - _blocks(setup, student, rare)
    scores = [
        setup.world.task.score(_outputs(setup, *one), judge.y)
        for one in ((teacher, judge, "teacher"), (student, judge, "student"))
    ]
    fine = Check("average above nine tenths", scores[1] - 0.9 * scores[0], 0.0, 0.0)
    return [_check("behind on the rare source", behind, LEAST_SLICE), fine]


def _against(planted: Setup, cured: Setup, kept: Path) -> np.ndarray:
    """(twins, blocks) score of the cured setup minus the planted one, on the judge."""
    return np.stack(
        [
            _blocks(cured, student_of(cured, kept, twin), cured.splits.judge)
            - _blocks(planted, student_of(planted, kept, twin), planted.splits.judge)
            for twin in range(N_TWINS)
        ]
    )


def _check(name: str, differences: np.ndarray, least: float) -> Check:
    """Mean with its standard error over blocks of samples, or over twins where those differ more."""
    rows = np.atleast_2d(differences)
    errors = [float(np.std(rows.mean(0), ddof=1)) / math.sqrt(rows.shape[1])]
    if len(rows) > 1:
        errors.append(float(np.std(rows.mean(1), ddof=1)) / math.sqrt(len(rows)))
    return Check(name, float(rows.mean()), max(errors), least)


def _outputs(setup: Setup, model: nn.Module, sample: Sample, who: str = "student") -> torch.Tensor:
    view = setup.teacher_view if who == "teacher" else setup.student_view
    with torch.no_grad():
        return model(view(sample.x))


def _blocks(setup: Setup, model: nn.Module, sample: Sample, who: str = "student") -> np.ndarray:
    """(blocks,) the task's score on consecutive tenths of a sample."""
    outputs = _outputs(setup, model, sample, who)
    parts = np.array_split(np.arange(len(sample.y)), N_BLOCKS)
    return np.array([setup.world.task.score(outputs[part], sample.y[part]) for part in parts])


def build_study(setup: Setup, student: nn.Module, folder: Path, name: str) -> gk.Study:
    """The study as a user would set it up, who does not know what is wrong."""
    world, splits = setup.world, setup.splits._replace(train=setup.transfer())
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    sets = {key: TensorDataset(sample.x, sample.y) for key, sample in named.items()}
    column = {key: np.where(sample.rare, "rare", "usual") for key, sample in named.items()}
    views: dict[str, Any] = {}
    if setup.crop or setup.harness == "normalization":
        views["student_input"] = lambda raw: setup.student_view(raw[0])
        views["teacher_input"] = lambda raw: setup.teacher_view(raw[0])
    kept, claimed, earlier = folder / "teachers", None, None
    if setup.harness and setup.seed % 2 == 0:
        sound = setup.but(harness="")
        outputs = _outputs(sound, teacher_of(sound, kept), splits.judge, "teacher")
        claimed = world.task.score(outputs, splits.judge.y)
    if setup.teacher == "overfit":
        earlier = [teacher_of(setup.but(teacher="early"), kept).state_dict()]
    return gk.Study(
        name=name,
        task=world.task,
        teacher=teacher_of(setup, kept),
        student=student,
        teacher_checkpoints=earlier,
        teacher_score=claimed,
        data=gk.Data(**sets, **views, slices={"source": column}),
        family=gk.Family(
            lambda width: world.build(width, setup.blind),
            sizes=world.sizes,
            student=setup.size,
            teacher=None if setup.blind else world.sizes[-1],
        ),
        recipe=setup.recipe,
        device="cpu",
        seed=setup.seed,
        out=folder / "studies" / name,
    )
