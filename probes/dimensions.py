"""Dimensions: what the samples of a split are sliced by. Class, rarity, difficulty, declared columns, crossings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.probe import Seen

CLASS, RARITY, DIFFICULTY = "class", "rarity", "difficulty"
FEW = 10  # different numbers up to which a column of floats is taken as it is
IMBALANCE = 2  # the most frequent class over the rarest, from which rarity is a dimension

THIRDS = ("head", "mid", "tail")


@dataclass(frozen=True)
class Dimension:
    """Slices of a split that differ in one thing, or in two when crossed.

    Attributes:
        name: "class", or "class & language".
        groups: (k,) names of the slices, "class=3" or "class=3 & language=de".
        rows, codes: (m,) a sample and the slice that it belongs to; a sample may be in none or in several.
        note: how the slices were made, in words.
    """

    name: str
    groups: tuple[str, ...]
    rows: np.ndarray
    codes: np.ndarray
    note: str = ""

    @property
    def counts(self) -> np.ndarray:
        """(k,) samples of each slice."""
        return np.bincount(self.codes, minlength=len(self.groups))

    def only(self, kept: np.ndarray) -> Dimension:
        """The slices where `kept` (k,) is true."""
        new, among = np.cumsum(kept) - 1, kept[self.codes]
        groups = tuple(group for group, keep in zip(self.groups, kept) if keep)
        return Dimension(self.name, groups, self.rows[among], new[self.codes[among]], self.note)


def dimensions(
    shown: Seen, judge: Seen, train: Seen | None, targets: Tensor, kind: str
) -> list[Dimension]:
    """Every dimension of one split that has slices.

    - class: each label, or the samples for which it holds (multi-label);
    - rarity: labels in thirds of the training samples, from frequent to rare ("head", "mid", "tail"), a
      multi-label sample by its rarest label; none where the most frequent one is not twice the rarest;
    - difficulty: quarters of the teacher's confidence, or a declared column of that name. Binning by what
      the teacher said exaggerates its lead where it was sure and hides it where it was unsure: part
      of both is luck (regression to the mean). Compare students within a quarter rather than quarters
      with each other. Regression and embeddings have none unless declared: binning by the
      teacher's error would choose samples by the outcome itself;
    - declared columns: words and whole numbers as they are, floats of more than ten values in quarters.

    Args:
        shown: the split; judge: the split that quarters are made on; train: None when it was not seen.
        targets: (n, ...) of the split; kind: the task's.
    """
    found = []
    labels = _labels(targets, kind)
    if labels is not None:
        found.append(_by_label(labels))
        learned = None if train is None or train.targets is None else _labels(train.targets, kind)
        if RARITY not in shown.slices and learned is not None:
            found += _by_rarity(labels, learned)
    if DIFFICULTY not in shown.slices and kind in ("classification", "multilabel"):
        found += _by_confidence(shown, judge, kind)
    for name, column in shown.slices.items():
        found += _declared(name, np.asarray(column), np.asarray(judge.slices[name]), judge.split)
    return found


def crossings(
    found: Sequence[Dimension], n: int, least: int, most: int
) -> tuple[list[Dimension], int]:
    """Crossings of two dimensions with `least` samples or more, the `most` largest; how many are left out.

    A crossing that holds all samples of one of its two slices says nothing new and is no crossing.
    """
    return largest([_cross(one, two, n, least) for one, two in combinations(found, 2)], most)


def largest(found: Sequence[Dimension], most: int) -> tuple[list[Dimension], int]:
    """The `most` slices with the most samples, and how many are left out."""
    counts = np.concatenate([np.empty(0, int), *(item.counts for item in found)])
    kept = np.zeros(len(counts), dtype=bool)
    kept[np.argsort(-counts, kind="stable")[:most]] = True
    ends = np.cumsum([len(item.groups) for item in found])[:-1]
    chosen = [item.only(keep) for item, keep in zip(found, np.split(kept, ends)) if keep.any()]
    return chosen, int((~kept).sum())


def same_slices(found: Sequence[Dimension], chosen: Sequence[Dimension]) -> list[Dimension]:
    """The slices that bear the names of those chosen on another split."""
    wanted, again = {group for item in chosen for group in item.groups}, []
    for item in found:
        kept = np.array([group in wanted for group in item.groups], dtype=bool)
        again += [item.only(kept)] if kept.any() else []
    return again


def same_crossings(
    found: Sequence[Dimension], n: int, chosen: Sequence[Dimension]
) -> list[Dimension]:
    """The crossings chosen on another split, as far as this one has samples of them."""
    names = {item.name for item in chosen}
    pairs = [pair for pair in combinations(found, 2) if " & ".join(d.name for d in pair) in names]
    return same_slices([_cross(one, two, n, 1) for one, two in pairs], chosen)


def _labels(targets: Tensor, kind: str) -> Tensor | None:
    """Labels (n,) or 0/1 (n, K); None when targets are no labels of samples."""
    if kind == "multilabel":
        return targets.cpu() > 0
    whole = targets.ndim == 1 and not targets.is_floating_point()
    return targets.cpu() if whole and kind != "regression" else None


def _by_label(labels: Tensor) -> Dimension:
    if labels.ndim == 1:
        return _by_value(CLASS, labels.numpy())
    rows, codes = (index.numpy() for index in labels.nonzero(as_tuple=True))
    every = Dimension(CLASS, tuple(f"{CLASS}={k}" for k in range(labels.shape[1])), rows, codes)
    return every.only(every.counts > 0)


def _by_value(name: str, column: np.ndarray) -> Dimension:
    column = column.astype(str) if column.dtype == object else column
    values, codes = np.unique(column, return_inverse=True)
    groups = tuple(f"{name}={value}" for value in values)
    return Dimension(name, groups, np.arange(len(codes)), codes)


def _by_rarity(labels: Tensor, learned: Tensor) -> list[Dimension]:
    if learned.ndim == 1:
        names, counts = (part.numpy() for part in learned.unique(return_counts=True))
        place = np.minimum(np.searchsorted(names, labels.numpy()), len(names) - 1)
        frequency = np.where(names[place] == labels.numpy(), counts[place], 0)
        rows = np.arange(len(frequency))
    else:
        counts = learned.sum(0).numpy()
        rarest = np.where(labels.numpy(), counts, np.iinfo(counts.dtype).max).min(1)
        rows = labels.any(1).nonzero()[:, 0].numpy()
        frequency = rarest[rows]
    if not len(counts) or not len(rows) or counts.max() < IMBALANCE * counts.min():
        return []
    ordered = np.sort(counts)
    rarer = np.concatenate([[0], np.cumsum(ordered)])[np.searchsorted(ordered, frequency, "right")]
    third = np.minimum(3 * (ordered.sum() - rarer) // ordered.sum(), 2)
    every = Dimension(
        RARITY,
        tuple(f"{RARITY}={third}" for third in THIRDS),
        rows,
        third,
        "classes by frequency, in thirds of the training samples",
    )
    return [every.only(every.counts > 0)]


def _by_confidence(shown: Seen, judge: Seen, kind: str) -> list[Dimension]:
    of_judge, own = (_confidence(view.teacher.outputs, kind) for view in (judge, shown))
    if of_judge is None or own is None or not np.isfinite(of_judge).all():
        return []
    note = (
        f"quarters of the teacher's confidence, made on {judge.split}; chosen by what the teacher "
        "said: some of its lead where it was sure is luck"
    )
    return _quarters(DIFFICULTY, own, of_judge, note, "confidence ")


def _confidence(outputs: Tensor, kind: str) -> np.ndarray | None:
    """(n,) probability of the named class; with several labels the mean of the likelier answers'."""
    if outputs.ndim != 2 or not outputs.shape[1]:
        return None
    answers = torch.softmax(outputs.double(), 1).amax(1)
    if kind == "multilabel":
        answers = torch.sigmoid(outputs.double().abs()).mean(1)
    return answers.numpy().round(12)  # equal answers are equal, whatever their order of summing


def _declared(name: str, column: np.ndarray, of_judge: np.ndarray, split: str) -> list[Dimension]:
    binned = "iuf" if name == DIFFICULTY else "f"
    name = name if name != CLASS else f"slice {CLASS}"
    if column.dtype.kind in binned and of_judge.dtype.kind in binned:
        known = of_judge[np.isfinite(of_judge)]
        if len(np.unique(known)) > FEW:
            return _quarters(name, column, known, f"quarters made on {split}")
    return [_by_value(name, column)]


def _quarters(
    name: str, values: np.ndarray, of_judge: np.ndarray, note: str, what: str = ""
) -> list[Dimension]:
    """Slices between the quartiles of the judging split; fewer where quartiles coincide."""
    known = np.unique(of_judge)
    if len(known) < 2:
        return []
    edges = np.unique(np.quantile(of_judge, [0.25, 0.5, 0.75], method="inverted_cdf"))
    edges = edges[edges < known[-1]] if edges[0] < known[-1] else known[-2:-1]
    words = _distinct(edges)
    between = [f"{one} to {two}" for one, two in pairwise(words)]
    names = [f"up to {words[0]}", *between, f"above {words[-1]}", "missing"]
    codes = np.where(np.isnan(values), len(names) - 1, np.searchsorted(edges, values))
    groups = tuple(f"{name}={what}{value}" for value in names)
    every = Dimension(name, groups, np.arange(len(values)), codes, note)
    return [every.only(every.counts > 0)]


def _distinct(edges: np.ndarray) -> list[str]:
    """Numbers with as few digits, three or more, as tell them apart."""
    for digits in range(3, 18):
        words = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(words)) == len(words):
            break
    return words


def _cross(one: Dimension, two: Dimension, n: int, least: int) -> Dimension:
    """Slices of both; a sample is in one slice of `two` at most."""
    of_two = np.full(n, -1)
    of_two[two.rows] = two.codes
    both = of_two[one.rows] >= 0
    rows, codes = one.rows[both], one.codes[both]
    pairs, inverse, counts = np.unique(
        codes * len(two.groups) + of_two[rows], return_inverse=True, return_counts=True
    )
    first, second = pairs // len(two.groups), pairs % len(two.groups)
    kept = (counts >= least) & (counts < one.counts[first]) & (counts < two.counts[second])
    groups = tuple(
        f"{one.groups[a]} & {two.groups[b]}" if keep else ""
        for a, b, keep in zip(first, second, kept)
    )
    every = Dimension(f"{one.name} & {two.name}", groups, rows, inverse)
    return every.only(kept)
