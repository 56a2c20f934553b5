"""Networks of the planted worlds: a CNN, an MLP and a small transformer by width, each with a blind form.

A blind form cannot express what the whole one can, at any width: 1×1 convolutions see no neighbors, an
additive network no interactions of features, a transformer without positions no order.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def cnn(width: int, n_outputs: int, blind: bool = False) -> nn.Module:
    """Three convolutions of width, 2·width and 2·width channels over 8×8 images; 1×1 ones when blind."""
    kernel, padding = (1, 0) if blind else (3, 1)

    def block(n_in: int, n_out: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(n_in, n_out, kernel, stride, padding)
        return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU())

    layers = {
        "block1": block(1, width, 1),
        "block2": block(width, 2 * width, 2),
        "block3": block(2 * width, 2 * width, 2),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(2 * width, n_outputs),
    }
    return nn.Sequential(OrderedDict(layers))


def mlp(width: int, n_inputs: int, n_outputs: int, blind: bool = False) -> nn.Module:
    """Two hidden layers with BatchNorm; when blind every feature has units of its own (an additive model)."""
    first = Own(n_inputs, width) if blind else nn.Linear(n_inputs, width)
    hidden = n_inputs * width if blind else width
    second = nn.Identity() if blind else nn.Linear(width, width)
    layers = {
        "first": nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU()),
        "second": second if blind else nn.Sequential(second, nn.BatchNorm1d(width), nn.ReLU()),
        "head": nn.Linear(hidden, n_outputs),
    }
    if n_outputs == 1:
        layers["flat"] = nn.Flatten(0)
    return nn.Sequential(OrderedDict(layers))


class Own(nn.Module):
    """`width` units for each feature, which see that feature alone: (n, d) -> (n, d·width)."""

    def __init__(self, n_inputs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_inputs, width))
        self.bias = nn.Parameter(torch.randn(n_inputs, width))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :, None] * self.weight + self.bias).flatten(1)


class Transformer(nn.Module):
    """Two encoder layers of that width over token sequences (n, T), mean over tokens, linear.

    Args:
        blind: without positions, so that the order of tokens is lost.
    """

    def __init__(
        self, width: int, vocabulary: int, length: int, n_outputs: int, blind: bool = False
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        place = torch.zeros(length, width) if blind else torch.randn(length, width)
        self.places = nn.Parameter(place, requires_grad=not blind)
        self.layer1 = Layer(width)
        self.layer2 = Layer(width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer2(self.layer1(self.tokens(x) + self.places))
        return self.head(hidden.mean(1))


class Layer(nn.Module):
    """Attention of one head and a perceptron, each on top of what comes in and normalized before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.mix(self.norm1(x)).chunk(3, -1)
        weights = (query @ key.transpose(1, 2) / key.shape[-1] ** 0.5).softmax(-1)
        x = x + self.out(weights @ value)
        return x + self.down(self.up(self.norm2(x)).relu())
