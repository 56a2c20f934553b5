"""FLOPs of one forward pass against formulas written by hand: a table, every difference should be 0.

Per batch, two per multiply-add; elementwise work counts nothing. Run it alone: `python benchmarks/flops.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gapkit.family import count_flops

N = 3  # samples of every batch
COLUMNS = ("model", "counted", "by hand", "difference")


class Row(NamedTuple):
    """A model, its FLOPs as counted and as the formula says."""

    model: str
    counted: int
    by_hand: int


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


class Cnn(nn.Sequential):
    """Two convolutions, one with a stride, one grouped; BatchNorm, pooling and a head."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 5, groups=4), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip


class Tagger(nn.Module):
    """Embedding, LSTM and a head for every token."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(100, 12), nn.LSTM(12, 20, batch_first=True, **options)
        self.head = nn.Linear(20 * (2 if self.lstm.bidirectional else 1), 7)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.words(tokens))[0])


def convolution(out: tuple[int, ...], n_in: int, n_out: int, kernel: int, groups: int = 1) -> int:
    """Of N samples: each output cell holds n_out values, each a sum over kernel cells of its group's inputs."""
    cells = 1
    for side in out:
        cells *= side
    return 2 * N * cells * n_out * (n_in // groups) * kernel


def attention(queries: int, keys: int, width: int) -> int:
    """Of N samples, any number of heads: projections in and out, scores, and their weighted sum."""
    projections = 2 * N * width * width * (2 * queries + 2 * keys)
    return projections + 2 * 2 * N * queries * keys * width


def feed_forward(tokens: int, width: int, hidden: int) -> int:
    """Of N samples: up and down."""
    return 2 * 2 * N * tokens * width * hidden


def recurrent(steps: int, d: int, h: int, gates: int, layers: int = 1, directions: int = 1) -> int:
    """Of N samples: each gate multiplies the input and the state, in every layer, direction and step."""
    widths = [d, *[directions * h] * (layers - 1)]
    return sum(2 * N * steps * directions * gates * h * (width + h) for width in widths)


Case = tuple[nn.Module, Any, int]  # model, view, FLOPs by hand


def image_cases() -> dict[str, Case]:
    """Convolutions by name."""
    image = torch.randn(N, 3, 17, 17)
    head = 2 * N * 32 * 10
    return {
        "CNN: stride 2, 4 groups, BatchNorm, head": (
            Cnn(), image,
            convolution((9, 9), 3, 16, 9) + convolution((5, 5), 16, 32, 25, 4) + head,
        ),
        "depthwise convolution": (
            nn.Conv2d(3, 3, 3, padding=1, groups=3), image, convolution((17, 17), 3, 3, 9, 3)
        ),
        "transposed convolution, stride 2": (
            nn.ConvTranspose2d(3, 4, 3, stride=2), image, 2 * N * 17 * 17 * 3 * 4 * 9
        ),
    }  # fmt: skip


def token_cases() -> dict[str, Case]:
    """Attention by name."""
    tokens, heads = torch.randn(N, 9, 8), torch.randn(N, 2, 9, 4)
    mask = torch.arange(9).expand(N, 9) > 5
    layer = nn.TransformerEncoderLayer(8, 2, 24, batch_first=True)
    of_layer = attention(9, 9, 8) + feed_forward(9, 8, 24)
    return {
        "encoder of 2 layers": (nn.TransformerEncoder(layer, 2), tokens, 2 * of_layer),
        "encoder of 2 layers, padding masked": (
            nn.TransformerEncoder(layer, 2), {"src": tokens, "src_key_padding_mask": mask},
            2 * of_layer,
        ),
        "decoder layer, memory of 6 tokens": (
            nn.TransformerDecoderLayer(8, 2, 24, batch_first=True), (tokens, tokens[:, :6]),
            of_layer + attention(9, 6, 8),
        ),
        "scaled dot-product attention": (
            Call(F.scaled_dot_product_attention), (heads, heads, heads), 2 * 2 * N * 2 * 9 * 9 * 4
        ),
        "einsum": (
            Call(lambda a, b: torch.einsum("nij,nkj->nik", a, b)), (tokens, tokens),
            2 * N * 9 * 9 * 8,
        ),
        "matrix times vector": (Call(lambda a: a[0] @ a[0, 0]), tokens, 2 * 9 * 8),
    }  # fmt: skip


def step_cases() -> dict[str, Case]:
    """Recurrent layers by name."""
    words, steps = torch.zeros(N, 11, dtype=torch.long), torch.randn(N, 11, 12)
    return {
        "LSTM tagger": (Tagger(), words, recurrent(11, 12, 20, 4) + 2 * N * 11 * 20 * 7),
        "LSTM tagger, 2 layers, bidirectional": (
            Tagger(num_layers=2, bidirectional=True), words,
            recurrent(11, 12, 20, 4, 2, 2) + 2 * N * 11 * 40 * 7,
        ),
        "GRU, 2 layers": (nn.GRU(12, 20, 2, batch_first=True), steps, recurrent(11, 12, 20, 3, 2)),
        "bidirectional RNN": (
            nn.RNN(12, 20, batch_first=True, bidirectional=True), steps,
            recurrent(11, 12, 20, 1, 1, 2),
        ),
        "embedding": (nn.Embedding(100, 12), words, 0),
    }  # fmt: skip


def rows() -> list[Row]:
    """Every case counted."""
    cases = image_cases() | token_cases() | step_cases()
    return [
        Row(name, count_flops(model, view), by_hand)
        for name, (model, view, by_hand) in cases.items()
    ]


def table(found: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|--:|--:|--:|"]
    for row in found:
        lines.append(
            f"| {row.model} | {row.counted:,} | {row.by_hand:,} | {row.counted - row.by_hand:,} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(rows()))
