"""Wording: how numbers, units and names are put into words, the same way everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gapkit.knowledge import Knowledge
from gapkit.measurement import Measurement, Measurements
from gapkit.plans import Predicted, Stage
from gapkit.record import Record

OWN_TARGET = "its own target"  # estimator of a teacher's score where the data has no targets
DIFFERENCES = ("gap", "gap_elsewhere", "gap on train", "worst_slice", "slope by epoch")
FARTHEST = 10  # gaps by which a bound may lie below zero and still be told
_NEAREST = re.compile(r" \(nearest: (.+) by (\S+), at least (\S+)\)")


class Wording(Record):
    """Turns scores and differences of a task into words.

    Args:
        unit: of the score; "share" is printed in percent and its differences in percentage points
            ("points"), any other unit as it is.
        score_name: of the task, for example "accuracy".

    >>> say = Wording(unit="share", score_name="accuracy")
    >>> say.score(0.572), say.difference(-0.031)
    ('57.2 %', '−3.1 points')
    >>> Wording(unit="", score_name="r2").score(0.572)
    '0.572'
    """

    unit: str
    score_name: str

    @property
    def scale(self) -> float:
        """What score units are multiplied by before they are printed or drawn."""
        return 100.0 if self.unit == "share" else 1.0

    @property
    def axis(self) -> str:
        """Name of a score axis."""
        name = self.score_name.replace("_", " ")
        shown = "%" if self.unit == "share" else self.unit
        return f"{name} ({shown})" if shown else name

    def score(self, value: float) -> str:
        """A score with its unit."""
        return self.plain(value) + (" %" if self.unit == "share" else self._suffix)

    def plain(self, value: float) -> str:
        """A score without its unit."""
        if math.isnan(value):
            return "undefined"
        return minus(f"{value * 100:.1f}" if self.unit == "share" else f"{value:.3g}")

    def difference(self, value: float) -> str:
        """A signed difference of scores with its unit."""
        if math.isnan(value):
            return "undefined"
        return self.signed(value) + (" points" if self.unit == "share" else self._suffix)

    def signed(self, value: float) -> str:
        """A signed difference without its unit."""
        text = f"{value * 100:+.1f}" if self.unit == "share" else f"{value:+.3g}"
        return minus(text if float(text) else text.lstrip("+-"))

    @property
    def _suffix(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def score_of(self, item: Measurement) -> str:
        """A measured score with interval and n."""
        if math.isnan(item.value):
            return f"undefined ({item.reason})"
        return f"{self.score(item.value)} {self.interval(item)}"

    def difference_of(self, item: Measurement) -> str:
        """A measured difference with interval and n."""
        if math.isnan(item.value):
            return f"undefined ({item.reason})"
        return f"{self.difference(item.value)} {self.interval(item, signed=True)}"

    def magnitude(self, item: Measurement, n: bool = True) -> str:
        """A measured difference without its direction (the sentence around it tells that).

        >>> gain = Measurement(name="gain", of="pair", value=-0.1, low=-0.12, high=-0.08, n=50)
        >>> Wording(unit="share", score_name="accuracy").magnitude(gain)
        '10.0 points [8.0, 12.0], n = 50'
        """
        if math.isnan(item.value):
            return f"undefined ({item.reason})"
        if item.value < 0:
            item = item.with_(value=-item.value, low=-item.high, high=-item.low)
        return f"{self.difference(item.value).lstrip('+')} {self.interval(item, n=n)}"

    def interval(self, item: Measurement, signed: bool = False, n: bool = True) -> str:
        """ "[low, high], n = …" of a measurement; the level is said when it is not 95 %."""
        level = "" if item.level == 0.95 else f" ({item.level * 100:.4g} % interval)"
        bounds = self.bounds(item, signed) + level
        return f"{bounds}, n = {item.n:,}" if n else bounds

    def bounds(self, item: Measurement, signed: bool = False) -> str:
        """ "[low, high]" of a measurement whose level is said elsewhere."""
        show = self.signed if signed else self.plain
        return f"[{show(item.low)}, {show(item.high)}]"

    def no_worst_slice(self, reason: str, gap: Measurement | None = None) -> str:
        """Why no worst slice is named, the slice nearest to it in the score's own unit.

        That slice is left out where its bound says nothing: below zero by more than ten times `gap`, the
        gap of all samples, as of a slice with few samples of an unbounded score.

        >>> reason = "none of 4 slices is worse (nearest: class=3 by 0.05, at least -0.012)"
        >>> Wording(unit="share", score_name="accuracy").no_worst_slice(reason)
        'none of 4 slices is worse (nearest: class=3 by +5.0 points, at least −1.2 points)'
        """
        found = _NEAREST.search(reason)
        if found is None:
            return reason
        value, low = float(found[2]), float(found[3])
        size = 1.0 if gap is None or math.isnan(gap.value) else abs(gap.value)
        told = (
            f" (nearest: {found[1]} by {self.difference(value)}, at least {self.difference(low)})"
        )
        told = told if self.unit == "share" or low >= -FARTHEST * size else ""
        return reason[: found.start()] + told + reason[found.end() :]

    def forecast(self, item: Predicted) -> str:
        """A predicted score with its interval and level."""
        level = f"{item.level * 100:.0f} %"
        return f"{self.score(item.value)} ({level} interval {self.plain(item.low)} to {self.plain(item.high)})"


def minus(text: str) -> str:
    """The text with a true minus sign for a leading hyphen, and none for what rounds to 0.

    >>> minus("-1.20"), minus("-0.000")
    ('−1.20', '0.000')
    """
    if not text.startswith("-"):
        return text
    return "−" + text[1:] if any(digit in text for digit in "123456789") else text[1:]


def number(value: float, unit: str = "") -> str:
    """A number of any quantity with its unit, in three or four digits.

    >>> number(0.12345, "nats"), number(56714, "parameters"), number(0.931, "share")
    ('0.123 nats', '56,714', '93.1 %')
    """
    if math.isnan(value):
        return "undefined"
    if unit == "share":
        return minus(f"{value * 100:.1f}") + " %"
    shown = f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"
    return minus(shown) + (f" {unit}" if unit not in ("", "parameters") else "")


def number_of(item: Measurement) -> str:
    """A measurement of any quantity with interval and n, or why it is undefined."""
    if math.isnan(item.value):
        return f"undefined: {item.reason}"
    if item.unit == "share" and is_difference(item):
        say = Wording(unit="share", score_name=item.name)
        return f"{say.difference(item.value)} {say.bounds(item, signed=True)}"
    if not item.n or item.low == item.high == item.value:
        return number(item.value, item.unit)
    scale, digits = (100, 1) if item.unit == "share" else (1, _decimals(item))
    value, low, high = (
        minus(f"{bound * scale:.{digits}f}") for bound in (item.value, item.low, item.high)
    )
    unit = " %" if item.unit == "share" else f" {item.unit}" if item.unit else ""
    return f"{value}{unit} [{low}, {high}]"


def is_difference(item: Measurement) -> bool:
    """Whether a measurement is a difference of scores, told in points where these are shares.

    >>> fields = {"of": "pair", "value": 0.1, "low": 0.0, "high": 0.2, "n": 50, "unit": "share"}
    >>> is_difference(Measurement(name="gap", **fields)), is_difference(Measurement(name="ece", **fields))
    (True, False)
    """
    told = "difference" in item.estimator or "seed(s)" in item.estimator
    return told or item.name in DIFFERENCES or item.name.endswith("_gain")


def without_targets(measurements: Measurements) -> bool:
    """Whether the data has no targets, so that the teacher was held against its own answers.

    Then nothing can be trained on labels alone: neither controls nor a search for a plan.
    """
    return any(
        item.of == "teacher" and item.estimator == OWN_TARGET for item in measurements.values
    )


def bare(item: Measurement) -> str:
    """Value and interval for a cell whose unit stands elsewhere; a share keeps its percent sign."""
    if math.isnan(item.value):
        return "undefined"
    return number_of(item if item.unit == "share" else item.with_(unit=""))


def _decimals(item: Measurement) -> int:
    """Decimals that fit the largest of value and bounds: 0 from 100 on, 1 from 10, 2 from 0.1, else 3."""
    largest = max(
        (abs(x) for x in (item.value, item.low, item.high) if math.isfinite(x)), default=0
    )
    return sum(largest < limit for limit in (100, 10, 0.1))


def described(item: Measurement) -> str:
    """A measurement as a phrase: what, whose, where, value, interval, n and split."""
    whose = {"pair": "teacher and student", "untrained": "untrained student"}.get(item.of, item.of)
    at = "".join(f", {part}" for part in (item.layer, item.group) if part)
    value = number_of(item)
    n = f", n = {item.n:,}" if item.n and not math.isnan(item.value) else ""
    return f"{words(item.name)} of {whose}{at}: {value}{n}" + (
        f", {item.split}" if item.split else ""
    )


def words(name: str) -> str:
    """An identifier as words: harsh_targets -> harsh targets."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends like a sentence already."""
    return text if text.endswith((".", "!", "?", "…")) or not text else text + "."


def path_words(path: Sequence[object]) -> str:
    """Sizes of a path from teacher to trained model, joined by arrows."""
    return " → ".join(str(size) for size in path)


def knowledge_words(knowledge: Sequence[Knowledge]) -> str:
    """A mixture of knowledge as one phrase.

    >>> from gapkit.knowledge import knowledge_named
    >>> knowledge_words(knowledge_named("kl4"))
    '0.9·kl τ=4 + 0.1·labels'
    """
    return " + ".join(str(part) for part in knowledge if part.weight > 0)


def stage_knowledge(stage: Stage) -> str:
    """What a stage learns from, phase by phase."""
    phrases = [str(phase) for phase in stage.phases]
    if len(phrases) == 1:
        return phrases[0]
    ends = [f"to {phase.until * 100:.0f} %" for phase in stage.phases]
    return ", then ".join(f"{phrase} ({end})" for phrase, end in zip(phrases, ends))


def layer_order(names: Sequence[str]) -> dict[str, float]:
    """Layer -> relative depth from 0 (first) to 1 (last), in the order given."""
    unique = list(dict.fromkeys(names))
    return {name: index / max(1, len(unique) - 1) for index, name in enumerate(unique)}


def short(name: str, width: int = 22) -> str:
    """A long name with its middle left out, its end (which tells layers apart) kept longer.

    >>> short("backbone.encoder.layers.11.attention.output", 20)
    'backbo…ention.output'
    """
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"
