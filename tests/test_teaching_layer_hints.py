"""Hints go where layers are alike and matter, by validation; nothing is hinted where nothing does."""

from __future__ import annotations

import numpy as np
import pytest

from gapkit.errors import InputError
from gapkit.measurement import LayerMatrix, Measurement, Measurements
from gapkit.plans import Phase, Stage
from gapkit.teaching.layer_hints import matched_hints
from tests.training_fixtures import make_trainings

TEACHER, STUDENT = ("t0", "t1", "t2"), ("s0", "s1")


def matrix(values, split="validation"):
    values = np.array(values, dtype=float)
    edges = {"low": values - 0.1, "high": values + 0.1, "null_z": values * 0}
    return LayerMatrix(
        name="cka",
        split=split,
        teacher_layers=TEACHER[: len(values)],
        student_layers=STUDENT,
        values=values,
        n=100,
        estimator="debiased",
        **{key: edges[key] for key in edges if key in LayerMatrix.model_fields},
    )


def importance(values, split="validation"):
    return tuple(
        Measurement(
            name="layer_importance",
            of="teacher",
            split=split,
            layer=layer,
            value=value,
            low=value,
            high=value,
            n=100,
            reason="the layer shows the answer itself" if np.isnan(value) else "",
        )
        for layer, value in values.items()
    )


CKA = matrix([[0.9, 0.1], [0.3, 0.2], [0.1, 0.8]])


def measured(values, *matrices):
    return Measurements(study="s", values=values, matrices=matrices or (CKA,))


def test_pairs_follow_the_map_and_weights_the_importance():
    (part,) = matched_hints(measured(importance({"t0": 0.1, "t1": 0.2, "t2": 0.3})), weight=2.0)
    assert part.layers == (("s0", "t0"), ("s1", "t2"))
    assert part.layer_weights == pytest.approx((1 / 6, 1 / 2))
    assert (part.kind, part.loss, part.weight) == ("feature", "hint", 2.0)


def test_layers_of_no_importance_get_no_hint():
    (part,) = matched_hints(measured(importance({"t0": -0.01, "t2": 0.3})), loss="cka_loss")
    assert part.layers == (("s1", "t2"),)
    assert part.loss == "cka_loss"


def test_the_most_important_pairs_are_taken():
    (part,) = matched_hints(measured(importance({"t0": 0.1, "t2": 0.3})), n=1)
    assert part.layers == (("s1", "t2"),)


@pytest.mark.parametrize("known", [{}, {"t0": float("nan"), "t2": float("nan")}])
def test_without_any_importance_pairs_count_alike(known):
    (part,) = matched_hints(measured(importance(known)))
    assert part.layer_weights == (1.0, 1.0)


def test_validation_decides():
    other = matrix([[0.1, 0.9], [0.2, 0.1], [0.1, 0.1]], split="test")
    misleading = importance({"t0": 5.0}, split="test")
    (part,) = matched_hints(measured((*importance({"t2": 0.3}), *misleading), other, CKA))
    assert part.layers == (("s1", "t2"),)


def test_nothing_alike_is_refused():
    with pytest.raises(InputError, match="map of 3 teacher layers has none"):
        matched_hints(measured((), matrix([[-0.1, 0.0], [-0.2, -0.3], [0.0, -0.1]])))


def test_they_train(tmp_path):
    values = importance({"0": 0.2, "2": 0.1})
    found = LayerMatrix(
        **{name: getattr(CKA, name) for name in LayerMatrix.model_fields}
        | {"teacher_layers": ("0", "1", "2"), "student_layers": ("0", "1")}
    )
    (part,) = matched_hints(measured(values, found), n=1)
    assert part.layers == (("0", "0"),)
    trainings = make_trainings(tmp_path, epochs=10)
    stage = Stage(name="student", size=2, sources=("teacher",), phases=(Phase(knowledge=(part,)),))
    training = trainings.stage(stage, 0, ("teacher",))
    assert training.curve_loss[-1] < 0.8 * training.curve_loss[0]
