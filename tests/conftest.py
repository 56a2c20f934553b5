"""One thread everywhere: sums of floats, and so weights, depend on how many threads share them."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import torch

torch.set_num_threads(1)
