"""All-pairs CKA of two 10-convolution networks: time against the bare forward passes, and error; with peers.

Networks: ten 3×3 convolutions of 16, 16, 32, 32, 64, 64, 128, 128, 256, 256 channels, each with
BatchNorm and ReLU, the map halved at every second one from the third on; random weights; 2,048 random
images 3×32×32 in batches of 128 through one DataLoader. CPU time of one thread; tools take turns, and
the figures are medians over rounds, relative to the forward passes of the same round. Errors are the
largest over 100 layer pairs against debiased CKA of all samples in float64, by plain Gram matrices.

Run it alone: `python benchmarks/similarity.py --rounds 7`. Peers: the extra `peers`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gapkit.probes.layer_map import cka_map

CHANNELS = (16, 16, 32, 32, 64, 64, 128, 128, 256, 256)
LAYERS = [f"conv{place}" for place in range(len(CHANNELS))]
N_SAMPLES, BATCH = 2048, 128
OURS = ("gapkit, pooled", "gapkit, flattened")

Tool = Callable[[nn.Module, nn.Module, DataLoader], np.ndarray]


@dataclass(frozen=True)
class Row:
    """One tool: its time relative to the forward passes, its largest error, and what it computes."""

    tool: str
    version: str
    time: float
    error: float
    what: str


def network(seed: int) -> nn.Sequential:
    """The benchmark's network with seeded random weights."""
    torch.manual_seed(seed)
    net, before = nn.Sequential(), 3
    for place, channels in enumerate(CHANNELS):
        stride = 2 if place >= 2 and place % 2 == 0 else 1
        net.add_module(LAYERS[place], nn.Conv2d(before, channels, 3, stride, 1, bias=False))
        net.add_module(f"norm{place}", nn.BatchNorm2d(channels))
        net.add_module(f"relu{place}", nn.ReLU())
        before = channels
    net.add_module(
        "end", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
    )
    return net.eval()


class Flattened(nn.Module):
    """The network with a tap beside each convolution that shows (1, n, d), all that ckatorch reads."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net
        self.taps = nn.ModuleDict({layer: nn.Identity() for layer in LAYERS})
        for layer in LAYERS:
            net.get_submodule(layer).register_forward_hook(self._show(layer))

    def _show(self, layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            self.taps[layer](output.flatten(1)[None])

        return hook

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def forward_only(teacher: nn.Module, student: nn.Module, loader: DataLoader) -> np.ndarray:
    """What every tool must do at least: both models on every batch."""
    with torch.no_grad():
        for x, _ in loader:
            teacher(x)
            student(x)
    return np.full((len(LAYERS), len(LAYERS)), np.nan)


def gapkit_pooled(teacher: nn.Module, student: nn.Module, loader: DataLoader) -> np.ndarray:
    return cka_map(teacher, student, loader, LAYERS, LAYERS).values


def gapkit_flattened(teacher: nn.Module, student: nn.Module, loader: DataLoader) -> np.ndarray:
    return cka_map(teacher, student, loader, LAYERS, LAYERS, reduce="flatten").values


def pytorch_cka(teacher: nn.Module, student: nn.Module, loader: DataLoader) -> np.ndarray:
    compute = import_module("cka").compute_cka
    return compute(teacher, student, loader, layers=LAYERS, device="cpu", progress=False)[0].numpy()


def cka_pytorch(teacher: nn.Module, student: nn.Module, loader: DataLoader) -> np.ndarray:
    make = import_module("cka_pytorch").CKACalculator
    return (
        make(teacher, student, LAYERS, LAYERS, verbose=False)
        .calculate_cka_matrix(loader, 1)
        .numpy()
    )


def torch_cka(teacher: nn.Module, student: nn.Module, loader: DataLoader) -> np.ndarray:
    tool = import_module("torch_cka").CKA(teacher, student, "t", "s", LAYERS, LAYERS)
    tool.compare(loader)
    return tool.export()["CKA"].detach().numpy()


def ckatorch(teacher: nn.Module, student: nn.Module, loader: DataLoader) -> np.ndarray:
    taps = [f"taps.{layer}" for layer in LAYERS]
    only_inputs = DataLoader(TensorDataset(loader.dataset.tensors[0]), batch_size=BATCH)
    tool = import_module("ckatorch").CKA(
        Flattened(teacher), Flattened(student), taps, taps, "t", "s"
    )
    return tool(only_inputs, epochs=1).numpy()


TOOLS: dict[str, tuple[Tool, str, str]] = {
    OURS[0]: (gapkit_pooled, "gapkit", "mean over space; exact sums over all samples"),
    OURS[1]: (gapkit_flattened, "gapkit", "flattened maps; HSIC1 summed over batches"),
    "pytorch-cka": (pytorch_cka, "pytorch-cka", "flattened maps; HSIC1 summed over batches"),
    "cka-pytorch": (cka_pytorch, "cka-pytorch", "flattened maps; HSIC1 summed over batches"),
    "torch-cka": (torch_cka, "torch-cka", "flattened maps; HSIC1 summed over batches"),
    "ckatorch": (ckatorch, "ckatorch", "flattened maps; the last batch alone"),
}


def exact(teacher: nn.Module, student: nn.Module, loader: DataLoader, pooled: bool) -> np.ndarray:
    """Debiased CKA of all samples in float64: U-centered Gram matrices, multiplied."""
    kept: dict[str, list[Tensor]] = {}

    def show(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            part = output.double().mean((2, 3)) if pooled else output.flatten(1)
            kept.setdefault(layer, []).append(part)

        return hook

    grams = []
    for net in (teacher, student):
        for layer in LAYERS:
            net.get_submodule(layer).register_forward_hook(show(layer))
        forward_only(net, nn.Identity(), loader)
        for layer in LAYERS:
            x = torch.cat(kept.pop(layer)).double().numpy()
            grams.append(u_centered((x - x.mean(0)) @ (x - x.mean(0)).T))
    count = len(LAYERS)
    products = np.array([[np.vdot(k, l_) for l_ in grams] for k in grams])
    own = np.sqrt(products.diagonal())
    return products[:count, count:] / np.outer(own[:count], own[count:])


def u_centered(gram: np.ndarray) -> np.ndarray:
    """Zero diagonal, rows that sum to 0 (Székely & Rizzo 2014)."""
    n = len(gram)
    np.fill_diagonal(gram, 0)
    rows = gram.sum(1) / (n - 2)
    gram = gram - rows[:, None] - rows + gram.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(gram, 0)
    return gram


def seconds(tool: Tool, loader: DataLoader) -> tuple[float, np.ndarray]:
    """CPU seconds of a tool on fresh networks (some peers leave hooks), and its values."""
    teacher, student = network(0), network(1)
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        start = time.process_time()
        values = tool(teacher, student, loader)
        return time.process_time() - start, values


def rows(rounds: int = 7) -> list[Row]:
    """All tools that can be imported, measured in turn."""
    torch.set_num_threads(1)
    inputs = torch.randn(N_SAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    loader = DataLoader(TensorDataset(inputs, torch.zeros(N_SAMPLES)), batch_size=BATCH)
    truth = {pooled: exact(network(0), network(1), loader, pooled) for pooled in (True, False)}
    ratios: dict[str, list[float]] = {name: [] for name in TOOLS}
    values: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    for _ in range(rounds):
        base = seconds(forward_only, loader)[0]
        for name, (tool, _, _) in TOOLS.items():
            if name in missing:
                continue
            try:
                spent, values[name] = seconds(tool, loader)
            except ImportError as error:
                missing[name] = f"not run: {error}"
            else:
                ratios[name].append(spent / base)
    found = []
    for name, (_, package, what) in TOOLS.items():
        if name in missing:
            found.append(Row(name, "", np.nan, np.nan, missing[name]))
            continue
        error = float(np.abs(values[name] - truth[name == OURS[0]]).max())
        version = metadata.version(package)
        found.append(Row(name, version, float(np.median(ratios[name])), error, what))
    return found


def lines(found: list[Row]) -> list[str]:
    """A Markdown table, and the figures that have a bar."""
    out = [
        "| tool | version | time ÷ forward | largest error | computes |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        out.append(
            f"| {row.tool} | {row.version} | {row.time:.2f} | {row.error:.1e} | {row.what} |"
        )
    by_name = {row.tool: row for row in found}
    pooled, flattened, peer = (by_name[name] for name in (*OURS, "pytorch-cka"))
    out += [
        "",
        f"- pooled: {pooled.time / peer.time:.2f} × pytorch-cka's time (bar 0.8), "
        f"{pooled.time:.2f} × the forward passes (bar 1.5), error {pooled.error:.1e} (bar 1e-6)",
        f"- flattened: {flattened.time / peer.time:.2f} × pytorch-cka's time (bar 1.0), "
        f"{flattened.error / peer.error:.2f} × its error (bar 1.05)",
    ]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    print("\n".join(lines(rows(parser.parse_args().rounds))))


if __name__ == "__main__":
    main()
