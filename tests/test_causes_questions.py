"""Which controls can still name a cause, and what each explains: every rule fires, and not just short of it."""

from __future__ import annotations

import numpy as np
import pytest

from gapkit.causes.case import Case
from gapkit.causes.controls import beyond_one_run
from gapkit.causes.questions import (
    MATTERS,
    SAME,
    asked,
    gain,
    is_knowledge,
    matters,
    stuck_at_size,
    worth_longer,
)
from gapkit.gap import HALF, LIKE_TEACHER, RATE, VIEW, ControlRun
from gapkit.measurement import Measurement
from gapkit.probes.interval import Interval, measured
from tests.deciding_fixtures import N, control, hits, measurements, seeds_of

ALL = [SAME, "scratch", "shorter", "next size up", "teacher-sized", HALF, RATE, VIEW, LIKE_TEACHER]
UNDER_FIT = {"shorter", "next size up", "teacher-sized", RATE, LIKE_TEACHER}


def case(*controls: ControlRun, teacher=0.9, student=0.7, values=(), **fields) -> Case:
    about = {key: fields.pop(key) for key in ("train", "chance", "worst") if key in fields}
    found = measurements(hits(teacher), hits(student), **about)
    found = found.with_(values=(*found.values, *values))
    return Case(found, {run.name: run for run in controls}, **fields)


def arm(name: str, share: float, **fields) -> ControlRun:
    return control(name, seeds_of(share, 3), **fields)


def behind(low: float, n: int) -> Measurement:
    """A slice of n samples on which the student is 0.4 behind."""
    interval = Interval(0.4, low, 0.6, 0.0, n)
    return measured("worst_slice", "pair", "validation", interval, unit="share", group="class=3")


def teacher_on(group: str, high: float) -> Measurement:
    interval = Interval(high - 0.1, high - 0.2, high, 0.05, 50)
    return measured("accuracy", "teacher", "validation", interval, unit="share", group=group)


# asked


def test_everything_is_asked_where_nothing_is_known_but_longer_training():
    assert asked(case(), ALL) == ALL
    assert asked(case(), [*ALL, "longer"]) == ALL
    assert asked(case(), []) == []


def test_nothing_is_asked_where_teacher_and_data_do_not_fit():
    assert asked(case(teacher_score=0.99), ALL) == []
    assert asked(case(teacher_score=0.9), ALL) == ALL


def test_nothing_is_asked_without_a_gap():
    assert asked(case(student=0.9), ALL) == []
    assert asked(case(student=0.95), ALL) == []
    assert asked(case(student=0.875), ALL) == ALL  # ten of 400 samples


def test_labels_alone_are_asked_where_the_teacher_is_weak_on_a_declared_slice():
    def told(group, high, slices=("camera",), student=0.9):
        values = np.where(np.arange(N) < 0.9 * N, 0, 2)
        declared = {name: values for name in slices}
        return asked(case(student=student, values=[teacher_on(group, high)], slices=declared), ALL)

    least = 0.9 * 0.9  # nine tenths of the teacher's average
    assert told("camera=2", least - 1e-9) == ["scratch"]
    assert told("camera=2", least + 1e-9) == []
    assert told("camera=2", least - 1e-9, slices=("lens",)) == []  # not declared
    assert told("camera=2", least - 1e-9, student=0.7) == ALL  # there is a gap to ask about


def test_the_own_recipe_is_asked_where_a_slice_holds_most_of_the_gap_then_all_where_it_does_as_badly():
    """The gap is 0.05 of 400 samples, 20 in all; half of it is 25 samples that are 0.4 behind."""
    hidden = {"student": 0.85, "worst": behind(0.2, 26)}
    assert asked(case(**hidden), ALL) == [SAME]
    assert asked(case(arm(SAME, 0.875), **hidden), ALL) == [SAME]
    assert asked(case(arm(SAME, 0.8725), **hidden), ALL) == ALL
    assert asked(case(control(SAME, seeds_of(0.85, 1)), **hidden), ALL) == [
        SAME
    ]  # one seed tells nothing
    assert asked(case(student=0.85, worst=behind(0.2, 24)), ALL) == ALL
    assert asked(case(student=0.85, worst=behind(0.01, 26)), ALL) == ALL  # no slice is found at all


def test_what_was_learned_of_train_asks_for_no_length_rate_size_or_architecture():
    """A tenth of the gap of 0.2, eight of 400 samples, may be missing on train."""
    learned = asked(case(train=(hits(0.99), hits(0.99 - 0.0175))), ALL)
    assert set(ALL) - set(learned) == UNDER_FIT
    assert HALF in learned
    assert asked(case(train=(hits(0.99), hits(0.99 - 0.0225))), ALL) == ALL


def test_what_is_lost_on_train_already_asks_for_no_more_samples():
    lost = asked(case(train=(hits(0.95), hits(0.95 - 0.1825))), ALL)
    assert set(ALL) - set(lost) == {HALF}
    assert asked(case(train=(hits(0.95), hits(0.95 - 0.1775))), ALL) == ALL


def test_longer_training_is_asked_where_half_the_length_loses_a_tenth_of_the_gap():
    names = [*ALL, "longer"]
    same = arm(SAME, 0.7)
    assert asked(case(same, arm("shorter", 0.7 - 0.0225)), names) == names
    assert asked(case(same, arm("shorter", 0.7 - 0.0175)), names) == ALL
    learned = {"train": (hits(0.99), hits(0.99))}
    assert "longer" not in asked(case(same, arm("shorter", 0.5), **learned), names)


@pytest.mark.parametrize("name", ["teacher-sized", "next size up"])
@pytest.mark.parametrize("seen, stuck", [(0.88, True), (0.9, False)])
def test_longer_training_is_asked_where_a_larger_student_is_stuck_on_train_too(name, seen, stuck):
    """The student misses 0.1 of train, and the larger one more than half of that, or less."""
    about = {"train": (hits(0.94), hits(0.84))}
    level = arm(SAME, 0.7), arm("shorter", 0.7)  # half the length loses nothing on a plateau
    found = case(*level, arm(name, 0.7, train_score=seen), **about)
    assert stuck_at_size(found) == stuck
    assert ("longer" in asked(found, [*ALL, "longer"])) == stuck


def test_nobody_is_stuck_where_train_is_not_known():
    assert not stuck_at_size(case(arm("teacher-sized", 0.7, train_score=0.1)))
    about = {"train": (hits(0.94), hits(0.84))}
    assert not stuck_at_size(case(arm("teacher-sized", 0.7), **about))
    assert not stuck_at_size(case(arm(SAME, 0.7, train_score=0.1), **about))


# gain


def test_a_gain_is_the_difference_to_the_own_recipe():
    same, size = arm(SAME, 0.7), arm("next size up", 0.76, path=(32, 3))
    found = case(same, size)
    assert gain(found, "next size up") == found.difference("next size up", size, same)
    assert gain(found, "next size up").value == pytest.approx(0.06)


@pytest.mark.parametrize("name", ["shorter", HALF])
def test_of_less_training_what_it_loses_counts(name):
    less = gain(case(arm(SAME, 0.7), arm(name, 0.64)), name)
    assert less.value == pytest.approx(0.06)
    assert less.low > 0


def test_the_own_recipe_is_held_against_the_student_as_one_run():
    same = arm(SAME, 0.76)
    found = case(same)
    assert gain(found, SAME) == beyond_one_run(found, same)
    assert gain(found, SAME).value == pytest.approx(0.06)


def test_longer_training_is_held_against_what_it_continues():
    same, gentle = arm(SAME, 0.7), arm("knowledge: dist1", 0.76, recipe="dist1")
    longer = arm("longer", 0.8, recipe="dist1", fraction=2.0)
    assert gain(case(same, gentle, longer), "longer").value == pytest.approx(0.04)
    assert gain(case(same, longer), "longer").value == pytest.approx(0.1)


def test_no_gain_is_known_of_what_was_not_run():
    assert gain(case(arm(SAME, 0.7)), "scratch") is None
    assert gain(case(arm("scratch", 0.7)), "scratch") is None
    assert gain(case(), SAME) is None


# limits


def test_a_tenth_of_the_gap_matters():
    assert MATTERS == 0.1
    assert matters(case()) == pytest.approx(0.02)
    assert matters(case(teacher=0.7, student=0.9)) == 0.0


@pytest.mark.parametrize("lost, worth", [(0.105, True), (0.095, False), (-0.105, False)])
def test_longer_is_worth_it_beyond_the_share_that_half_the_length_loses(lost, worth):
    found = case(arm(SAME, 0.7), arm("shorter", 0.7 - lost))
    assert worth_longer(found, 0.5) == worth


def test_longer_is_not_worth_it_before_half_the_length_was_tried():
    assert not worth_longer(case(arm(SAME, 0.7)), 0.0)
    assert not worth_longer(case(arm("shorter", 0.5)), 0.0)


@pytest.mark.parametrize(
    "name, answer",
    [
        (SAME, True),
        ("scratch", True),
        ("knowledge: kl1", True),
        ("longer", False),
        ("smaller teacher", False),
        (VIEW, False),
    ],
)
def test_knowledge_is_the_own_size_and_length(name, answer):
    assert is_knowledge(name) == answer
