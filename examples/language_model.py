"""A language model of bytes: a transformer of four layers teaches one of a single layer.

The text is on every machine with Python: the sources of its standard library, with their docstrings and
comments. Each file belongs to one split. A sample is a window of a file, a label the byte that follows;
the first bytes of a window are context only. The student learns from labels or from the largest of the
teacher's 256 logits, from fresh weights or from what it inherits of the teacher: its embedding and first
layer. Scores are bits per byte, negated so that higher is better.

    python examples/language_model.py          a table over seeds, about six minutes
    gapkit run examples/language_model.py      the whole study of the student taught by KL
"""

from __future__ import annotations

import io
import math
import sysconfig
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.family import Size
from gapkit.knowledge import knowledge_named
from gapkit.probes.interval import mean_interval
from gapkit.quality.comparison import compare
from gapkit.task import IGNORED, by_sample
from gapkit.training.answers import predict

torch.set_num_threads(1)  # a model this small gains little from more

WINDOW, CONTEXT = 64, 16  # bytes that a model sees; those whose successors are not scored
LONGEST = 4096  # bytes of a file, so that no file outweighs the others
N_VALIDATION, N_TEST = 12, 20  # files
TEACHER, STUDENT = 4, 1  # layers
TOP, FEWER = 64, 16  # logits of the teacher's answers that are kept
WIDTH, N_HEADS, REACH = 64, 4, 4
CLASSES = ("letter", "digit", "space", "newline", "punctuation", "other")


class Block(nn.Module):
    """Attention to earlier bytes and a perceptron, each added to what comes in."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ByteTransformer(nn.Module):
    """Bytes (n, t) -> logits (n, t, 256) of the byte after each.

    A convolution shows each byte the three before it, which spares the blocks most of the time that they
    would need to find neighbors. Outputs share the embedding's weights.
    """

    def __init__(self, n_layers: int, width: int = WIDTH, n_heads: int = N_HEADS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.position = nn.Parameter(torch.empty(WINDOW, width))
        self.near = nn.Conv1d(width, width, REACH)
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        for weight in (self.embedding.weight, self.position):
            nn.init.normal_(weight, std=width**-0.5)  # logits of about 1

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        near = self.near(F.pad(x.mT, (REACH - 1, 0))).mT
        x = x + near + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def build(n_layers: int) -> nn.Module:
    """A fresh transformer of that many layers."""
    return ByteTransformer(n_layers)


def negated_bits_per_byte(logits: Tensor, labels: Tensor) -> float:
    """Minus the cross-entropy in bits of logits (m, K) to labels (m,); -8 for 256 equal logits."""
    return -F.cross_entropy(logits.float(), labels).item() / math.log(2)


class NextByte(gk.Classification):
    """The byte after each byte, scored by bits per byte, negated.

    The score is a mean over bytes. Saying what each window contributes, instead of leaving it to the
    jackknife of any other score function, keeps what belongs to a file together in intervals.
    """

    def __init__(self) -> None:
        super().__init__(negated_bits_per_byte)
        self.unit, self.additive = "bits", True

    def contributions(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """(n,) minus the mean bits of each window's bytes, windows with fewer of them linearized."""
        units = self.units(outputs, targets)
        assert units.targets is not None
        nats = F.cross_entropy(units.outputs.float(), units.targets, reduction="none")
        return by_sample(-nats.double().cpu().numpy() / math.log(2), units.owner, len(outputs))


def sources() -> dict[str, str]:
    """Name -> text of the standard library's top modules, ASCII ones long enough for a few windows."""
    found = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.isascii() and len(text) > 8 * WINDOW and not path.stem.startswith("_sysconfigdata"):
            found[path.stem] = text
    return found


def prose(text: str) -> np.ndarray:
    """(len(text),) whether each character belongs to a comment or a string in triple quotes."""
    starts = np.cumsum([0, *map(len, io.StringIO(text))])  # lines as tokenize counts them
    marked = np.zeros(len(text), dtype=bool)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        quoted = token.type == tokenize.STRING and token.string.endswith(('"""', "'''"))
        if token.type == tokenize.COMMENT or quoted:
            (row, column), (last, end) = token.start, token.end
            marked[starts[row - 1] + column : starts[last - 1] + end] = True
    return marked


def byte_classes() -> np.ndarray:
    """(256,) index into CLASSES of every byte."""
    found = np.full(256, CLASSES.index("other"))
    for byte in range(128):
        char = chr(byte)
        if char.isalpha() or char.isdigit() or char in " \n":
            names = {" ": "space", "\n": "newline"}
            name = names.get(char, "letter" if char.isalpha() else "digit")
            found[byte] = CLASSES.index(name)
        elif char.isprintable():
            found[byte] = CLASSES.index("punctuation")
    return found


def windows(values: Tensor) -> Tensor:
    """(n, WINDOW + 1) of a file's values (length,), overlapping so that each is scored at most once."""
    return values.unfold(0, WINDOW + 1, WINDOW - CONTEXT)


def next_bytes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels (n, WINDOW) of windows: label t is byte t + 1, and none within the context."""
    labels = rows[:, 1:].clone()
    labels[:, :CONTEXT] = IGNORED
    return rows[:, :-1].clone(), labels


class Text(NamedTuple):
    """The windows of a split, and the file and the share of comments and docstrings of each."""

    ids: Tensor
    labels: Tensor
    file: np.ndarray
    prose: np.ndarray


def read(files: Mapping[str, str]) -> Text:
    """The windows of all files, one file after the other."""
    rows, names, shares = [], [], []
    for name, text in files.items():
        own = windows(torch.tensor(list(text[:LONGEST].encode())))
        said = windows(torch.from_numpy(prose(text)[:LONGEST]))[:, 1 + CONTEXT :]
        rows.append(own)
        shares.append(said.double().mean(1).numpy())
        names += [name] * len(own)
    return Text(*next_bytes(torch.cat(rows)), np.array(names), np.concatenate(shares))


def texts(n_files: int | None = None, seed: int = 0) -> dict[str, Text]:
    """Train, validation and test windows; no file, and so no byte, is in two of them."""
    found, least = sources(), N_VALIDATION + N_TEST + 1
    order = np.random.default_rng(seed).permutation(sorted(found))[:n_files]
    if len(order) < least:
        raise gk.InputError(f"Expected {least} files or more but got {len(order)}")
    parts = np.split(order, [-N_VALIDATION - N_TEST, -N_TEST])
    names = ("train", "validation", "test")
    return {split: read({str(n): found[n] for n in part}) for split, part in zip(names, parts)}


def library(splits: Mapping[str, Text]) -> gk.Data:
    """Data of windows, those of a file together, sliced by what they say and how rare their bytes are."""
    counts = np.bincount(splits["train"].ids.flatten().numpy(), minlength=256) + 1
    surprisal = torch.tensor(-np.log2(counts / counts.sum()))
    kinds = torch.from_numpy(byte_classes())
    letter = CLASSES.index("letter")

    def rarity(text: Text) -> np.ndarray:
        return surprisal[text.labels[:, CONTEXT:]].mean(1).numpy()

    thirds = np.quantile(rarity(splits["train"]), [1 / 3, 2 / 3])

    def mostly(text: Text) -> np.ndarray:
        shares = F.one_hot(kinds[text.labels[:, CONTEXT:]], len(CLASSES)).double().mean(1)
        half = (shares[:, letter] >= 0.5).numpy()
        shares[:, letter] = 0
        return np.where(half, "letter", np.array(CLASSES)[shares.argmax(1).numpy()])

    def says(text: Text) -> np.ndarray:
        return np.select([text.prose > 0.9, text.prose < 0.1], ["prose", "code"], "both")

    columns = {
        "text": says,
        "mostly": mostly,
        "bytes": lambda text: np.array(["common", "middling", "rare"])[
            np.searchsorted(thirds, rarity(text))
        ],
    }
    return gk.Data(
        **{split: TensorDataset(text.ids, text.labels) for split, text in splits.items()},
        groups={split: text.file for split, text in splits.items()},
        slices={
            name: {split: column(text) for split, text in splits.items()}
            for name, column in columns.items()
        },
    )


def study(seed: int = 0, epochs: int = 2, n_files: int | None = None) -> gk.Study:
    """Four layers, one layer; other seeds give other splits and teachers."""
    return gk.Study(
        name="language_model",
        task=NextByte(),
        data=library(texts(n_files, seed)),
        family=gk.Family(build, sizes=[STUDENT, 2, TEACHER], student=STUDENT, teacher=TEACHER),
        recipe=gk.Recipe(
            epochs=epochs, batch_size=16, lr=4e-3, grad_clip=1.0, knowledge="kl1", top_k=TOP
        ),
        seed=seed,
    )


def stages(size: Size = STUDENT) -> list[gk.Stage]:
    """A student by labels, or by KL at temperature 1 with a tenth of labels; fresh, or inheriting layers."""
    ways: list[tuple[str, str, Literal["fresh", "inherit"], dict[str, Any]]] = [
        ("labels", "scratch", "fresh", {}),
        ("labels inherited", "scratch", "inherit", {}),
        ("KL", "kl1", "fresh", {}),
        ("KL inherited", "kl1", "inherit", {}),
        ("KL to fewer logits", "kl1", "fresh", {"top_k": FEWER}),
    ]
    return [
        gk.Stage(
            name=name,
            size=size,
            sources=() if name == "labels" else ("teacher",),
            init=init,
            recipe=recipe,
            phases=(gk.Phase(knowledge=knowledge_named(knowledge)),),
        )
        for name, knowledge, init, recipe in ways
    ]


def bits(model: nn.Module, opened: gk.Study) -> np.ndarray:
    """(n, tokens) bits of every byte of test under a model; nan where no label counts."""
    targets = opened.data.targets("test")
    assert targets is not None
    logits = predict(model, opened.data, "test", opened.task)
    nats = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double()
    return torch.where(targets == IGNORED, math.nan, nats / math.log(2)).numpy()


def compare_students(opened: gk.Study, seeds: Iterable[int] = range(2)) -> dict[str, np.ndarray]:
    """Name -> (seeds, n, tokens) bits of every byte of test: the one teacher, and students of every way."""
    trainings = opened.trainings
    found = {"teacher": bits(opened.teacher, opened)[None]}
    for stage in stages(opened.family.student):
        trained = (trainings.stage(stage, seed, stage.sources) for seed in seeds)
        found[stage.name] = np.stack([bits(trainings.model(it), opened) for it in trained])
    return found


def by_window(found: np.ndarray) -> np.ndarray:
    """(seeds, n) what each window contributes to the mean over bytes, from (seeds, n, tokens) bits."""
    owner = np.nonzero(~np.isnan(found[0]))[0]
    return np.stack([by_sample(row[~np.isnan(row)], owner, len(row)) for row in found])


def table(found: Mapping[str, np.ndarray], groups: np.ndarray | None = None) -> str:
    """Bits per byte with 95 % intervals over files, each seed's, and what is gained on labels alone."""
    lines = [
        f"{'bits per byte on test':22}{'mean over files':>22}{'by seed':>18}{'below labels by':>26}"
    ]
    labels = by_window(found["labels"])
    for name, each in found.items():
        own = by_window(each)
        mean = mean_interval(own.mean(0), groups=groups)
        seeds = ", ".join(f"{value:.3f}" for value in own.mean(1))
        words = f"{name:22}{f'{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]':>22}{seeds:>18}"
        if name not in ("teacher", "labels"):
            gain = compare(name, "labels", -own, -labels, "bits", groups).points
            words += f"{f'{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]':>26}"
        lines.append(words)
    return "\n".join(lines)


def class_table(found: Mapping[str, np.ndarray], labels: Tensor) -> str:
    """Mean bits of the bytes of each class, and how many there are; labels (n, tokens)."""
    kinds = np.where(labels == IGNORED, -1, byte_classes()[labels.clamp(min=0)])
    there = [kind for kind in range(len(CLASSES)) if (kinds == kind).any()]
    lines = [f"{'':22}" + "".join(f"{CLASSES[kind]:>13}" for kind in there)]
    lines.append(f"{'bytes':22}" + "".join(f"{(kinds == kind).sum():>13,}" for kind in there))
    for name, each in found.items():
        means = (each[:, kinds == kind].mean() for kind in there)
        lines.append(f"{name:22}" + "".join(f"{mean:>13.3f}" for mean in means))
    return "\n".join(lines)


if __name__ == "__main__":
    opened = study()
    found = compare_students(opened)
    print(table(found, opened.data.groups("test")))
    print(class_table(found, opened.data.targets("test")))
