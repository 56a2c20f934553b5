"""MultiLabel: what outputs mean, how they are scored, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, log_loss

from gapkit.errors import InputError
from gapkit.task import Task, pseudo_values
from gapkit.tasks.multilabel import MultiLabel

N, K = 80, 5
ORACLES = {
    "mean_average_precision": lambda y, z: np.mean(
        [average_precision_score(y[:, k], z[:, k]) for k in range(K)]
    ),
    "micro_f1": lambda y, z: f1_score(y, z > 0, average="micro"),
    "macro_f1": lambda y, z: f1_score(y, z > 0, average="macro"),
    "exact_match": lambda y, z: np.mean([(row == (own > 0)).all() for row, own in zip(y, z)]),
}


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(N, K, generator=generator) < torch.linspace(0.1, 0.6, K)).long()
    logits = torch.randn(N, K, generator=generator) + 3.0 * targets - 1.5
    return logits, targets


def test_it_is_a_task():
    assert isinstance(MultiLabel(), Task)


@pytest.mark.parametrize("name", ORACLES)
def test_scores_are_sklearns(name, answers):
    logits, targets = answers
    expected = ORACLES[name](targets.numpy(), logits.numpy())
    assert 0.1 < expected < 0.98
    task = MultiLabel(name)
    assert task.score(logits, targets) == pytest.approx(expected, abs=1e-12)
    assert task.contributions(logits, targets).mean() == pytest.approx(expected, abs=1e-12)


def test_the_loss_is_the_log_loss_of_every_label(answers):
    logits, targets = answers
    expected = log_loss(targets.flatten().numpy(), torch.sigmoid(logits).flatten().numpy())
    assert MultiLabel().loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)


def test_labels_that_never_occur_are_left_out_of_the_mean(answers):
    logits, targets = answers
    without = targets.clone()
    without[:, 0] = 0
    expected = np.mean(
        [average_precision_score(targets[:, k].numpy(), logits[:, k].numpy()) for k in range(1, K)]
    )
    assert MultiLabel().score(logits, without) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(InputError, match="label that occurs"):
        MultiLabel().score(logits, torch.zeros_like(targets))


def test_chance_of_average_precision_is_how_often_labels_occur(answers):
    _, targets = answers
    assert MultiLabel().chance(targets) == pytest.approx(targets.double().mean().item())


def test_agreement_is_the_share_of_labels_answered_alike():
    one, two = torch.tensor([[1.0, -1.0, 2.0, -3.0]]), torch.tensor([[1.0, 1.0, -2.0, -3.0]])
    assert MultiLabel().agreement(one, two).tolist() == [0.5]
    assert MultiLabel().agreement(one, one).tolist() == [1.0]


@pytest.mark.parametrize(
    "outputs, targets, message",
    [
        (torch.zeros(4), torch.zeros(4, 2), "logits of shape"),
        (torch.zeros(4, 2), None, "the data gives none"),
        (torch.zeros(4, 2), torch.zeros(4, 3), r"\(samples, 2\)"),
        (torch.zeros(4, 2), torch.full((4, 2), 0.5), "0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(outputs, targets, message):
    with pytest.raises(InputError, match=message):
        MultiLabel().check(outputs, targets, "student")


def test_an_unknown_score_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="micro_f1"):
        MultiLabel("micro_f")


@pytest.mark.parametrize("n, n_labels, ties", [(40, 3, False), (350, 6, False), (90, 4, True)])
def test_average_precision_without_each_group_is_that_of_the_others(n, n_labels, ties):
    draw = torch.Generator().manual_seed(n)
    logits = torch.randn(n, n_labels, generator=draw)
    logits = logits.round() if ties else logits
    targets = (torch.rand(n, n_labels, generator=draw) < 0.3).long()
    targets[:, 0] = 0
    targets[3, 0] = 1  # occurs in one group alone: without it the label does not count
    task = MultiLabel()
    slow = pseudo_values(task.score, logits, targets)
    assert np.allclose(task.contributions(logits, targets), slow, atol=1e-10)
    assert slow.std() > 0.1
