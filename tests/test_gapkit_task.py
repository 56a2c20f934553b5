"""Classification: what outputs mean, how they are scored, and what is refused."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from gapkit.errors import InputError
from gapkit.task import Classification, Task

N, K = 60, 7
ORACLES = {
    "accuracy": lambda y, z: accuracy_score(y, z.argmax(1)),
    "balanced_accuracy": lambda y, z: balanced_accuracy_score(y, z.argmax(1)),
    "macro_f1": lambda y, z: f1_score(y, z.argmax(1), average="macro"),
    "top5": lambda y, z: top_k_accuracy_score(y, z, k=5, labels=range(K)),
}


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.arange(1.0, K + 1), N, replacement=True, generator=generator)
    labels[:K] = torch.arange(K)
    logits = torch.randn(N, K, generator=generator)
    logits[torch.arange(N), labels] += 1.0
    return logits, labels


def test_classification_is_a_task():
    assert isinstance(Classification(), Task)


@pytest.mark.parametrize("name", ORACLES)
def test_scores_are_sklearns(name, answers):
    logits, labels = answers
    expected = ORACLES[name](labels.numpy(), logits.numpy())
    assert 0.2 < expected < 0.95
    assert Classification(name).score(logits, labels) == pytest.approx(expected, abs=1e-12)
    assert Classification(name).score_name == name
    assert Classification(name).unit == "share"


@pytest.mark.parametrize("name", ORACLES)
def test_contributions_have_the_score_as_their_mean(name, answers):
    logits, labels = answers
    task = Classification(name)
    contributions = task.contributions(logits, labels)
    assert contributions.shape == (N,)
    assert contributions.mean() == pytest.approx(task.score(logits, labels), abs=1e-12)
    assert contributions.std() > 0.1


@pytest.mark.parametrize("name", ["accuracy", "top5"])
def test_contributions_of_shares_are_hits(name, answers):
    logits, labels = answers
    ranks = (-logits).argsort(1).argsort(1)[torch.arange(N), labels]
    hits = (ranks < (1 if name == "accuracy" else 5)).double().numpy()
    np.testing.assert_array_equal(Classification(name).contributions(logits, labels), hits)


def test_contributions_of_other_scores_are_jackknife_pseudo_values(answers):
    logits, labels = answers
    task = Classification("macro_f1")
    whole = task.score(logits, labels)
    values = np.empty(N)
    for i in range(N):
        kept = np.arange(N) != i
        without = f1_score(labels[kept], logits[kept].argmax(1), average="macro", zero_division=0)
        values[i] = N * whole - (N - 1) * without
    got = task.contributions(logits, labels)
    np.testing.assert_allclose(got, values - values.mean() + whole, atol=1e-9)


def test_pseudo_values_of_a_mean_are_its_terms():
    """The jackknife is exact for means: accuracy given as a function of one's own."""

    def accuracy(logits, labels):
        return (logits.argmax(1) == labels).double().mean().item()

    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 3
    task = Classification(accuracy)
    np.testing.assert_allclose(
        task.contributions(logits, labels),
        Classification().contributions(logits, labels),
        atol=1e-9,
    )
    assert task.score_name == "accuracy"
    assert task.unit == ""


def test_the_standard_error_of_many_grouped_pseudo_values_is_the_bootstraps():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 3
    logits = torch.randn(1000, 3, generator=generator)
    logits[torch.arange(1000), labels] += 1.0
    task = Classification("macro_f1")
    contributions = task.contributions(logits, labels)
    assert contributions.mean() == pytest.approx(task.score(logits, labels), abs=1e-12)
    assert len(set(contributions.round(9))) <= 200
    resampled = [
        task.score(logits[rows], labels[rows])
        for rows in torch.randint(1000, (300, 1000), generator=generator)
    ]
    assert contributions.std() / np.sqrt(1000) == pytest.approx(np.std(resampled), rel=0.2)


def test_loss_is_cross_entropy_also_in_half_precision(answers):
    logits, labels = answers
    expected = log_loss(labels.numpy(), logits.double().softmax(1).numpy(), labels=range(K))
    task = Classification()
    assert task.loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    assert task.loss(logits.half(), labels).dtype == torch.float32


def test_agreement_is_the_share_of_equal_answers(answers):
    logits, _ = answers
    others = logits.roll(1, 0)
    expected = (logits.argmax(1) == others.argmax(1)).numpy().astype(float)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(Classification().agreement(logits, others), expected)
    assert Classification().agreement(logits, 3 * logits + 1).min() == 1


@pytest.mark.parametrize(
    "name, expected",
    [
        ("accuracy", 4 / 13),
        ("balanced_accuracy", 1 / 7),
        ("macro_f1", 2 * (4 / 13) / (4 / 13 + 1) / 7),
        ("top5", (4 + 3 + 2 + 1 + 1) / 13),
    ],
)
def test_chance_is_the_best_constant_answer(name, expected):
    labels = torch.tensor([6, 6, 6, 6, 5, 5, 5, 4, 4, 0, 1, 2, 3])
    assert Classification(name).chance(labels) == pytest.approx(expected)


def test_chance_of_a_likelihood_is_minus_the_entropy_of_the_frequencies():
    labels = torch.tensor([0, 0, 0, 2])
    task = Classification(lambda logits, y: -float(torch.nn.functional.cross_entropy(logits, y)))
    assert task.chance(labels) == pytest.approx(0.75 * math.log(0.75) + 0.25 * math.log(0.25))


def test_chance_with_one_class_present_is_certainty():
    assert Classification().chance(torch.zeros(5, dtype=torch.long)) == 1


def test_logits_are_found_in_what_models_return():
    logits, loss = torch.ones(2, 3), torch.tensor(1.0)
    task = Classification()
    named = collections.UserDict(loss=loss, logits=logits)
    for raw in (logits, named, {"loss": loss, "logits": logits}, (logits, loss), [None, logits]):
        assert task.outputs(raw) is logits
    assert task.outputs({"scores": logits}) is logits
    with pytest.raises(InputError, match="holds logits but got str"):
        task.outputs("text")
    with pytest.raises(InputError, match="holds logits but got tuple"):
        task.outputs((1, 2))


@pytest.mark.parametrize(
    "outputs, targets, match",
    [
        (torch.ones(4), torch.zeros(4, dtype=torch.long), r"from the student but got \(4,\)"),
        (torch.ones(4, 3), None, "Expected targets for a classification task"),
        (
            torch.ones(4, 3),
            torch.zeros(4),
            "Expected integer labels of shape .* but got torch.float32",
        ),
        (torch.ones(4, 3), torch.zeros(4, 3, dtype=torch.long), r"int64 \(4, 3\)"),
        (
            torch.ones(4, 3),
            torch.tensor([0, 1, 2, 3]),
            "from 0 to 2, the student's 3 classes, .* 0 to 3",
        ),
        (torch.ones(4, 3), torch.tensor([-1, 1, 2, 2]), "from -1 to 2"),
    ],
)
def test_outputs_and_targets_that_do_not_fit_are_refused(outputs, targets, match):
    with pytest.raises(InputError, match=match):
        Classification().check(outputs, targets, "student")


def test_outputs_and_targets_that_fit_pass():
    assert Classification().check(torch.ones(4, 3), torch.tensor([0, 1, 2, 2]), "teacher") is None


def test_an_unknown_score_names_the_nearest():
    with pytest.raises(InputError, match="known score but got 'acuracy'; nearest: 'accuracy'"):
        Classification("acuracy")


def tokens():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, K, (N, 5), generator=generator)
    labels[torch.rand(N, 5, generator=generator) < 0.3] = -100
    logits = torch.randn(N, 5, K, generator=generator)
    logits[..., 0] += 0.5
    return logits, labels


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "top5"])
def test_tokens_are_scored_where_their_label_counts(name):
    logits, labels = tokens()
    counted = labels != -100
    expected = ORACLES[name](labels[counted].numpy(), logits[counted].numpy())
    assert 0.05 < expected < 0.95
    task = Classification(name)
    assert task.score(logits, labels) == pytest.approx(expected, abs=1e-12)
    contributions = task.contributions(logits, labels)
    assert contributions.shape == (N,)
    assert contributions.mean() == pytest.approx(expected, abs=1e-12)


def test_the_spread_of_token_contributions_is_the_bootstraps_over_samples():
    logits, labels = tokens()
    task, rng = Classification(), np.random.default_rng(0)
    draws = [torch.from_numpy(rng.integers(0, N, N)) for _ in range(1000)]
    expected = np.std([task.score(logits[rows], labels[rows]) for rows in draws])
    found = task.contributions(logits, labels).std(ddof=1) / np.sqrt(N)
    assert found == pytest.approx(expected, rel=0.15)


def test_the_loss_of_tokens_leaves_padding_out():
    logits, labels = tokens()
    counted = labels != -100
    expected = log_loss(labels[counted].numpy(), logits[counted].softmax(1).numpy())
    assert Classification().loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_agreement_of_tokens_is_a_share_of_those_that_count():
    one = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    two = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    labels = torch.tensor([[0, 1, -100]])
    assert Classification().agreement(one, two, labels).tolist() == [0.5]
    assert Classification().agreement(one, two).tolist() == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    "labels, message",
    [
        (torch.zeros(4, dtype=torch.long), r"\(samples, 5,\)"),
        (torch.full((4, 5), -100), "all of them"),
        (torch.full((4, 5), K), "labels from 0"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        Classification().check(torch.zeros(4, 5, K), labels, "student")


def test_tokens_none_of_which_counts_cost_nothing():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    labels = torch.full((2, 3), -100)
    loss = Classification().loss(logits, labels)
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().sum() == 0
    labels[0, 1] = 2
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert Classification().loss(logits, labels).item() == pytest.approx(expected.item())
