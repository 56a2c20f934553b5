"""Results of an invented study that look like a digits run; every number here is made up."""

from __future__ import annotations

import numpy as np

from gapkit.gap import ControlRun, Evidence, Finding, Gap, Remedy, Step, Waterfall
from gapkit.knowledge import knowledge_named
from gapkit.measurement import Contributions, Curve, LayerMatrix, Measurement, Measurements
from gapkit.outcome import Comparison, Outcome, StageResult, Training
from gapkit.plans import Alternative, Cost, Phase, Plan, Predicted, Stage

N_TEST, N_VALIDATION = 797, 200
LAYERS = ("block1.relu", "block2.relu", "block3.relu", "pool", "head")
ACCURACY = {"teacher": 0.98, "student": 0.42, "untrained": 0.10}
MANIFEST = {
    "command": "gapkit run examples/digits.py --out runs/digits --budget 10",
    "created": "2025-03-01T10:00:00",
    "seed": 0,
    "folder": "runs/digits",
    "versions": {"gapkit": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
    "inputs": {"data": "9f2c" * 16, "teacher": "03ab" * 16, "student": "77de" * 16},
}


def value(name: str, of: str, number: float, half: float = 0.0, **fields) -> Measurement:
    """A measurement number ± half, on test with n = 797 unless said."""
    given = {"split": "test", "n": N_TEST, "unit": "share", "estimator": "invented"} | fields
    return Measurement(
        name=name, of=of, value=number, low=number - half, high=number + half, **given
    )


def contributions(of: str, share: float, split: str = "test") -> Contributions:
    """Hits and misses with that share of hits; better models hit what worse ones hit, and more."""
    n = N_TEST if split == "test" else N_VALIDATION
    return Contributions(of=of, split=split, values=(np.arange(n) < round(share * n)).astype(float))


def by_class(of: str, mean: float, n_classes: int = 10) -> Curve:
    """A score for each class, spread around the mean."""
    spread = np.linspace(-1, 1, n_classes) * min(mean, 1 - mean)
    y = np.clip(mean + 0.8 * spread, 0, 1)
    return Curve(
        name="by_class", of=of, split="test", x_name="class", y_name="accuracy",
        ticks=tuple(str(label) for label in range(n_classes)), x=np.arange(n_classes), y=y,
        low=np.clip(y - 0.09, 0, 1), high=np.clip(y + 0.09, 0, 1), n=np.full(n_classes, 80),
    )  # fmt: skip


def reliability(of: str, bias: float) -> Curve:
    """Accuracy over confidence in ten bins, off the diagonal by bias."""
    x = np.linspace(0.15, 0.95, 9)
    y = np.clip(x - bias, 0, 1)
    return Curve(
        name="reliability", of=of, split="test", x_name="confidence", y_name="accuracy", x=x, y=y,
        low=np.clip(y - 0.06, 0, 1), high=np.clip(y + 0.06, 0, 1), n=np.full(9, 88),
    )  # fmt: skip


def cka(n_teacher: int = 5, n_student: int = 5, layers: tuple[str, ...] = LAYERS) -> LayerMatrix:
    """A similarity that fades away from the diagonal and toward the output."""
    teacher = tuple(layers[i] if i < len(layers) else f"layer{i}" for i in range(n_teacher))
    student = tuple(layers[i] if i < len(layers) else f"layer{i}" for i in range(n_student))
    rows, columns = np.linspace(0, 1, n_teacher)[:, None], np.linspace(0, 1, n_student)[None]
    values = 0.92 * np.exp(-1.6 * np.abs(rows - columns)) * (1 - 0.5 * rows)
    return LayerMatrix(
        name="cka", split="test", teacher_layers=teacher, student_layers=student, values=values,
        low=values - 0.02, high=values + 0.02, null_z=values / 0.0018,
        untrained=0.6 * values + 0.03, teacher_dims=(32,) * n_teacher,
        student_dims=(1,) * n_student, estimator="debiased, exact over all samples", n=N_TEST, seed=0,
    )  # fmt: skip


def probes() -> list[Measurement]:
    """Linear-probe accuracy by layer for the three models, on validation and test."""
    peaks = {"teacher": 0.97, "student": 0.48, "untrained": 0.31}
    rise = (0.45, 0.7, 0.95, 0.98, 1.0)
    return [
        value("linear_probe", of, peak * share, 0.03, layer=layer, split=split)
        for split in ("validation", "test")
        for of, peak in peaks.items()
        for layer, share in zip(LAYERS, rise)
    ]


def measurements(study: str = "digits", accuracy: float = 0.42) -> Measurements:
    """What measuring the invented teacher and student gave."""
    scores = ACCURACY | {"student": accuracy}
    values = [value("accuracy", of, score, 0.034 if of == "student" else 0.01, better="higher")
              for of, score in scores.items() if of != "untrained"]  # fmt: skip
    values += [value("accuracy", of, score, 0.06, split="validation", n=N_VALIDATION)
               for of, score in scores.items() if of != "untrained"]  # fmt: skip
    values += [
        value("agreement", "pair", accuracy + 0.005, 0.034, better="higher"),
        value("kl", "pair", 1.42, 0.08, unit="nats", better="lower"),
        value("dark_knowledge", "teacher", 0.09, 0.01, unit="nats", better="neither"),
        value("nll", "teacher", 0.06, 0.02, unit="nats", better="lower"),
        value("nll", "student", 1.52, 0.06, unit="nats", better="lower"),
        value("ece", "teacher", 0.011, 0.006, better="lower"),
        value("ece", "student", 0.072, 0.02, better="lower"),
        value("confidence", "teacher", 0.984, 0.006),
        value("confidence", "student", 0.349, 0.01),
        value("entropy", "teacher", 0.05, 0.01, unit="nats"),
        value("entropy", "student", 1.81, 0.03, unit="nats"),
        value("chance", "pair", 0.104, n=N_TEST),
        value("parameters", "teacher", 56714, unit="parameters", n=0, split=""),
        value("parameters", "student", 108, unit="parameters", n=0, split=""),
        value("flops", "teacher", 1.9e6, unit="FLOPs", n=0, split=""),
        value("flops", "student", 3600, unit="FLOPs", n=0, split=""),
        value(
            "worst_slice", "pair", 0.88, 0.07, group="class=0", n=79, better="lower", level=0.995
        ),
    ]
    values += probes()
    values += [value("effective_rank", "student", 1.7, 0.1, layer=name, unit="") for name in LAYERS]
    values += [value("effective_rank", "teacher", 9.2, 0.3, layer=name, unit="") for name in LAYERS]
    values += [value("predictability", "pair", 0.7 - 0.1 * i, 0.04, layer=name, unit="")
               for i, name in enumerate(LAYERS)]  # fmt: skip
    return Measurements(
        study=study,
        values=tuple(values),
        matrices=(cka(), cka().with_(name="procrustes", values=cka().values ** 0.5)),
        curves=(reliability("teacher", 0.0), reliability("student", -0.07),
                by_class("teacher", 0.98), by_class("student", accuracy)),
        contributions=tuple(contributions(of, score, split) for of, score in scores.items()
                            if of != "untrained" for split in ("validation", "test")),
    )  # fmt: skip


def step(name: str, cause: str, points: float, half: float, merged: tuple[str, ...] = ()) -> Step:
    """One rung, on validation."""
    measured = value("points", "student", points, half, split="validation", n=N_VALIDATION)
    return Step(name=name, cause=cause, points=measured, merged=merged)


def finding(cause: str, points: float, half: float, remedy: Remedy) -> Finding:
    """One cause with a sentence of evidence on the student's agreement."""
    agreement = value("agreement", "pair", 0.41, 0.07, split="validation", n=N_VALIDATION)
    return Finding(
        cause=cause,
        points=value("points", "student", points, half, split="validation", n=N_VALIDATION),
        confidence="high" if points - half > 0 else "low",
        evidence=(
            Evidence(
                text="Trained with DIST at temperature 1 the same student scores higher in 5 of 5 seeds.",
                measurement=agreement,
                limit="zero: the paired difference over seeds and samples must lie above it",
            ),
        ),
        would_change="A gain whose interval includes zero over ten more seeds.",
        remedy=remedy,
    )


def controls() -> tuple[ControlRun, ...]:
    """Five controls of five seeds each."""
    rows = (
        ("same recipe", "Is the user's training at fault?", (32, 1), "kl4", 1.0, 0.43),
        ("from scratch", "Do the soft targets hurt?", (1,), "scratch", 1.0, 0.50),
        ("other knowledge", "Can gentler knowledge be used?", (32, 1), "dist1", 1.0, 0.53),
        ("longer", "Does more training help?", (32, 1), "dist1", 4.0, 0.58),
        ("next size up", "Does width help?", (32, 3), "dist1", 1.0, 0.95),
    )
    noise = np.array([-0.06, -0.02, 0.0, 0.03, 0.05])
    return tuple(
        ControlRun(
            name=name, question=question, path=path, recipe=recipe, fraction=fraction,
            seeds=(0, 1, 2, 3, 4), scores=score + noise * (1 - score), cost=5 * fraction,
            contributions=np.stack(
                [contributions("student", share, "validation").values
                 for share in score + noise * (1 - score)]
            ),
            agreement=score + noise * (1 - score), train_agreement=score + 0.01 + noise * (1 - score),
        )
        for name, question, path, recipe, fraction, score in rows
    )  # fmt: skip


def gap(study: str = "digits") -> Gap:
    """A diagnosis: the targets first, then the size."""
    student = value("accuracy", "student", 0.42, 0.068, split="validation", n=N_VALIDATION)
    teacher = value("accuracy", "teacher", 0.98, 0.02, split="validation", n=N_VALIDATION)
    return Gap(
        study=study,
        cause="harsh_targets",
        verdict="Softened targets at temperature 4 teach this student less than the labels alone do.",
        student=student,
        teacher=teacher,
        findings=(
            finding("harsh_targets", 0.10, 0.04, Remedy(text="Distill with DIST at temperature 1.",
                                                        knowledge="dist1")),
            finding("undertrained", 0.05, 0.03, Remedy(text="Train four times as long.", fraction=4.0)),
            finding("capacity", 0.37, 0.06, Remedy(text="Widen the student to 3 channels.", size="3")),
        ),
        waterfall=Waterfall(
            start=student,
            end=teacher,
            steps=(
                step("same recipe, trained by gapkit", "pipeline_fault", 0.01, 0.03),
                step("best knowledge and source", "harsh_targets", 0.10, 0.04),
                step("longer training", "undertrained", 0.05, 0.03),
                step("teacher-sized student", "capacity", 0.40, 0.05, ("optimization",)),
            ),
        ),
        controls=controls(),
        budget=20.0,
        spent=19.5,
        notes=("Controls ran at the full number of epochs.",),
    )  # fmt: skip


def plan(study: str = "digits") -> Plan:
    """An assistant of width 6, then the student."""
    phases = (Phase(knowledge=knowledge_named("dist1")),)
    stages = (
        Stage(name="assistant 6", size=6, sources=("teacher",), phases=phases, seeds=(0,),
              predicted=Predicted(low=0.96, value=0.975, high=0.985)),
        Stage(name="student", size=1, sources=("assistant 6",), phases=phases, seeds=(0, 1, 2),
              recipe={"epochs": 240}, predicted=Predicted(low=0.52, value=0.59, high=0.65)),
    )  # fmt: skip
    rows = (
        ((32, 6, 1), "dist1", 4.0, 0.59, 6.2, True, True, ""),
        ((32, 1), "dist1", 4.0, 0.585, 4.9, False, True, "best single hop"),
        ((32, 12, 1), "dist1", 4.0, 0.57, 7.0, False, False, ""),
        ((32, 1), "kl1", 1.0, 0.52, 1.2, False, True, ""),
        ((1,), "scratch", 1.0, 0.50, 1.0, False, True, "labels alone"),
    )
    return Plan(
        study=study,
        stages=stages,
        predicted=Predicted(low=0.55, value=0.59, high=0.63),
        predicted_run=Predicted(low=0.52, value=0.59, high=0.65),
        cost=Cost(student_trainings=6.2, flops=4.1e12, seconds=95),
        search_cost=Cost(student_trainings=9.4, flops=6.0e12, seconds=140),
        alternatives=tuple(
            Alternative(path=path, recipe=recipe, fraction=fraction, cost=cost, n_runs=3 * (not chosen),
                        predicted=Predicted(low=mid - 0.05, value=mid, high=mid + 0.05),
                        chosen=chosen, on_front=front, note=note)
            for path, recipe, fraction, mid, cost, chosen, front, note in rows
        ),
        reasons=("It has the highest expected validation score within the budget.",),
        answers=("harsh_targets", "undertrained"),
        assistant_pays=False,
        claim="The assistant's gain of 0.5 points over the best single hop is within noise.",
    )  # fmt: skip


def training(key: str, path: tuple, seed: int, score: float, epochs: int = 240) -> Training:
    """A finished training whose curve rises to its score."""
    epoch = np.arange(1, epochs + 1, epochs // 30, dtype=float)
    curve = score * (1 - 0.8 * np.exp(-4 * epoch / epochs))
    return Training(
        key=key, path=path, recipe="dist1", fraction=4.0, seed=seed, epochs=epochs,
        steps=8 * epochs, seconds=20.0, flops=1e12, curve_epoch=epoch,
        curve_loss=2 - curve, curve_score=curve, score=score, train_score=score + 0.02,
        agreement=score, train_agreement=score + 0.02,
        contributions=contributions("student", score, "validation").values,
        weights_sha256="ab" * 32,
    )  # fmt: skip


def outcome(study: str = "digits") -> Outcome:
    """What carrying out the plan reached."""
    after = measurements(study, accuracy=0.58)
    stages = (
        StageResult(name="assistant 6", size=6, sources=("teacher",), knowledge="dist1", kept=0,
                    trainings=(training("a6", (32, 6), 0, 0.975, 60),), measurements=after,
                    predicted=Predicted(low=0.96, value=0.975, high=0.985)),
        StageResult(name="student", size=1, sources=("assistant 6",), knowledge="dist1", kept=2,
                    trainings=tuple(training(f"s{i}", (32, 6, 1), i, score)
                                    for i, score in enumerate((0.54, 0.56, 0.595))),
                    measurements=after, predicted=Predicted(low=0.52, value=0.59, high=0.65)),
    )  # fmt: skip
    return Outcome(
        study=study,
        stages=stages,
        score=value("accuracy", "student", 0.58, 0.034),
        before=value("accuracy", "student", 0.42, 0.034),
        teacher=value("accuracy", "teacher", 0.98, 0.01),
        predicted=plan(study).predicted,
        comparisons=(
            Comparison(name="the plan", better_than="the student as it was", n_seeds=3,
                       points=value("points", "pair", 0.16, 0.03), decided="better"),
            Comparison(name="the plan", better_than="the best single hop at equal cost", n_seeds=3,
                       points=value("points", "pair", 0.008, 0.024), decided="undecided",
                       would_decide="about 25 more seeds of each would settle a difference of 1 point"),
        ),
    )  # fmt: skip


def results(study: str = "digits") -> dict:
    """All results of the study, as keywords of compose and write."""
    return {
        "study": study, "measurements": measurements(study), "gap": gap(study),
        "plan": plan(study), "outcome": outcome(study), "manifest": MANIFEST,
    }  # fmt: skip


HOSTILE = '#panic("x") $\\alpha$ <b>*網*</b> 😀 | \x1b[2J'
LONG_LAYER = "backbone.encoder.layers.11.attention.self.query_key_value_projection." + "x" * 60


def hostile() -> dict:
    """Results with names that would break a careless report: 40 layers, 100 classes, odd words."""
    layers = (*(f"{LONG_LAYER}.{index}" for index in range(39)), HOSTILE)
    probed = [
        value("linear_probe", of, 0.5, 0.03, layer=layer)
        for of in ("teacher", "student")
        for layer in layers
    ]
    base = measurements(HOSTILE)
    measured = base.with_(
        values=tuple(item for item in base.values if not item.layer) + tuple(probed),
        matrices=(cka(40, 40, layers),),
        curves=(
            by_class("teacher", 0.98, 100).with_(ticks=tuple(HOSTILE + str(i) for i in range(100))),
            by_class("student", 0.42, 100).with_(ticks=tuple(HOSTILE + str(i) for i in range(100))),
        ),
    )
    told = gap(HOSTILE).with_(verdict=f"Verdict of {HOSTILE}", notes=(HOSTILE,))
    return results(HOSTILE) | {
        "measurements": measured,
        "gap": told,
        "manifest": {"command": f"gapkit run {HOSTILE}", "inputs": {HOSTILE: "a" * 200}},
    }
