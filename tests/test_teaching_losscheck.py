"""check_loss(): each fault fires, and a correct loss fires none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gapkit import losses
from gapkit.errors import InputError
from gapkit.teaching.losscheck import LossCheck, check_loss


def softened(student, teacher, temperature):
    return F.log_softmax(student / temperature, 1), F.softmax(teacher.detach() / temperature, 1)


def correct(student, teacher, temperature=4.0):
    logs, wanted = softened(student, teacher, temperature)
    return temperature**2 * F.kl_div(logs, wanted, reduction="batchmean")


def mean_reduction(student, teacher):
    return 16 * F.kl_div(*softened(student, teacher, 4.0), reduction="mean")


def sum_reduction(student, teacher):
    return 16 * F.kl_div(*softened(student, teacher, 4.0), reduction="sum")


def no_reduction(student, teacher):
    return F.kl_div(*softened(student, teacher, 4.0), reduction="none").sum(1)


def teacher_first(teacher, student):
    return correct(student, teacher)


def reverse_kl(student, teacher):
    logs, wanted = (z.log_softmax(1) for z in (student, teacher.detach()))
    return F.kl_div(wanted, logs, reduction="batchmean", log_target=True)


def no_tau_squared(student, teacher, temperature=4.0):
    return F.kl_div(*softened(student, teacher, temperature), reduction="batchmean")


def attached_teacher(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


def log_of_softmax(student, teacher):
    p, q = teacher.detach().softmax(1), student.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def probabilities_for_logs(student, teacher):
    return F.kl_div(student.softmax(1), teacher.detach().softmax(1), reduction="batchmean")


def logits_for_logs(student, teacher):
    return F.kl_div(student / 3, (teacher.detach() / 3).softmax(1), reduction="batchmean")


def false_log_target(student, teacher, temperature=4.0):
    logs, wanted = softened(student, teacher, temperature)
    return F.kl_div(logs, wanted, reduction="batchmean", log_target=True)


def log_teacher(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.detach().log_softmax(1), reduction="batchmean")


def softmax_twice(student, teacher):
    return correct(student.softmax(1), teacher.softmax(1), 2.0)


def softened_twice(student, teacher, temperature=4.0):
    return correct((student / temperature).softmax(1), (teacher / temperature).softmax(1), 1.0)


def softmax_twice_of_the_student(student, teacher):
    return correct(student.softmax(1), teacher, 1.0)


def negative(student, teacher):
    return -correct(student, teacher)


def label_smoothed(student, teacher):
    """Not at its minimum at the teacher: pulls the logits towards 0 as well."""
    return correct(student, teacher) + student.square().sum(1).mean()


def root_of_distance(student, teacher):
    return ((student - teacher.detach()).square().sum(1)).sqrt().mean()


def detached_student(student, teacher):
    return correct(student.detach(), teacher)


FAULTS = [
    (mean_reduction, "'mean' reduction"),
    (sum_reduction, "'sum' reduction"),
    (no_reduction, r"'none' reduction: expected a scalar tensor but got shape \(24,\)"),
    (teacher_first, "swapped arguments: trains its second"),
    (reverse_kl, "swapped arguments: computes KL"),
    (no_tau_squared, "τ² missing"),
    (attached_teacher, "teacher not detached"),
    (log_of_softmax, "nan or inf for confident logits"),
    (probabilities_for_logs, "mixed up: .*got probabilities"),
    (logits_for_logs, "mixed up: .*got logits"),
    (false_log_target, "mixed up: log_target=True"),
    (log_teacher, "mixed up: nan or inf"),
    (softmax_twice, "mixed up: the softmax is taken twice"),
    (softened_twice, "mixed up: the softmax is taken twice on both"),
    (softmax_twice_of_the_student, "mixed up: the student's softmax is taken twice"),
    (negative, "not minimal at student = teacher"),
    (label_smoothed, "not minimal at student = teacher"),
    (root_of_distance, "nan or inf at student = teacher"),
    (detached_student, "no gradient reaches the student"),
]


@pytest.mark.parametrize("n_classes", [3, 10, 100])
@pytest.mark.parametrize("fn, match", FAULTS, ids=lambda item: getattr(item, "__name__", None))
def test_each_fault_fires_alone(fn, match, n_classes):
    check = check_loss(fn, n_classes)
    with pytest.raises(ValueError, match=match):  # the sentence, matched as an error would be
        raise ValueError("; ".join(check.problems))
    if fn is not root_of_distance:  # whose gradient is nan for equal confident logits too
        assert len(check.problems) == 1
    assert not check.ok


def soft_cross_entropy(student, teacher):
    return F.cross_entropy(student, teacher.detach().softmax(1))


def jensen_shannon(student, teacher):
    logs, wanted = student.log_softmax(1), teacher.detach().log_softmax(1)
    middle = torch.logaddexp(logs, wanted) - np.log(2)
    return sum(
        0.5 * F.kl_div(middle, side, reduction="batchmean", log_target=True)
        for side in (logs, wanted)
    )


def logit_distance(student, teacher):
    return F.mse_loss(student, teacher.detach())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n_classes", [3, 10, 100])
@pytest.mark.parametrize(
    "fn",
    [
        correct,
        soft_cross_entropy,
        jensen_shannon,
        logit_distance,
        *(losses.named(name).fn for name in ("kl", "dkd", "dist", "standardized_kl", "mse")),
        *(lambda s, t, tau=tau: correct(s, t, tau) for tau in (0.5, 7.0, 20.0)),
    ],
)
def test_a_correct_loss_has_no_fault(fn, n_classes, seed):
    assert check_loss(fn, n_classes, seed).problems == ()


def test_several_faults_are_all_named():
    def wrong(student, teacher, temperature=4.0):
        return F.kl_div((student / temperature).log_softmax(1), (teacher / temperature).softmax(1))

    problems = check_loss(wrong).problems
    assert [problem.split()[0] for problem in problems] == ["'mean'", "teacher", "τ²"]


def test_a_check_prints_as_one_line_and_is_read_back():
    check = check_loss(correct)
    assert check.ok
    assert str(check) == "correct (K = 10): no fault found"
    faulty = check_loss(negative)
    assert str(faulty).startswith("negative (K = 10): not minimal")
    assert "\n" not in str(faulty)
    assert LossCheck.model_validate_json(faulty.model_dump_json()) == faulty


def test_checking_works_without_gradients_and_leaves_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with torch.no_grad():
        problems = check_loss(attached_teacher).problems
    assert problems == ("teacher not detached: the gradient reaches it",)
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_cannot_be_called_is_refused_in_one_line():
    def broken(student, teacher):
        raise RuntimeError("size mismatch")

    with pytest.raises(InputError, match=r"'broken' .*\(24, 10\) but it raised RuntimeError: size"):
        check_loss(broken)
    with pytest.raises(InputError, match="at least 2 classes"):
        check_loss(correct, n_classes=1)
    with pytest.raises(InputError, match="function of"):
        check_loss(lambda student: student)
