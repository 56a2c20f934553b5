"""Moderation of short texts on a device: a multilingual transformer teaches one that fits a phone.

Both read words as sums of hashed pieces (the word, how it begins, how it ends), so that no vocabulary is
needed. Languages are slices, and one of them is rare where the student is taught: its average may look fine
while it loses that language. The student learns from the teacher's answers; the table adds hints at the
layers that matter, at all layers, and texts of the rare language drawn more often.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import t
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.answers import predict
from gapkit.knowledge import knowledge_named

torch.set_num_threads(1)  # networks this small lose more by sharing work than they gain

VARIABLE = "MODERATION_CSV"
COLUMNS = ("text", "label", "language")
FORTUNES = Path("/usr/share/games/fortunes")
ORDINARY = {"es": "es/*.fortunes", "it": "it/*"}
UNCLEAR = ("italia", "luke", "zuse")  # jokes whose offensive section differs by little but taste
OFFENSIVE = {"es": "off/es/off/*.fortunes", "it": "off/it/*-o"}
ROT13 = ("es",)  # languages whose offensive sections are enciphered
RARE = "es"  # of which each split of the student's holds only a share of its texts
KEPT = {"train": 0.025, "validation": 0.25, "test": 0.25}
HELD, VALIDATION = 0.47, 0.57  # share not trained on; share of that to decide on
LEAST = 8  # texts of a label in a language

N_WORDS, N_PIECES, N_BUCKETS = 32, 5, 8192  # words of a text; pieces of a word; rows of their table
TEACHER, STUDENT = 48, 16  # widths
LANGUAGE = re.compile(r"[A-Za-z]{1,3}(-[A-Za-z0-9]{1,8})*")
MOST_LABELS = 10
HINT_WEIGHT = 0.5
DROP = 0.3


class Texts(NamedTuple):
    """Numbers made of n texts: ids (n, N_WORDS, N_PIECES), labels (n,), languages (n,), and where they are from."""

    ids: Tensor
    labels: np.ndarray
    languages: np.ndarray
    source: str

    def rows(self, rows: np.ndarray) -> Texts:
        """Some of them."""
        return self._replace(
            ids=self.ids[rows], labels=self.labels[rows], languages=self.languages[rows]
        )

    def dataset(self) -> TensorDataset:
        """(ids, label) a sample."""
        return TensorDataset(self.ids, torch.tensor(self.labels))


def pieces(text: str) -> list[tuple[int, ...]]:
    """Rows of the table for each of the first words: the word, its first four and its last three letters.

    0 is padding; the same piece has the same row in every process.
    """

    def row(piece: str) -> int:
        return 1 + zlib.crc32(piece.encode()) % (N_BUCKETS - 1)

    words = re.findall(r"\w+", text.lower())[:N_WORDS]
    return [
        (
            row(word),
            row(f"{word[:3]}_"),
            row(f"{word[:5]}_"),
            row(f"_{word[-3:]}"),
            row(f"_{word[-5:]}"),
        )
        for word in words
    ]


def encoded(rows: Iterable[tuple[str, int, str]], source: str) -> Texts:
    """Texts of (text, label, language), each once, those without a word left out."""
    found: dict[tuple[str, tuple], int] = {}
    for text, label, language in rows:
        if own := tuple(pieces(text)):
            found.setdefault((language, own), label)
    ids = np.zeros((len(found), N_WORDS, N_PIECES), dtype=np.int64)
    for position, (_, own) in enumerate(found):
        ids[position, : len(own)] = own
    languages = np.array([language for language, _ in found])
    return Texts(torch.from_numpy(ids), np.array([*found.values()]), languages, source)


def from_csv(path: Path) -> Iterator[tuple[str, int, str]]:
    """(text, label, language) of a CSV file in UTF-8; labels become 0, 1, ... in order of their names.

    Raises:
        gk.InputError: naming the line, and nothing that stands in it.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(table.line_num, row) for table in [csv.DictReader(file)] for row in table]
    except (OSError, UnicodeError, csv.Error) as error:
        raise gk.InputError(
            f"Expected to read {path} as CSV in UTF-8 but got {type(error).__name__}"
        ) from None
    for line, row in rows:
        if not all(row.get(name) for name in COLUMNS) or not LANGUAGE.fullmatch(row["language"]):
            raise gk.InputError(
                f"Expected text, label and a language such as en or pt-BR in {path}, line {line}, but "
                "one is missing or of another form"
            )
    names = sorted({row["label"] for _, row in rows})
    if not 2 <= len(names) <= MOST_LABELS:
        raise gk.InputError(f"Expected 2 to {MOST_LABELS} labels in {path} but got {len(names)}")
    for _, row in rows:
        yield row["text"], names.index(row["label"]), row["language"]


def from_fortunes(folder: Path = FORTUNES) -> Iterator[tuple[str, int, str]]:
    """(text, whether its section is the offensive one, language)."""
    for label, sections in enumerate((ORDINARY, OFFENSIVE)):
        for language, pattern in sections.items():
            for path in sorted(folder.glob(pattern)):
                if path.is_dir() or path.suffix in (".dat", ".u8") or path.name in UNCLEAR:
                    continue
                whole = path.read_text(encoding="utf-8", errors="replace")
                if label and language in ROT13:
                    whole = codecs.decode(whole, "rot13")
                for text in re.split(r"^%.*$", whole, flags=re.MULTILINE):
                    yield text, label, language


def made_up(n: int = 3000, seed: int = 0) -> Iterator[tuple[str, int, str]]:
    """(text, label, language) of three invented languages; half of the texts hold a word that is not said."""
    rng = np.random.default_rng(seed)
    sounds = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    words = {
        lang: ["".join(rng.choice(sounds, 3)) for _ in range(200)] for lang in ("x-a", "x-b", "x-c")
    }
    for position in range(n):
        language, label = str(rng.choice([*words], p=[0.75, 0.17, 0.08])), position % 2
        said = list(rng.choice(words[language][40:], rng.integers(6, 12)))
        if label:
            said.insert(int(rng.integers(len(said))), str(rng.choice(words[language][:40])))
        yield " ".join(map(str, said)), label, language


def texts() -> Texts:
    """From the file that the variable names, else Debian's fortunes, else made up; which is said."""
    named = os.environ.get(VARIABLE)
    offensive = {key for key, pattern in OFFENSIVE.items() if any(FORTUNES.glob(pattern))}
    if named:
        found = encoded(from_csv(Path(named)), "csv")
    elif offensive == set(OFFENSIVE):
        found = balanced(encoded(from_fortunes(), "fortunes"))
    else:
        found = encoded(made_up(), "generated")
    counts = Counter(found.languages).most_common()
    shares = ", ".join(f"{count:,} {language}" for language, count in counts)
    print(f"moderation: texts from {found.source}: {shares}", file=sys.stderr)
    return found


def balanced(found: Texts, seed: int = 0) -> Texts:
    """As many texts of each label in each language as there are of its smaller one."""
    rng, kept = np.random.default_rng(seed), []
    for language in np.unique(found.languages):
        own = [
            np.flatnonzero((found.languages == language) & (found.labels == label))
            for label in np.unique(found.labels)
        ]
        kept += [rng.permutation(rows)[: min(map(len, own))] for rows in own]
    return found.rows(np.sort(np.concatenate(kept)))


def splits(found: Texts, seed: int = 0) -> dict[str, Texts]:
    """Train, validation and test of the student, what the teacher reads, and what could be collected.

    Stratified by language and label. Of fortunes, one language is thinned out in all that the student is
    taught and judged on, most of all in train; the teacher reads the rest of it too, and what was left out
    of train is what could be collected. Of other sources the teacher reads what the student does.
    """
    strata = np.char.add(found.languages, found.labels.astype(str))
    if min(Counter(strata).values()) < LEAST:
        raise gk.InputError(
            f"Expected {LEAST} texts or more of every label in every language but got fewer"
        )
    rows = np.arange(len(strata))
    train, held = train_test_split(rows, test_size=HELD, stratify=strata, random_state=seed)
    validation, test = train_test_split(
        held, train_size=VALIDATION, stratify=strata[held], random_state=seed
    )
    chosen = {"train": train, "validation": validation, "test": test}
    surplus = {}
    for name, part in chosen.items() if found.source == "fortunes" else ():
        rare = np.flatnonzero(found.languages[part] == RARE)
        surplus[name] = part[rare[round(KEPT[name] * len(rare)) :]]
        chosen[name] = np.setdiff1d(part, surplus[name])
    read = np.concatenate([chosen["train"], *surplus.values()])
    more = np.concatenate([chosen["train"], surplus.get("train", rows[:0])])
    return {"teacher": found.rows(read), "collected": found.rows(more)} | {
        name: found.rows(part) for name, part in chosen.items()
    }


class Block(nn.Module):
    """Attention among the words of a text and a perceptron, each added to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, :])
        x = x + self.out(mixed)
        return (x + self.mlp(self.norm2(x))) * there[..., None]


class Moderator(nn.Module):
    """Rows of pieces (n, words, pieces) -> logits (n, labels)."""

    def __init__(self, width: int, n_labels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(N_BUCKETS, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(N_WORDS, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.drop = nn.Dropout(DROP)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_labels)

    def forward(self, ids: Tensor) -> Tensor:
        there = ids[..., 0] > 0
        x = self.drop((self.table(ids).sum(2) + self.position) * there[..., None])
        for block in self.blocks:
            x = block(x, there)
        return self.head(self.norm(x.sum(1) / there.sum(1, keepdim=True)))


def build(width: int, n_labels: int = 2) -> nn.Module:
    """A fresh moderator."""
    return Moderator(width, n_labels)


def train_teacher(read: Texts, n_labels: int, epochs: int, seed: int = 0) -> nn.Module:
    """The larger model, trained on labels of all that it may read."""
    labels, rng = torch.tensor(read.labels), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(TEACHER, n_labels).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
        steps = epochs * -(-len(labels) // 100)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.tensor(rng.permutation(len(labels))).split(100):
                loss = F.cross_entropy(model(read.ids[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def weighed(train: Texts) -> Texts:
    """Texts of rarer languages repeated, so that every language is about as frequent."""
    counts = Counter(train.languages)
    times = [round(max(counts.values()) / counts[language]) for language in train.languages]
    return train.rows(np.repeat(np.arange(len(times)), times))


def study(
    seed: int = 0,
    epochs: int = 10,
    found: Texts | None = None,
    teacher: nn.Module | None = None,
    taught: str = "train",
) -> gk.Study:
    """The student taught by KL; other seeds give other splits, teachers and students.

    Args:
        found: the texts; None: `texts()`.
        teacher: a trained one; None: it is trained here.
        taught: what the student is taught on: "train", "weighed" or "collected".
    """
    found = texts() if found is None else found
    parts, n_labels = splits(found, seed), int(found.labels.max()) + 1
    if teacher is None:
        teacher = train_teacher(parts["teacher"], n_labels, epochs, seed)
    train = weighed(parts["train"]) if taught == "weighed" else parts[taught]
    judged = {"train": train, "validation": parts["validation"], "test": parts["test"]}
    return gk.Study(
        name=f"moderation-{found.source}",
        task=gk.Classification(),
        teacher=teacher,
        data=gk.Data(
            **{name: part.dataset() for name, part in judged.items()},
            slices={"language": {name: part.languages for name, part in judged.items()}},
        ),
        family=gk.Family(
            lambda width: build(width, n_labels),
            sizes=[STUDENT, 24, TEACHER],
            student=STUDENT,
            teacher=TEACHER,
        ),
        recipe=gk.Recipe(epochs=epochs, batch_size=100, lr=1e-2, knowledge="kl4"),
        layers=["blocks.0", "blocks.1", "norm"],
        seed=seed,
    )


def arms(opened: gk.Study) -> dict[str, tuple[gk.Knowledge, ...]]:
    """Labels; responses; with hints at the one layer that matters most; with hints at every layer."""
    responses = knowledge_named(opened.recipe_name)
    options = {"weight": HINT_WEIGHT, "pool": True}
    matched = gk.matched_hints(opened.measure(), **options)
    best = gk.matched_hints(opened.measure(), n=1, **options)
    everywhere = tuple(part.with_(layer_weights=()) for part in matched)
    return {
        "labels": knowledge_named("scratch"),
        "responses": responses,
        "hints where it matters": responses + best,
        "hints everywhere": responses + everywhere,
    }


def right(opened: gk.Study, name: str, knowledge: Sequence[gk.Knowledge], seed: int) -> np.ndarray:
    """(n,) whether one student, trained with that knowledge, is right about each text of test."""
    sources = ("teacher",) if any(part.kind != "label" for part in knowledge) else ()
    stage = gk.Stage(
        name=name,
        size=opened.family.student,
        sources=sources,
        phases=(gk.Phase(knowledge=tuple(knowledge)),),
    )
    training = opened.trainings.stage(stage, seed, sources)
    return judged(opened, opened.trainings.model(training))


def judged(opened: gk.Study, model: nn.Module) -> np.ndarray:
    """(n,) 1 where a model is right on test."""
    targets = opened.data.targets("test")
    assert targets is not None
    outputs = predict(model, opened.data, "test", opened.task, opened.device)
    return (outputs.argmax(1) == targets).double().numpy()


def compare(
    studies: Mapping[str, gk.Study], seeds: Iterable[int] = range(3)
) -> dict[str, np.ndarray]:
    """Arm -> (seeds, n) of test: the teacher, students of every knowledge, and other transfer texts.

    `studies` are those of the same texts and teacher, by what the student is taught on.
    """
    first = studies["train"]
    found = {"teacher": judged(first, first.teacher)[None]}
    for name, knowledge in arms(first).items():
        found[name] = np.stack([right(first, name, knowledge, seed) for seed in seeds])
    responses = knowledge_named(first.recipe_name)
    for name in studies:
        if name != "train":
            rows = [right(studies[name], name, responses, seed) for seed in seeds]
            found[f"responses, {name}"] = np.stack(rows)
    return found


def table(found: Mapping[str, np.ndarray], languages: np.ndarray) -> str:
    """Accuracy in all and by language, below each the difference to the teacher with its 95 % interval.

    Intervals are paired over texts: each student counts by its mean over seeds.
    """
    groups = {"all": np.ones(len(languages), dtype=bool)}
    groups |= {name: languages == name for name, _ in Counter(languages).most_common()}
    n_seeds = len(found["labels"])
    heads = (f"{name} (n = {rows.sum():,})" for name, rows in groups.items())
    lines = [f"{f'{n_seeds} seeds':24}" + "".join(f"{head:>22}" for head in heads)]
    teacher = found["teacher"].mean(0)
    for name, each in found.items():
        own = each.mean(0)
        lines.append(
            f"{name:24}" + "".join(f"{own[rows].mean():>22.3f}" for rows in groups.values())
        )
        if name != "teacher":
            words = (interval(own[rows] - teacher[rows]) for rows in groups.values())
            lines.append(f"{'':24}" + "".join(f"{word:>22}" for word in words))
    return "\n".join(lines)


def interval(differences: np.ndarray) -> str:
    """Mean and half width of the t interval over texts (n,)."""
    n = len(differences)
    half = t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5
    return f"{differences.mean():+.3f} ± {half:.3f}"


def studies(found: Texts, out: Path, epochs: int = 10) -> dict[str, gk.Study]:
    """What the student is taught on -> study, each in its own folder; one teacher for all."""
    opened = {"train": study(epochs=epochs, found=found)}
    ways = ("weighed", "collected") if found.source == "fortunes" else ("weighed",)
    for name in ways:
        opened[name] = study(
            epochs=epochs, found=found, teacher=opened["train"].teacher, taught=name
        )
    for name, each in opened.items():
        each.run.folder = out / name
    return opened


if __name__ == "__main__":
    opened = studies(texts(), Path("runs") / "moderation-table")
    found = compare(opened)
    print(table(found, opened["train"].data.slices("test")["language"]))
