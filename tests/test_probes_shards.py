"""Shards: any split of the data over batches, files and processes gives the same sums."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gapkit.errors import InputError
from gapkit.probes.layer_map import cka_map, from_moments, layer_sums
from gapkit.probes.moments import Moments
from gapkit.probes.sums import BatchHsic

KINDS = pytest.mark.parametrize("kind", [Moments, BatchHsic])
FIELDS = ("cross", "own_x", "own_y", "biased_cross", "biased_own_x", "biased_own_y")


def features(n: int = 60, seed: int = 0) -> tuple[dict, dict]:
    """Two teacher layers and one student layer that share a signal, far from zero."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n, 3))
    xs = {
        name: torch.tensor(signal @ rng.normal(size=(3, d)) + 20)
        for name, d in (("a", 4), ("b", 2))
    }
    return xs, {"c": torch.tensor(signal @ rng.normal(size=(3, 3)) + rng.normal(size=(n, 3)))}


def empty(kind, groups: bool = False):
    return kind({"a": 4, "b": 2}, {"c": 3}, groups)


def add(sums, xs, ys, rows, groups=None):
    sums.update(
        {name: part[rows] for name, part in xs.items()},
        {name: part[rows] for name, part in ys.items()},
        None if groups is None else groups[rows],
    )
    return sums


def same(one, two, rtol: float = 1e-9):
    for field in FIELDS:
        left, right = (getattr(sums.products(), field) for sums in (one, two))
        np.testing.assert_allclose(left, right, rtol=rtol)


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=8),
    owner=st.lists(st.integers(0, 2), min_size=9, max_size=9),
)
def test_any_split_into_batches_and_parts_gives_the_same_exact_sums(cuts, owner):
    """Empty batches, batches of one sample, and parts without any sample included."""
    xs, ys = features()
    whole = add(empty(Moments), xs, ys, slice(0, 60))
    edges = [0, *sorted(cuts), 60]
    parts = [empty(Moments) for _ in range(3)]
    for start, end, part in zip(edges, edges[1:], owner):
        add(parts[part], xs, ys, slice(start, end))
    merged = empty(Moments)
    for part in parts:
        merged.merge(part)
    assert merged.n == 60
    assert abs(whole.products().cross).min() > 1
    same(merged, whole)


@KINDS
def test_a_saved_part_goes_on_and_merges(kind, tmp_path):
    xs, ys = features()
    groups = np.arange(60) // 3
    whole = empty(kind, True)
    for rows in (slice(0, 25), slice(25, 40), slice(40, 60)):
        add(whole, xs, ys, rows, groups)
    first = add(empty(kind, True), xs, ys, slice(0, 25), groups)
    first.save(tmp_path / "first.safetensors")
    first = add(kind.load(tmp_path / "first.safetensors"), xs, ys, slice(25, 40), groups)
    first.merge(add(empty(kind, True), xs, ys, slice(40, 60), groups))
    same(first, whole)
    assert (first.n, first.n_batches, first.eps) == (whole.n, whole.n_batches, whole.eps)
    assert first.blocks.places == whole.blocks.places
    np.testing.assert_allclose(first.blocks.standard_error(), whole.blocks.standard_error())


def test_sums_of_another_kind_or_other_layers_are_refused(tmp_path):
    empty(Moments).save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"Expected a file of BatchHsic but .* holds Moments"):
        BatchHsic.load(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="same layers and widths"):
        empty(Moments).merge(empty(BatchHsic))
    with pytest.raises(InputError, match="same layers and widths"):
        empty(Moments).merge(empty(Moments, True))


def test_merging_with_itself_counts_everything_twice():
    xs, ys = features()
    sums = add(empty(Moments), xs, ys, slice(0, 60))
    sums.merge(sums)
    twice = add(add(empty(Moments), xs, ys, slice(0, 60)), xs, ys, slice(0, 60))
    same(sums, twice)
    assert len(sums.blocks) == len(twice.blocks) > 4


@pytest.mark.parametrize("reduce", ["gap", "flatten"])
def test_layer_sums_of_two_parts_make_the_map_of_all_batches(reduce, monkeypatch):
    if reduce == "flatten":
        monkeypatch.setattr("gapkit.probes.sums.BYTE_BUDGET", 100)
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, w, 3), nn.ReLU(True), nn.Conv2d(w, 4, 3)) for w in (8, 5)]
    batches = torch.randn(200, 3, 8, 8).split(50)
    whole = cka_map(*nets, batches, reduce=reduce)
    sums, more = (layer_sums(*nets, part, reduce=reduce) for part in (batches[:1], batches[1:]))
    assert isinstance(sums, Moments if reduce == "gap" else BatchHsic)
    sums.merge(more)
    np.testing.assert_allclose(from_moments(sums, reduce=reduce).values, whole.values, rtol=1e-10)
    assert whole.values.min() > 0.05


PROCESS = """
import sys
import torch.distributed as dist
from gapkit.errors import InputError
from gapkit.probes.moments import Moments
from gapkit.probes.sums import BatchHsic
from tests.test_probes_shards import add, empty, features
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
xs, ys = features()
for kind in (Moments, BatchHsic):
    sums = empty(kind)
    for rows in ((slice(0, 25), slice(25, 30)), (slice(30, 60),))[rank]:
        add(sums, xs, ys, rows)
    sums.all_reduce()
    sums.save(f"{folder}/{kind.__name__}.{rank}")
lone = empty(Moments)
if rank:
    add(lone, xs, ys, slice(0, 60))
lone.all_reduce()
lone.save(f"{folder}/lone.{rank}")
try:
    Moments({"a": 4 + rank}, {"b": 2}).all_reduce()
except InputError as error:
    assert "processes differ" in str(error)
else:
    raise SystemExit("different layers were added up")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_sums_of_one(tmp_path):
    runs = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    xs, ys = features()
    for kind in (Moments, BatchHsic):
        alone = empty(kind)
        for rows in (slice(0, 25), slice(25, 30), slice(30, 60)):
            add(alone, xs, ys, rows)
        for rank in range(2):
            together = kind.load(tmp_path / f"{kind.__name__}.{rank}")
            same(together, alone, rtol=1e-10)
            assert (together.n, together.n_batches) == (60, 3)
            error = together.blocks.standard_error()
            np.testing.assert_allclose(error, alone.blocks.standard_error(), rtol=1e-10)
    lone = Moments.load(tmp_path / "lone.0")
    same(lone, add(empty(Moments), xs, ys, slice(0, 60)), rtol=1e-10)
