"""Embedding: vectors are scored by the geometry they keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from gapkit.errors import InputError
from gapkit.task import Task
from gapkit.tasks import embedding
from gapkit.tasks.embedding import Embedding

N = 40
SCORES = ("ranking", "neighbors", "cosine", "recall_at_1")


def vectors(d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, d, generator=torch.Generator().manual_seed(seed))


def test_it_is_a_task():
    assert isinstance(Embedding(), Task)


def test_ranking_is_spearmans_of_each_samples_cosines():
    x, y = vectors(), vectors() + 0.7 * vectors(seed=1)
    cosines = [(z / z.norm(dim=1, keepdim=True)).numpy() for z in (x.double(), y.double())]
    expected = []
    for i in range(N):
        others = np.arange(N) != i
        expected.append(spearmanr(*(z[others] @ z[i] for z in cosines)).statistic)
    assert 0.2 < np.mean(expected) < 0.95
    np.testing.assert_allclose(Embedding().contributions(x, y), expected, atol=1e-10)


def test_neighbors_are_sklearns():
    x, y = vectors(), vectors() + 0.7 * vectors(seed=1)
    near = [
        NearestNeighbors(n_neighbors=11, metric="cosine").fit(z).kneighbors(z)[1][:, 1:]
        for z in (x.numpy(), y.numpy())
    ]
    expected = [len(set(one) & set(two)) / 10 for one, two in zip(*near)]
    assert 0.3 < np.mean(expected) < 0.95
    np.testing.assert_allclose(Embedding("neighbors").contributions(x, y), expected, atol=1e-10)


def test_recall_at_1_is_a_nearest_neighbor_classifier_left_one_out():
    x, labels = vectors(2), torch.arange(N) % 3
    x[torch.arange(N), labels % 2] += 2.0
    expected = []
    for i in range(N):
        rest = np.arange(N) != i
        model = KNeighborsClassifier(1, metric="cosine").fit(x[rest].numpy(), labels[rest].numpy())
        expected.append(float(model.predict(x[i : i + 1].numpy())[0] == labels[i]))
    assert 0.2 < np.mean(expected) < 0.95
    assert Embedding("recall_at_1").contributions(x, labels).tolist() == expected


@pytest.mark.parametrize("score", ["ranking", "neighbors"])
def test_rotation_scale_and_width_do_not_matter(score):
    x = vectors()
    turn = torch.linalg.qr(vectors(6, seed=2)[:6])[0]
    wide = torch.cat([3 * x @ turn, torch.zeros(N, 4)], 1)
    assert Embedding(score).score(wide, x) == pytest.approx(1.0)


@pytest.mark.parametrize("score", ["ranking", "neighbors"])
def test_unrelated_vectors_score_chance(score):
    found = [
        Embedding(score).score(vectors(seed=2 * i), vectors(seed=2 * i + 1)) for i in range(30)
    ]
    chance = Embedding(score).chance(vectors())
    assert np.mean(found) == pytest.approx(chance, abs=4 * np.std(found) / np.sqrt(30))


def test_more_samples_than_references_are_compared_with_those_only(monkeypatch):
    monkeypatch.setattr(embedding, "REFERENCES", 12)
    monkeypatch.setattr(embedding, "CHUNK", 7)
    x = vectors()
    assert Embedding().score(x, x) == pytest.approx(1.0)
    values = Embedding().contributions(x, vectors(seed=1))
    assert values.shape == (N,)
    assert values.std() > 0.05


@pytest.mark.parametrize("score", SCORES)
def test_contributions_have_the_score_as_their_mean(score):
    x = vectors()
    targets = torch.arange(N) % 4 if score == "recall_at_1" else vectors(seed=1)
    task = Embedding(score)
    parts = task.contributions(x, targets)
    assert parts.shape == (N,)
    assert parts.mean() == pytest.approx(task.score(x, targets))


def test_chance_of_recall_is_two_samples_alike():
    labels = torch.tensor([0, 0, 0, 1])
    assert Embedding("recall_at_1").chance(labels) == pytest.approx(6 / 12)


def test_the_loss_is_one_minus_cosine():
    x = vectors()
    assert Embedding().loss(x, 2 * x).item() == pytest.approx(0.0, abs=1e-6)
    assert Embedding().loss(x, -x).item() == pytest.approx(2.0, abs=1e-6)
    with pytest.raises(InputError, match="target vectors of shape"):
        Embedding().loss(x, vectors(7))


@pytest.mark.parametrize(
    "score, outputs, targets, message",
    [
        ("ranking", torch.zeros(4, 2, 3), None, "pool tokens"),
        ("ranking", torch.zeros(4, 2), torch.zeros(4).long(), "recall_at_1"),
        ("recall_at_1", torch.zeros(4, 2), None, "labels for recall_at_1"),
        ("recall_at_1", torch.zeros(4, 2), torch.zeros(4, 2), "integer labels"),
        ("cosine", torch.zeros(4, 2), torch.zeros(4, 3), "width 2"),
    ],
)
def test_what_does_not_fit_is_refused(score, outputs, targets, message):
    with pytest.raises(InputError, match=message):
        Embedding(score).check(outputs, targets, "student")
