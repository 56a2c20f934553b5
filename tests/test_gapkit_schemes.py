"""One step's loss: the weighted sum of what the phase names, teachers alike and without gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gapkit import losses, plans
from gapkit.errors import InputError
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.schemes import SCHEMES, Lesson, Moment, scheme_named
from gapkit.task import Classification
from gapkit.tasks.multilabel import MultiLabel
from gapkit.tasks.regression import Regression
from gapkit.teaching.objective import Objective, total
from gapkit.teaching.taps import Answer

TASK = Classification()
STUDENT = torch.tensor([[1.0, -0.5, 0.0], [0.2, 0.1, -2.0]])
FIRST = torch.tensor([[3.0, 0.0, -1.0], [0.0, 1.0, 2.0]])
SECOND = torch.tensor([[-1.0, 2.0, 0.5], [1.0, 1.0, 0.0]])
TARGETS = torch.tensor([0, 2])


def offline(task, student, teachers, targets, knowledge):
    answers = [Answer(teacher, {}) for teacher in teachers]
    moment = Moment(tuple(knowledge), tuple(range(len(teachers))))
    objective = Objective(task, knowledge)
    scheme = scheme_named("offline")
    return total(scheme(objective, [Answer(student, {})], Lesson(answers, targets, moment)))


def kl(student, teacher, temperature):
    p, q = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
    return temperature**2 * (p * (p / q).log()).sum() / len(student)


def response(loss="kl", **fields):
    return Knowledge(kind="response", loss=loss, **fields)


@pytest.mark.parametrize("name, temperature", [("kl4", 4.0), ("kl1", 1.0)])
def test_nine_tenths_of_the_teacher_and_a_tenth_of_the_labels(name, temperature):
    loss = offline(TASK, STUDENT, [FIRST], TARGETS, knowledge_named(name))
    expected = 0.9 * kl(STUDENT, FIRST, temperature) + 0.1 * F.cross_entropy(STUDENT, TARGETS)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_labels_alone_are_the_tasks_own_loss():
    loss = offline(TASK, STUDENT, [], TARGETS, knowledge_named("scratch"))
    assert loss.item() == pytest.approx(F.cross_entropy(STUDENT, TARGETS).item())


def test_several_teachers_count_alike_and_none_of_it_doubles_the_labels():
    knowledge = knowledge_named("kl4")
    both = offline(TASK, STUDENT, [FIRST, SECOND], TARGETS, knowledge)
    each = [offline(TASK, STUDENT, [teacher], TARGETS, knowledge) for teacher in (FIRST, SECOND)]
    assert both.item() == pytest.approx(sum(each).item() / 2, rel=1e-6)
    assert abs(each[0] - each[1]) > 0.1
    again = offline(TASK, STUDENT, [SECOND, FIRST], TARGETS, knowledge)
    assert again.item() == pytest.approx(both.item())


def test_every_response_has_its_own_temperature_and_weight():
    knowledge = (response(temperature=2.0, weight=0.5), response(temperature=1.0, weight=3.0))
    loss = offline(TASK, STUDENT, [FIRST], None, knowledge)
    expected = 0.5 * kl(STUDENT, FIRST, 2.0) + 3 * kl(STUDENT, FIRST, 1.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["dist", "standardized_kl"])
def test_other_losses_are_called_by_name(name):
    loss = offline(TASK, STUDENT, [FIRST], None, (response(name, temperature=1.5, weight=2.0),))
    expected = 2 * getattr(losses, name)(STUDENT, FIRST, temperature=1.5)
    assert loss.item() == pytest.approx(expected.item())
    assert loss.item() > 0.1


def test_a_loss_that_wants_targets_gets_them():
    loss = offline(TASK, STUDENT, [FIRST], TARGETS, (response("dkd", temperature=4.0),))
    assert loss.item() == pytest.approx(losses.dkd(STUDENT, FIRST, TARGETS).item())
    with pytest.raises(InputError, match="Expected targets for loss 'dkd'"):
        offline(TASK, STUDENT, [FIRST], None, (response("dkd"),))


def test_what_weighs_nothing_is_not_asked():
    silent = Knowledge(kind="label", weight=0.0)
    loss = offline(TASK, STUDENT, [FIRST], None, (response(temperature=4.0), silent))
    assert loss.item() == pytest.approx(kl(STUDENT, FIRST, 4.0).item(), rel=1e-5)


def test_the_gradient_goes_to_the_student_alone():
    student, teacher = STUDENT.clone().requires_grad_(), FIRST.clone().requires_grad_()
    offline(TASK, student, [teacher], TARGETS, knowledge_named("kl4")).backward()
    assert teacher.grad is None
    probability = F.softmax(STUDENT / 4, 1) - F.softmax(FIRST / 4, 1)
    hard = F.softmax(STUDENT, 1) - F.one_hot(TARGETS, 3)
    assert torch.allclose(student.grad, (0.9 * 4 * probability + 0.1 * hard) / 2, atol=1e-6)


def test_label_knowledge_without_targets_is_refused():
    with pytest.raises(InputError, match="Expected targets for label knowledge"):
        offline(TASK, STUDENT, [FIRST], None, knowledge_named("kl4"))


def test_schemes_are_known_by_name():
    assert scheme_named("offline") is SCHEMES["cross_modal"]
    assert tuple(SCHEMES) == plans.SCHEMES
    with pytest.raises(InputError, match="known scheme but got 'ofline'; nearest: 'offline'"):
        scheme_named("ofline")


def test_what_a_task_cannot_learn_from_is_refused():
    with pytest.raises(InputError, match="dkd"):
        Objective(MultiLabel(), [response("dkd")])
    with pytest.raises(InputError, match="is a response loss"):
        Objective(TASK, [Knowledge(kind="relation", loss="kl")])
    with pytest.raises(InputError, match=r"known knowledge for regression but got 'kl4'"):
        Objective(Regression(), "kl4")


def test_numbers_are_learned_from_the_teachers_and_the_labels():
    loss = offline(Regression(), STUDENT, [FIRST], SECOND, knowledge_named("mse", "regression"))
    expected = 0.9 * F.mse_loss(STUDENT, FIRST) + 0.1 * F.mse_loss(STUDENT, SECOND)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_tokens_that_do_not_count_teach_nothing():
    student, teacher = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    targets = torch.tensor([[0, 1, -100, -100], [2, -100, -100, -100]])
    kept = targets != -100
    loss = offline(TASK, student, [teacher], targets, knowledge_named("kl4"))
    flat = offline(TASK, student[kept], [teacher[kept]], targets[kept], knowledge_named("kl4"))
    assert loss.item() == pytest.approx(flat.item(), rel=1e-6)
    teacher[~kept] += 5
    assert offline(TASK, student, [teacher], targets, knowledge_named("kl4")) == loss
    none = torch.full_like(targets, -100)
    assert offline(TASK, student, [teacher], none, (response(),)) == 0


# The others


def terms(scheme, learners, teachers, knowledge, **moment):
    answers = [Answer(outputs, {}) for outputs in learners]
    known = [Answer(outputs, {}) for outputs in teachers]
    now = Moment(tuple(knowledge), tuple(range(len(teachers))), **moment)
    return scheme_named(scheme)(Objective(TASK, knowledge), answers, Lesson(known, TARGETS, now))


def test_teachers_count_as_their_weights_say():
    knowledge = (response(temperature=1.0),)
    found = terms("offline", [STUDENT], [FIRST, SECOND], knowledge, weights=(3.0, 1.0))
    expected = 0.75 * kl(STUDENT, FIRST, 1.0) + 0.25 * kl(STUDENT, SECOND, 1.0)
    assert total(found).item() == pytest.approx(expected.item(), rel=1e-5)


def test_dense_guidance_leaves_one_teacher_out_at_random():
    knowledge = (response(temperature=1.0),)
    third = -FIRST
    alone = {
        round((sum(kl(STUDENT, t, 1.0) for t in pair) / 2).item(), 4)
        for pair in ((FIRST, SECOND), (FIRST, third), (SECOND, third))
    }
    seen = [
        round(
            total(
                terms(
                    "dense",
                    [STUDENT],
                    [FIRST, SECOND, third],
                    knowledge,
                    draw=np.random.default_rng(seed),
                )
            ).item(),
            4,
        )
        for seed in range(60)
    ]
    assert len(alone) == 3
    assert set(seen) == alone
    assert min(seen.count(value) for value in alone) > 8  # 20 expected


def test_dense_guidance_keeps_regressors_and_weights_with_their_teachers():
    knowledge = (response(temperature=1.0),)
    found = {
        round(
            total(
                terms(
                    "dense",
                    [STUDENT],
                    [FIRST, SECOND],
                    knowledge,
                    weights=(1.0, 0.0),
                    draw=np.random.default_rng(seed),
                )
            ).item(),
            4,
        )
        for seed in range(20)
    }
    assert found == {round(kl(STUDENT, t, 1.0).item(), 4) for t in (FIRST, SECOND)}


def test_peers_learn_from_labels_and_each_other_without_gradient():
    first, second = STUDENT.clone().requires_grad_(), FIRST.clone().requires_grad_()
    knowledge = (Knowledge(kind="label"), response(temperature=1.0))
    found = terms("online", [first, second], [], knowledge)
    expected = sum(
        F.cross_entropy(own, TARGETS) + kl(own, other.detach(), 1.0)
        for own, other in ((first, second), (second, first))
    )
    assert total(found).item() == pytest.approx(expected.item(), rel=1e-5)
    assert [term.name for term in found] == [
        f"{name} of peer {i}" for i in (1, 2) for name in ("labels", "kl")
    ]
    total(found).backward()
    alone = STUDENT.clone().requires_grad_()
    (F.cross_entropy(alone, TARGETS) + kl(alone, FIRST, 1.0)).backward()
    assert torch.allclose(first.grad, alone.grad, atol=1e-6)


def test_three_peers_average_the_two_others():
    knowledge = (response(temperature=1.0),)
    found = terms("online", [STUDENT, FIRST, SECOND], [], knowledge)
    expected = (kl(STUDENT, FIRST, 1.0) + kl(STUDENT, SECOND, 1.0)) / 2
    assert found[0].value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_deepest_output_learns_labels_and_teaches_the_exits():
    deep, exit_ = STUDENT.clone().requires_grad_(), FIRST.clone().requires_grad_()
    knowledge = (response(temperature=1.0, weight=0.7), Knowledge(kind="label", weight=0.3))
    found = terms("self", [deep, exit_], [], knowledge)
    expected = F.cross_entropy(deep, TARGETS)
    expected = (
        expected + 0.7 * kl(exit_, deep.detach(), 1.0) + 0.3 * F.cross_entropy(exit_, TARGETS)
    )
    assert total(found).item() == pytest.approx(expected.item(), rel=1e-5)
    total(found).backward()
    alone = STUDENT.clone().requires_grad_()
    F.cross_entropy(alone, TARGETS).backward()
    assert torch.allclose(deep.grad, alone.grad, atol=1e-6)


def test_with_a_teacher_the_deepest_output_learns_from_it():
    knowledge = (response(temperature=1.0),)
    found = terms("self", [STUDENT, FIRST], [SECOND], knowledge)
    expected = kl(STUDENT, SECOND, 1.0) + kl(FIRST, STUDENT, 1.0)
    assert total(found).item() == pytest.approx(expected.item(), rel=1e-5)
