"""Shelf: finished trainings and their weights, under the run folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn

from gapkit.errors import InputError
from gapkit.family import Family
from gapkit.outcome import Training
from gapkit.runs import Run


class Shelf:
    """Keeps what was trained: a record and a weights file each, in a folder named by its key."""

    def __init__(self, run: Run, family: Family) -> None:
        self.run, self.family = run, family

    def folder(self, key: str) -> Path:
        """Where a training lies, finished or not."""
        return self.run.path("trainings", key)

    def find(self, key: str) -> Training | None:
        """The finished training of that key with its weights; None where either is missing."""
        training = self.record(key)
        return training if training is not None and self._weights(key).exists() else None

    def record(self, key: str) -> Training | None:
        """What is recorded of the training of that key, whether its weights are there or not."""
        return self.run.load(f"trainings/{key}/training", Training)

    def put(self, training: Training) -> None:
        """Record a training whose weights were written."""
        self.run.save(f"trainings/{training.key}/training", training)

    def write_weights(self, model: nn.Module, key: str) -> str:
        """Write the weights whole or not at all; returns their hash."""
        from safetensors.torch import save_model

        half = self._weights(key).with_name(".weights.safetensors")
        save_model(model, str(half))
        digest = hashlib.sha256(half.read_bytes()).hexdigest()
        half.replace(self._weights(key))
        return digest

    def model(self, training: Training) -> nn.Module:
        """The trained model, on CPU, in eval mode; its file is checked against the recorded hash."""
        from safetensors.torch import load_model

        path = self._weights(training.key)
        if (
            not path.exists()
            or hashlib.sha256(path.read_bytes()).hexdigest() != training.weights_sha256
        ):
            raise InputError(
                f"Expected the weights of {training} in {path} but the file is missing or "
                f"changed; delete {path.parent} to train it again"
            )
        model = self.family.fresh(training.path[-1], training.seed)
        load_model(model, str(path))
        return model.eval()

    def _weights(self, key: str) -> Path:
        return self.folder(key) / "weights.safetensors"
