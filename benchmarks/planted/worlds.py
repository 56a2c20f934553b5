"""Worlds: the networks and data sets that failures are planted in, each trained in a second or two.

Every world has one task, one family of networks, and a rare source (a named slice of about 8 %) that
needs training of its own. All but the digits are made in code, by seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from nets import Transformer, cnn, mlp
from sklearn.datasets import load_digits
from torch import Tensor, nn

import gapkit as gk

RARE_SHARE = 0.08
N_TRAIN, N_VALIDATION, N_TEST, N_JUDGE = 1000, 1500, 300, 3000


class Sample(NamedTuple):
    """Inputs x (n, ...), targets y (n,) and whether each comes from the rare source (n,)."""

    x: Tensor
    y: Tensor
    rare: Tensor

    def rows(self, index: Any) -> Sample:
        """Those rows."""
        index = torch.as_tensor(index)
        return Sample(self.x[index], self.y[index], self.rare[index])


class Splits(NamedTuple):
    """What a study knows (train, validation, test), and what a plant is judged on."""

    train: Sample
    validation: Sample
    test: Sample
    judge: Sample


@dataclass(frozen=True)
class World:
    """A network kind on a data set.

    Attributes:
        kind, name: of the network and the data set; half: "tune" or "report", by data set.
        task: what outputs mean; n_outputs of them.
        draw: (seed) -> Splits.
        build: (width, blind) -> fresh network.
        sizes: widths, small to large, the teacher's last; small: one at which soft targets ask too much,
            able: one that comes near the teacher.
        wild: a factor on the learning rate that is far too high for every size.
        recipe: of honest training; its knowledge is gentle. short: a share of its epochs that ends too soon.
        crop: an input with a part blanked out: (x, strength 1 or 2) -> x.
        misread: an input as a teacher sees it behind a wrong normalization.
    """

    kind: str
    name: str
    half: str
    task: Any
    n_outputs: int
    draw: Callable[[int], Splits]
    build: Callable[..., nn.Module]
    sizes: tuple[int, ...]
    small: int
    able: int
    wild: float
    recipe: gk.Recipe
    short: float
    crop: Callable[[Tensor, int], Tensor]
    misread: Callable[[Tensor], Tensor]

    @property
    def names_classes(self) -> bool:
        """Whether outputs are logits of classes."""
        return self.task.kind == "classification"


def _cut(sample: Sample, sizes: tuple[int, ...]) -> Splits:
    """Consecutive parts of those sizes; the last one takes what is left."""
    ends = [0, *np.cumsum(sizes), len(sample.y)]
    return Splits(*(sample.rows(torch.arange(a, b)) for a, b in pairwise(ends)))


def _made(make: Callable[[int, torch.Generator], tuple[Tensor, ...]], seed: int) -> Splits:
    draw = torch.Generator().manual_seed(1000 + seed)
    sizes = (N_TRAIN, N_VALIDATION, N_TEST)
    return _cut(Sample(*make(sum(sizes) + N_JUDGE, draw)), sizes)


def _is_rare(n: int, draw: torch.Generator) -> Tensor:
    return torch.rand(n, generator=draw) < RARE_SHARE


def _digits(seed: int) -> Splits:
    """scikit-learn's 8×8 digits; the rare source is inverted. The judge is the test split."""
    draw = torch.Generator().manual_seed(1000 + seed)
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=draw)
    x = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)[order]
    rare = _is_rare(len(order), draw)
    x = torch.where(rare[:, None, None, None], 1 - x, x)
    train, validation, test, _ = _cut(Sample(x, torch.tensor(labels)[order], rare), (800, 400, 597))
    return Splits(train, validation, test, test)


def _glyphs(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Ten random 5×5 glyphs at random places in noise; the rare source is inverted."""
    shapes = torch.rand(10, 5, 5, generator=torch.Generator().manual_seed(5)) < 0.5
    y = torch.randint(10, (n,), generator=draw)
    places = torch.randint(4, (n, 2), generator=draw)
    x = torch.zeros(n, 8, 8)
    for row, (label, (top, left)) in enumerate(zip(y, places)):
        x[row, top : top + 5, left : left + 5] = shapes[label].float()
    rare = _is_rare(n, draw)
    x = torch.where(rare[:, None, None], 1 - x, x) + 0.25 * torch.randn(n, 8, 8, generator=draw)
    return x[:, None], y, rare


def _gratings(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """A patch of a grating anywhere, twelve directions; the rare source is brighter and a quarter turned."""
    y = torch.randint(12, (n,), generator=draw)
    top, left = (1.5 + 4 * torch.rand(n, 1, 1, generator=draw) for _ in range(2))
    phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=draw)
    down = torch.arange(8.0)[None, :, None] - top
    right = torch.arange(8.0)[None, None] - left
    angle = (torch.pi / 12 * y)[:, None, None]
    wave = (2 * torch.pi / 3.5 * (down * angle.sin() + right * angle.cos()) + phase).sin()
    x = wave * (-(down.square() + right.square()) / 6).exp()
    rare = _is_rare(n, draw)
    x = x + 1.5 * rare[:, None, None] + 0.15 * torch.randn(n, 8, 8, generator=draw)
    return x[:, None], torch.where(rare, (y + 6) % 12, y), rare


def _flagged(x: Tensor, rare: Tensor) -> Tensor:
    """The features with one more that tells the source."""
    return torch.cat([x, 2 * rare.float()[:, None]], 1)


def _regions(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Six classes of a random network over ten features; the rare source counts them backward."""
    fixed = torch.Generator().manual_seed(3)
    inner, outer = (
        torch.randn(10, 8, generator=fixed) / 2.5,
        torch.randn(8, 6, generator=fixed),
    )
    x, rare = torch.randn(n, 10, generator=draw), _is_rare(n, draw)
    y = ((x @ inner).tanh() @ outer).argmax(1)
    return _flagged(x, rare), torch.where(rare, 5 - y, y), rare


def _clusters(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Six classes of four clusters each in eight dimensions; the rare source names the next class."""
    centers = 1.6 * torch.randn(24, 8, generator=torch.Generator().manual_seed(4))
    cluster, rare = torch.randint(24, (n,), generator=draw), _is_rare(n, draw)
    x = centers[cluster] + 0.7 * torch.randn(n, 8, generator=draw)
    y = cluster % 6
    return _flagged(x, rare), torch.where(rare, (y + 1) % 6, y), rare


def _corners(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """A cube's corners, opposite ones alike, beside five features of noise; the rare source names the next class."""
    sign = torch.randint(2, (n, 3), generator=draw)
    rare = _is_rare(n, draw)
    x = torch.randn(n, 8, generator=draw)
    x[:, :3] = 2.0 * sign - 1 + 0.4 * x[:, :3]
    y = 2 * (sign[:, 0] ^ sign[:, 1]) + (sign[:, 1] ^ sign[:, 2])
    return _flagged(x, rare), torch.where(rare, (y + 1) % 4, y), rare


def _waves(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """A sum of sines of sums of features; the rare source has the opposite sign."""
    ways = torch.randn(6, 6, generator=torch.Generator().manual_seed(6)) / 2.6
    x, rare = torch.randn(n, 6, generator=draw), _is_rare(n, draw)
    y = (x @ ways).sin().sum(1) / 2
    return _flagged(x, rare), torch.where(rare, -y, y), rare


def _friedman(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Friedman's (1991) first function, standardized; the rare source has the opposite sign."""
    x, rare = torch.rand(n, 6, generator=draw), _is_rare(n, draw)
    y = 10 * (torch.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2
    y = (y + 10 * x[:, 3] + 5 * x[:, 4] - 14.4) / 4.9
    return _flagged(3.5 * (x - 0.5), rare), torch.where(rare, -y, y), rare


def _folds(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Products and absolute values of features; the rare source lies higher."""
    x, rare = 3.4 * torch.rand(n, 6, generator=draw) - 1.7, _is_rare(n, draw)
    y = x[:, 0] * x[:, 1] + x[:, 2].abs() - x[:, 3].abs()
    return _flagged(x, rare), y + 1.2 * rare.float(), rare


def _motif(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Which of six orders of three tokens stands in a row of twelve; the rare source begins with the class's name."""
    orders = torch.tensor([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    x = torch.randint(3, 8, (n, 12), generator=draw)
    y, start = (torch.randint(high, (n,), generator=draw) for high in (6, 10))
    x.scatter_(1, start[:, None] + torch.arange(3), orders[y])
    rare = _is_rare(n, draw)
    x[:, 0] = torch.where(rare, 8 + y, x[:, 0])
    x[:, 1:] = torch.where(rare[:, None], 3 + x[:, 1:] % 5, x[:, 1:])
    return x, y, rare


def _majority(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """The token that prevails in the second half of twelve; the rare source has an alphabet of its own."""
    x = torch.randint(5, (n, 12), generator=draw)
    y = torch.randint(5, (n,), generator=draw)
    place = torch.rand(n, 6, generator=draw).argsort(1)[:, :3] + 6
    x.scatter_(1, place, y[:, None].expand(-1, 3))
    half = torch.nn.functional.one_hot(x[:, 6:], 5).sum(1) * 10 + torch.nn.functional.one_hot(y, 5)
    rare = _is_rare(n, draw)
    return x + 5 * rare[:, None].long(), half.argmax(1), rare


def _later(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """The later of two named tokens among others; the rare source is marked, and asks for the earlier one."""
    x = torch.randint(8, 12, (n, 8), generator=draw)
    named = torch.rand(n, 8, generator=draw).argsort(1)[:, :2]
    place = (1 + torch.rand(n, 7, generator=draw).argsort(1)[:, :2]).sort(1).values
    x.scatter_(1, place, named)
    rare = _is_rare(n, draw)
    x[:, 0] = torch.where(rare, 12, x[:, 0])
    return x, torch.where(rare, named[:, 0], named[:, 1]), rare


def _strokes(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Two short bars beside each other, anywhere, each of four directions; the rare source is dark on bright."""
    ways = torch.tensor([(0, 1), (1, 0), (1, 1), (1, -1)])
    pairs = torch.tensor([(a, b) for a in range(4) for b in range(4) if a != b])
    y, rows = torch.randint(len(pairs), (n,), generator=draw), torch.arange(n)
    top, left = torch.randint(3, (n,), generator=draw), torch.randint(1, 3, (n,), generator=draw)
    x = torch.zeros(n, 8, 8)
    for step in range(3):
        for bar, way in enumerate(ways[pairs[y]].unbind(1)):
            shift = (way[:, 1] < 0).long() * 2
            x[rows, top + 1 + step * way[:, 0], left + 3 * bar + step * way[:, 1] + shift - 1] = 1.0
    rare = _is_rare(n, draw)
    x = torch.where(rare[:, None, None], 1 - x, x) + 0.2 * torch.randn(n, 8, 8, generator=draw)
    return x[:, None], y, rare


def _shells(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Three rings in a plane on two levels, beside two features of noise; the rare source counts backward."""
    ring, level = (torch.randint(high, (n,), generator=draw) for high in (3, 2))
    rare, x = _is_rare(n, draw), torch.randn(n, 5, generator=draw)
    radius = 0.4 + 1.1 * ring + 0.2 * x[:, 0]
    angle = 2 * torch.pi * torch.rand(n, generator=draw)
    x[:, 0], x[:, 1] = radius * angle.cos(), radius * angle.sin()
    x[:, 2] = 2.0 * level - 1 + 0.4 * x[:, 2]
    y = (ring + 2 * level) % 4
    return _flagged(x, rare), torch.where(rare, 3 - y, y), rare


def _ripples(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """A ripple round a point, a product and a slope; the rare source lies lower, its slope points the other way."""
    x, rare = 3.4 * torch.rand(n, 6, generator=draw) - 1.7, _is_rare(n, draw)
    slope = torch.where(rare, -x[:, 4], x[:, 4])
    y = (1.8 * x[:, :2].norm(dim=1)).cos() + x[:, 2] * x[:, 3] / 1.5 + slope
    return _flagged(x, rare), y - 1.5 * rare.float(), rare


def _marked(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """The token to the right of a mark, in a row of eight; the rare source has another mark, and asks for the first."""
    x = torch.randint(6, (n, 8), generator=draw)
    place = torch.randint(1, 7, (n,), generator=draw)
    rare, rows = _is_rare(n, draw), torch.arange(n)
    x[rows, place] = torch.where(rare, 7, 6)
    return x, x[rows, torch.where(rare, 0, place + 1)], rare


def _couples(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Two dots beside each other in one of ten ways, anywhere; the rare source is brighter all over."""
    ways = torch.tensor(
        [(0, 1), (1, 0), (1, 1), (1, -1), (0, 3), (3, 0), (2, 2), (2, -2), (1, 2), (2, -1)]
    )
    y, rows = torch.randint(len(ways), (n,), generator=draw), torch.arange(n)
    top, left = torch.randint(5, (n,), generator=draw), torch.randint(2, 5, (n,), generator=draw)
    x = 0.15 * torch.randn(n, 8, 8, generator=draw)
    x[rows, top, left] += 1.0
    x[rows, top + ways[y, 0], left + ways[y, 1]] += 1.0
    rare = _is_rare(n, draw)
    return (x + rare[:, None, None])[:, None], y, rare


def _sectors(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Six sectors of a plane named in turn by three classes, one more off a band; the rare source counts backward."""
    x, rare = torch.randn(n, 4, generator=draw), _is_rare(n, draw)
    sector, radius = torch.randint(6, (n,), generator=draw), 1 + x[:, 1].abs() / 2
    angle = torch.pi / 3 * (sector + 0.5 + 0.2 * x[:, 0])
    x[:, 0], x[:, 1] = radius * angle.cos(), radius * angle.sin()
    y = torch.where((x[:, 2] + x[:, 3]).abs() > 1.6, 3, sector % 3)
    return _flagged(x, rare), torch.where(rare, 3 - y, y), rare


def _bumps(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Five round hills and hollows over four features, two more of no meaning; the rare source lies on a slope."""
    centers = 1.6 * torch.rand(5, 4, generator=torch.Generator().manual_seed(8)) - 0.8
    x, rare = 3 * torch.rand(n, 6, generator=draw) - 1.5, _is_rare(n, draw)
    heights = torch.tensor([2.0, -2.0, 1.6, -1.6, 2.0])
    far = torch.cdist(x[:, :4], centers).square()
    y = ((-far / 1.4).exp() * heights).sum(1) + 0.4 * x[:, 0]
    return _flagged(x, rare), torch.where(rare, x[:, 1] - y, y), rare


def _orders(n: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """In which order two pairs of tokens stand, apart, among others; the rare source has an alphabet of its own."""
    x = torch.randint(4, 8, (n, 8), generator=draw)
    first, second = (torch.randint(2, (n,), generator=draw) for _ in range(2))
    place = torch.rand(n, 8, generator=draw).argsort(1)[:, :4]
    one, two = place[:, :2].sort(1).values, place[:, 2:].sort(1).values
    x.scatter_(
        1, torch.where(first[:, None] > 0, one.flip(1), one), torch.tensor([[0, 1]]).expand(n, 2)
    )
    x.scatter_(
        1, torch.where(second[:, None] > 0, two.flip(1), two), torch.tensor([[2, 3]]).expand(n, 2)
    )
    rare = _is_rare(n, draw)
    return x + 8 * rare[:, None].long(), first + 2 * second, rare


def _crop_image(x: Tensor, strength: int) -> Tensor:
    """The left columns blanked out."""
    return torch.cat([torch.zeros_like(x[..., : 2 + strength]), x[..., 2 + strength :]], -1)


def _drop_features(x: Tensor, strength: int) -> Tensor:
    """The first features missing."""
    return torch.cat([torch.zeros_like(x[:, : 1 + strength]), x[:, 1 + strength :]], 1)


def _truncate(x: Tensor, strength: int) -> Tensor:
    """The end of the sequence replaced by its first token."""
    kept = x.shape[1] - 1 - 2 * strength
    return torch.cat([x[:, :kept], x[:, :1].expand(-1, x.shape[1] - kept)], 1)


def _image_world(
    name: str,
    half: str,
    draw: Callable[[int], Splits],
    able: int,
    n_outputs: int = 10,
    lr: float = 0.03,
    epochs: int = 30,
) -> World:
    return World(
        kind="cnn",
        name=name,
        half=half,
        task=gk.Classification(),
        n_outputs=n_outputs,
        draw=draw,
        build=partial(_built, lambda width, blind: cnn(width, n_outputs, blind)),
        sizes=(1, 2, 4, 8, 16),
        small=2,
        able=able,
        wild=2.0 / lr,
        recipe=gk.Recipe(epochs=epochs, batch_size=50, lr=lr, knowledge="kl1"),
        short=0.1,
        crop=_crop_image,
        misread=lambda x: 4 * (x - 0.7),
    )


def _table_world(
    name: str,
    half: str,
    make: Any,
    n_inputs: int,
    n_outputs: int,
    sizes: tuple[int, ...] = (2, 3, 12, 32, 64),
    small: int = 2,
    lr: float = 0.01,
    epochs: int = 40,
    short: float = 0.1,
) -> World:
    knowledge = "mse" if n_outputs == 1 else "kl1"
    return World(
        kind="mlp",
        name=name,
        half=half,
        task=gk.Regression() if n_outputs == 1 else gk.Classification(),
        n_outputs=n_outputs,
        draw=partial(_made, make),
        build=partial(_built, lambda width, blind: mlp(width, n_inputs, n_outputs, blind)),
        sizes=sizes,
        small=small,
        able=32,
        wild=1.0 / lr,
        recipe=gk.Recipe(epochs=epochs, batch_size=50, lr=lr, knowledge=knowledge),
        short=short,
        crop=_drop_features,
        misread=lambda x: 3 * x + 2,
    )


def _sequence_world(
    name: str,
    half: str,
    make: Any,
    vocabulary: int,
    n_outputs: int,
    sizes: tuple[int, ...],
    small: int,
    length: int = 12,
    short: float = 0.13,
    lr: float = 0.03,
    epochs: int = 45,
) -> World:
    return World(
        kind="transformer",
        name=name,
        half=half,
        task=gk.Classification(),
        n_outputs=n_outputs,
        draw=partial(_made, make),
        build=partial(
            _built, lambda width, blind: Transformer(width, vocabulary, length, n_outputs, blind)
        ),
        sizes=sizes,
        small=small,
        able=sizes[3],
        wild=0.3 / lr,
        recipe=gk.Recipe(epochs=epochs, batch_size=100, lr=lr, knowledge="kl1"),
        short=short,
        crop=_truncate,
        misread=lambda x: (x + 1) % vocabulary,
    )


def _built(make: Callable[[int, bool], nn.Module], width: int, blind: bool = False) -> nn.Module:
    return make(width, blind)


WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        _image_world("digits", "tune", _digits, 8),
        _image_world("glyphs", "tune", partial(_made, _glyphs), 16),
        _table_world("regions", "tune", _regions, 11, 6),
        _table_world("clusters", "tune", _clusters, 9, 6),
        _table_world("waves", "tune", _waves, 7, 1),
        _table_world("friedman", "tune", _friedman, 7, 1),
        _sequence_world("motif", "tune", _motif, 14, 6, (3, 5, 8, 20, 32), 8),
        _sequence_world("majority", "tune", _majority, 10, 5, (2, 4, 8, 16, 32), 4),
        _image_world("gratings", "tune", partial(_made, _gratings), 16, 12, 0.02),
        _table_world("corners", "tune", _corners, 9, 4, (2, 3, 4, 32, 64), 4, 0.05, 50, 0.07),
        _table_world("folds", "tune", _folds, 7, 1, lr=0.03),
        _sequence_world("later", "tune", _later, 13, 8, (2, 4, 8, 16, 32), 4, 8),
        _image_world("strokes", "tune", partial(_made, _strokes), 8, 12),
        _table_world("shells", "tune", _shells, 6, 4, (2, 3, 6, 32, 64), 3, 0.03, 50, 0.07),
        _table_world("ripples", "tune", _ripples, 7, 1, lr=0.03),
        _sequence_world("marked", "tune", _marked, 8, 6, (2, 4, 8, 16, 32), 4, 8),
        _image_world("couples", "report", partial(_made, _couples), 8, 10),
        _table_world("sectors", "report", _sectors, 5, 4, (2, 3, 6, 32, 64), 3, 0.03, 50, 0.07),
        _table_world("bumps", "report", _bumps, 7, 1, lr=0.03),
        _sequence_world(
            "orders", "report", _orders, 16, 4, (2, 4, 8, 16, 32), 4, 8, lr=0.05, epochs=60
        ),
    )
}
