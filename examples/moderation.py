"""Moderation of short texts on a device: a multilingual transformer teaches one that fits a phone.

Languages are slices, and one of them is rare where the student is taught: its average may look fine while
it loses that language. The student learns from the teacher's answers; the table adds hints at the layer
that matters most, at all layers, and texts of the rare language repeated or collected.

Texts come from a CSV file with the columns text, label and language that the variable MODERATION_CSV names;
else from Debian's fortunes, ordinary sections against offensive ones (apt-get install fortunes-es
fortunes-es-off fortunes-it fortunes-it-off); else they are made up. What is used is said on standard error
and in the study's name. No text is ever printed or kept: models, reports and errors see numbers only.

    python examples/moderation.py          students by language, over seeds, in about two minutes
    gapkit run examples/moderation.py      measure, diagnose, plan, distill and report
"""

from __future__ import annotations

import codecs
import csv
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.knowledge import knowledge_named
from gapkit.probes.interval import mean_interval
from gapkit.training.answers import predict

torch.set_num_threads(1)  # networks this small lose more by sharing work than they gain

VARIABLE = "MODERATION_CSV"
COLUMNS = ("text", "label", "language")
LANGUAGE = re.compile(r"[A-Za-z]{1,3}(-[A-Za-z0-9]{1,8})*")
FORTUNES = Path("/usr/share/games/fortunes")
SECTIONS = {  # (language, whether offensive) -> files
    ("es", 0): "es/*.fortunes",
    ("it", 0): "it/*",
    ("es", 1): "off/es/off/*.fortunes",
    ("it", 1): "off/it/*-o",
}
UNCLEAR = ("italia", "luke", "zuse")  # jokes whose offensive section differs by little but taste
ROT13 = ("es", 1)  # enciphered sections
RARE = "es"  # of which each split of the student's holds only a share of its texts
KEPT = {"train": 0.025, "validation": 0.25, "test": 0.25}
HELD, VALIDATION = 0.47, 0.57  # share not trained on; share of that to decide on
LEAST = 8  # texts of a label in a language
N_WORDS, N_PIECES, N_BUCKETS = 32, 5, 8192  # words of a text; pieces of a word; rows of their table
TEACHER, STUDENT = 48, 16  # widths

Row = tuple[str, int, str]  # text, label, language


class Texts(NamedTuple):
    """Numbers made of n texts: ids (n, N_WORDS, N_PIECES), labels (n,), languages (n,); and their source."""

    ids: Tensor
    labels: np.ndarray
    languages: np.ndarray
    source: str

    def rows(self, rows: np.ndarray) -> Texts:
        """Some of them."""
        return Texts(self.ids[rows], self.labels[rows], self.languages[rows], self.source)


def pieces(text: str) -> tuple[tuple[int, ...], ...]:
    """For each word its pieces' rows of the table: the word, how it begins, how it ends; 0 is padding."""
    return tuple(
        tuple(
            1 + zlib.crc32(piece.encode()) % (N_BUCKETS - 1)
            for piece in (word, f"{word[:3]}_", f"{word[:5]}_", f"_{word[-3:]}", f"_{word[-5:]}")
        )
        for word in re.findall(r"\w+", text.lower())[:N_WORDS]
    )


def encoded(rows: Iterable[Row], source: str) -> Texts:
    """Each text once, those without a word left out."""
    found: dict[tuple, int] = {}
    for text, label, language in rows:
        if own := pieces(text):
            found.setdefault((language, own), label)
    ids = torch.zeros(len(found), N_WORDS, N_PIECES, dtype=torch.long)
    for row, (_, own) in zip(ids, found, strict=True):
        row[: len(own)] = torch.tensor(own)
    labels, languages = np.array([*found.values()]), np.array([language for language, _ in found])
    return Texts(ids, labels, languages, source)


def from_csv(path: Path) -> Iterator[Row]:
    """Labels become 0, 1, ... in order of their names; errors name a line and nothing that stands in it."""
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows = [(table.line_num, [row.get(name) or "" for name in COLUMNS]) for row in table]
    for line, row in rows:
        if not all(row) or not LANGUAGE.fullmatch(row[2]):
            raise gk.InputError(
                f"Expected text, label and a language such as en or pt-BR in {path} but line {line} "
                "lacks one or has another form"
            )
    names = sorted({label for _, (_, label, _) in rows})
    yield from ((text, names.index(label), language) for _, (text, label, language) in rows)


def from_fortunes() -> Iterator[Row]:
    """Texts of Debian's packages; the label is whether a section is the offensive one."""
    for (language, label), pattern in SECTIONS.items():
        for path in sorted(FORTUNES.glob(pattern)):
            if path.is_dir() or path.suffix in (".dat", ".u8") or path.name in UNCLEAR:
                continue
            whole = path.read_text(encoding="utf-8", errors="replace")
            whole = codecs.decode(whole, "rot13") if (language, label) == ROT13 else whole
            for text in re.split(r"^%.*$", whole, flags=re.MULTILINE):
                yield text, label, language


def made_up(n: int = 3000, seed: int = 0) -> Iterator[Row]:
    """Texts of three invented languages; half of them hold a word that is not said."""
    rng = np.random.default_rng(seed)
    for position in range(n):
        language, label = rng.choice(["x-a", "x-b", "x-c"], p=[0.75, 0.17, 0.08]), position % 2
        words = rng.integers(40, 200, rng.integers(6, 12))
        if label:
            words[rng.integers(len(words))] = rng.integers(40)
        yield " ".join(f"{language[-1]}{word}" for word in words), label, str(language)


def texts() -> Texts:
    """From the file that the variable names, else Debian's fortunes, else made up; which is said."""
    if named := os.environ.get(VARIABLE):
        found = encoded(from_csv(Path(named)), "csv")
    elif all(any(FORTUNES.glob(pattern)) for pattern in SECTIONS.values()):
        found = balanced(encoded(from_fortunes(), "fortunes"))
    else:
        found = encoded(made_up(), "generated")
    shares = ", ".join(f"{n:,} {name}" for name, n in Counter(found.languages).most_common())
    print(f"moderation: texts from {found.source}: {shares}", file=sys.stderr)
    return found


def balanced(found: Texts, seed: int = 0) -> Texts:
    """As many texts of each label in each language as there are of its rarer one."""
    rng, kept = np.random.default_rng(seed), []
    for language in np.unique(found.languages):
        there = found.languages == language
        own = [np.flatnonzero(there & (found.labels == label)) for label in (0, 1)]
        kept += [rng.permutation(rows)[: min(map(len, own))] for rows in own]
    return found.rows(np.sort(np.concatenate(kept)))


def splits(found: Texts, seed: int = 0) -> dict[str, Texts]:
    """Train, validation and test of the student, what the teacher reads, and other texts to be taught on.

    Stratified by language and label. Of fortunes, one language is thinned out in all that the student is
    taught and judged on, most of all in train. The teacher reads what is left out, and what was left out of
    train could be collected; of other sources both are train. In "weighed", train's texts of rarer
    languages are repeated, so that every language is about as frequent.
    """
    strata = np.char.add(found.languages, found.labels.astype(str))
    if found.labels.max() < 1 or min(Counter(strata).values()) < LEAST:
        raise gk.InputError(
            f"Expected two labels or more, and {LEAST} texts or more of each in every language, but got fewer"
        )
    rows = np.arange(len(strata))
    train, held = train_test_split(rows, test_size=HELD, stratify=strata, random_state=seed)
    validation, test = train_test_split(
        held, train_size=VALIDATION, stratify=strata[held], random_state=seed
    )
    parts = {"train": train, "validation": validation, "test": test}
    left_out = {name: rows[:0] for name in parts}
    for name, part in parts.items() if found.source == "fortunes" else ():
        rare = part[found.languages[part] == RARE]
        left_out[name] = rare[round(KEPT[name] * len(rare)) :]
        parts[name] = np.setdiff1d(part, left_out[name])
    counts = Counter(found.languages[train := parts["train"]])
    times = [round(max(counts.values()) / counts[name]) for name in found.languages[train]]
    parts["weighed"] = np.repeat(train, times)
    parts["collected"] = np.concatenate([parts["train"], left_out["train"]])
    parts["teacher"] = np.concatenate([parts["train"], *left_out.values()])
    return {name: found.rows(part) for name, part in parts.items()}


class Block(nn.Module):
    """Attention among the words of a text and a perceptron, each added to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        wide = 2 * width
        self.mlp = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, :]))
        return (x + self.mlp(self.norm2(x))) * there[..., None]


class Moderator(nn.Module):
    """Rows of pieces (n, words, pieces) -> logits (n, labels)."""

    def __init__(self, width: int, n_labels: int = 2) -> None:
        super().__init__()
        self.table = nn.Embedding(N_BUCKETS, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(N_WORDS, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.drop = nn.Dropout(0.3)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_labels)

    def forward(self, ids: Tensor) -> Tensor:
        there = ids[..., 0] > 0
        x = self.drop((self.table(ids).sum(2) + self.position) * there[..., None])
        for block in self.blocks:
            x = block(x, there)
        return self.head(self.norm(x.sum(1) / there.sum(1, keepdim=True)))


def train_teacher(read: Texts, n_labels: int, epochs: int, seed: int = 0) -> nn.Module:
    """The larger model, trained on labels of all that it may read."""
    labels, rng = torch.tensor(read.labels), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Moderator(TEACHER, n_labels).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
        steps = epochs * -(-len(labels) // 100)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.tensor(rng.permutation(len(labels))).split(100):
                optimizer.zero_grad()
                F.cross_entropy(model(read.ids[rows]), labels[rows]).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def study(
    seed: int = 0,
    epochs: int = 10,
    found: Texts | None = None,
    teacher: nn.Module | None = None,
    taught: str = "train",
    out: Path | None = None,
) -> gk.Study:
    """The student taught by KL on one of `splits`; other seeds give other splits, teachers and students."""
    found = texts() if found is None else found
    parts, n_labels = splits(found, seed), int(found.labels.max()) + 1
    judged = {"train": parts[taught], "validation": parts["validation"], "test": parts["test"]}
    return gk.Study(
        name=f"moderation-{found.source}",
        task=gk.Classification(),
        teacher=teacher or train_teacher(parts["teacher"], n_labels, epochs, seed),
        data=gk.Data(
            **{key: TensorDataset(p.ids, torch.tensor(p.labels)) for key, p in judged.items()},
            slices={"language": {key: part.languages for key, part in judged.items()}},
        ),
        family=gk.Family(
            lambda width: Moderator(width, n_labels),
            sizes=[STUDENT, 24, TEACHER],
            student=STUDENT,
            teacher=TEACHER,
        ),
        recipe=gk.Recipe(epochs=epochs, batch_size=100, lr=1e-2, knowledge="kl4"),
        layers=["blocks.0", "blocks.1", "norm"],
        seed=seed,
        out=out,
    )


def arms(opened: gk.Study) -> dict[str, tuple[gk.Knowledge, ...]]:
    """Labels; responses; with hints at the one layer that matters most; with hints at every layer."""
    responses, measurements = knowledge_named(opened.recipe_name), opened.measure()
    best = gk.matched_hints(measurements, n=1, weight=0.5, pool=True)
    every = gk.matched_hints(measurements, weight=0.5, pool=True)
    return {
        "labels": knowledge_named("scratch"),
        "responses": responses,
        "hints where it matters": responses + best,
        "hints everywhere": responses + tuple(part.with_(layer_weights=()) for part in every),
    }


def right(opened: gk.Study, model: nn.Module) -> np.ndarray:
    """(n,) 1 where a model is right on test."""
    outputs = predict(model, opened.data, "test", opened.task, opened.device)
    return (outputs.argmax(1) == opened.data.targets("test")).double().numpy()


def compare(
    found: Texts, out: Path, epochs: int = 10, seeds: Iterable[int] = range(3)
) -> dict[str, np.ndarray]:
    """Arm -> (seeds, n) of test: the teacher, students of every knowledge, and of other transfer texts."""
    first = study(epochs=epochs, found=found, out=out / "train")
    each = {name: (first, knowledge) for name, knowledge in arms(first).items()}
    for taught in ("weighed", "collected") if found.source == "fortunes" else ("weighed",):
        other = study(0, epochs, found, first.teacher, taught, out / taught)
        each[f"responses, {taught}"] = other, knowledge_named(first.recipe_name)
    scores = {"teacher": right(first, first.teacher)[None]}
    for name, (opened, knowledge) in each.items():
        phase, sources = gk.Phase(knowledge=knowledge), () if name == "labels" else ("teacher",)
        stage = gk.Stage(name="student", size=STUDENT, sources=sources, phases=(phase,))
        trained = [opened.trainings.stage(stage, seed, sources) for seed in seeds]
        scores[name] = np.stack([right(opened, opened.trainings.model(one)) for one in trained])
    return scores


def table(scores: Mapping[str, np.ndarray], languages: np.ndarray) -> str:
    """Accuracy in all and by language with the difference to the teacher and its 95 % interval.

    Intervals are paired over texts: each student counts by its mean over seeds.
    """
    groups = {"all": np.ones(len(languages), dtype=bool)}
    groups |= {name: languages == name for name, _ in Counter(languages).most_common()}
    heads = [f"{name} (n = {rows.sum():,})" for name, rows in groups.items()]
    lines = [("{:24}" + "{:>25}" * len(heads)).format(f"{len(scores['labels'])} seeds", *heads)]
    for name, each in scores.items():
        line, own = f"{name:24}", each.mean(0)
        for rows in groups.values():
            behind = mean_interval((own - scores["teacher"][0])[rows])
            words = f" ({behind.value:+.3f} ± {behind.high - behind.value:.3f})"
            line += f"{own[rows].mean():.3f}{words if name != 'teacher' else '':17}".rjust(25)
        lines.append(line.rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    found = texts()
    scores = compare(found, Path("runs") / "moderation-table")
    print(table(scores, splits(found)["test"].languages))
