"""One thread everywhere (sums of floats, and so weights, depend on how many share them), and which trainings ran."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def sizes_trained(monkeypatch):
    """Fills with the size of every training that really runs."""
    from gapkit.distiller import Loop

    sizes, run = [], Loop.run

    def counted(loop, tick=None):
        sizes.append(loop.job.stage.size)
        return run(loop, tick)

    monkeypatch.setattr(Loop, "run", counted)
    return sizes
