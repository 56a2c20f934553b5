"""Scored: a training that has ended, as a record: what it took and what its model scores."""

from __future__ import annotations

import math

from gapkit.family import Size
from gapkit.outcome import Training
from gapkit.training.answers import predict
from gapkit.training.job import Curve, Job
from gapkit.training.prices import training_flops
from gapkit.training.sources import Sources


def scored(job: Job, curve: Curve, key: str, path: tuple[Size, ...], sources: Sources) -> Training:
    """Keep the weights of the model, or of the best peer of its size, and what it scores."""
    task, data, device = sources.task, sources.data, sources.device
    validation, train = sources.reference("validation"), sources.reference("train")
    models = (job.model, *job.peers)
    scores = [task.score(predict(m, data, "validation", task, device), validation) for m in models]
    alike = [0] + [i for i, size in enumerate(job.stage.peers, 1) if size == job.stage.size]
    model = models[max(alike, key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])]
    held = predict(model, data, "validation", task, device)
    seen = predict(model, data, "train", task, device, positions=sources.sample)
    flops = training_flops(data, model, job.sources, job.recipe.epochs, job.kept)
    flops += sum(training_flops(data, peer, (), job.recipe.epochs) for peer in job.peers)
    model.to("cpu")
    return Training(
        key=key,
        path=path,
        recipe="",
        seed=job.seed,
        epochs=job.recipe.epochs,
        steps=curve.steps,
        seconds=curve.seconds,
        flops=flops,
        curve_epoch=curve.epochs,
        curve_loss=curve.losses,
        curve_score=curve.scores,
        score=task.score(held, validation),
        train_score=task.score(seen, train),
        agreement=sources.agreement("validation", held),
        train_agreement=sources.agreement("train", seen),
        contributions=task.contributions(held, validation),
        peer_scores=tuple(scores) if job.peers else (),
        weights_sha256=sources.shelf.write_weights(model, key),
    )
