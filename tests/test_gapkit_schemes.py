"""One step's loss: the weighted sum of what the phase names, teachers alike and without gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gapkit import losses
from gapkit.errors import InputError
from gapkit.multilabel import MultiLabel
from gapkit.plans import Knowledge, knowledge_named
from gapkit.regression import Regression
from gapkit.schemes import SCHEMES, offline, scheme_named
from gapkit.task import Classification

TASK = Classification()
STUDENT = torch.tensor([[1.0, -0.5, 0.0], [0.2, 0.1, -2.0]])
FIRST = torch.tensor([[3.0, 0.0, -1.0], [0.0, 1.0, 2.0]])
SECOND = torch.tensor([[-1.0, 2.0, 0.5], [1.0, 1.0, 0.0]])
TARGETS = torch.tensor([0, 2])


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
    assert scheme_named("offline") is offline is SCHEMES["offline"]
    with pytest.raises(InputError, match="known scheme but got 'ofline'; nearest: 'offline'"):
        scheme_named("ofline")


@pytest.mark.parametrize("task", [MultiLabel(), Regression()])
def test_class_probabilities_are_not_taught_to_other_tasks(task):
    with pytest.raises(InputError, match=f"classification task for response.*{task.kind}"):
        offline(task, STUDENT, [FIRST], None, knowledge_named("kl4"))
    loss = offline(Regression(), STUDENT, [], FIRST, knowledge_named("scratch"))
    assert loss.item() == pytest.approx(F.mse_loss(STUDENT, FIRST).item())
