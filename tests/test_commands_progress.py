"""Progress goes to standard error: plain lines, few of them; a bar in a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from gapkit.commands import progress
from gapkit.commands.progress import QUIET_SECONDS, Progress


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        assert form == "%H:%M:%S"
        return "10:00:00"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def said(text: str) -> list[str]:
    """The lines without the time that each begins with."""
    lines = text.splitlines()
    assert all(line.startswith("10:00:00 ") for line in lines)
    return [line.removeprefix("10:00:00 ") for line in lines]


def test_phases_are_said_once_with_their_seconds_and_nothing_on_standard_output(clock, capsys):
    with Progress() as heard:
        heard("measure", 0, 3, "train")
        clock.now += 2
        heard("measure", 1, 3, "train")
        heard("plan", 0, 5, "16 → 2 by kl1")
        clock.now += 3.4
    out, err = capsys.readouterr()
    assert out == ""
    assert said(err) == [
        "measuring: train",
        "measuring: done in 2 s",
        "planning: 16 → 2 by kl1",
        "planning: done in 3 s",
    ]


def test_lines_are_rare_and_say_how_long_is_left(clock, capsys):
    with Progress() as heard:
        for step in range(40):
            heard("diagnose", step, 40, f"seed {step}")
            clock.now += 1
    lines = said(capsys.readouterr().err)
    assert lines[0] == "diagnosing: seed 0"
    assert lines[1:-1] == [
        f"diagnosing: seed {step} (about {40 - step} s left)" for step in (11, 22, 33)
    ]
    assert lines[-1] == "diagnosing: done in 40 s"
    assert QUIET_SECONDS == 10


def test_the_same_words_are_not_repeated(clock, capsys):
    with Progress() as heard:
        for _ in range(5):
            heard("distill", 1, 3, "student, seed 0")
            clock.now += 60
    assert said(capsys.readouterr().err) == [
        "distilling: student, seed 0",
        "distilling: done in 300 s",
    ]


def test_time_left_is_never_negative(clock, capsys):
    with Progress() as heard:
        heard("plan", 0, 2, "a")
        clock.now += 20
        heard("plan", 5, 2, "b")
    assert "planning: b (about 0 s left)" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_phase_that_fails_is_not_called_done(clock, capsys, error):
    with pytest.raises(error), Progress() as heard:  # noqa: PT012
        heard("measure", 0, 3, "train")
        clock.now += 4
        raise error
    assert said(capsys.readouterr().err) == [
        "measuring: train",
        "measuring: stopped after 4 s",
    ]


def test_nothing_heard_is_nothing_said(capsys):
    with Progress():
        pass
    assert capsys.readouterr() == ("", "")


def test_an_unknown_phase_goes_by_its_own_name(clock, capsys):
    with Progress() as heard:
        heard("export", 0, 1, "weights")
    assert said(capsys.readouterr().err) == ["export: weights", "export: done in 0 s"]


def test_a_terminal_gets_a_bar_that_goes_away_and_lines_that_stay(monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as heard:
        heard("measure", 0, 2, "train")
        heard("measure", 1, 2, "test")
        heard("plan", 1, 4, "[b] → 2")  # square brackets are no markup
        heard._bar.refresh()
    shown = screen.getvalue()
    assert "[b] → 2" in shown
    assert "measuring: done in 0 s" in shown
    assert "planning: done in 0 s" in shown
    assert capsys.readouterr().out == ""


def test_several_phases_have_a_bar_of_their_own_above(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(("measure", "diagnose", "plan", "distill")) as heard:
        heard("diagnose", 2, 4, "seed 1")
        whole = next(task for task in heard._bar.tasks if task.id == heard._whole)
        assert (whole.completed, whole.total) == (1.5, 4)
        heard._bar.refresh()
        heard("prepare", 0, 1, "not among those announced")
        whole = next(task for task in heard._bar.tasks if task.id == heard._whole)
        assert whole.completed == 1.5
        heard("distill", 1, 2, "student")
        heard("measure", 0, 3, "what was distilled")
        whole = next(task for task in heard._bar.tasks if task.id == heard._whole)
        assert whole.completed == 3.5  # a step within a later one takes nothing back
    assert "step 2 of 4" in screen.getvalue()


def test_a_bar_is_taken_down_after_an_exception(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    shown = Progress()
    with pytest.raises(KeyError), shown as heard:  # noqa: PT012
        heard("measure", 0, 2, "train")
        raise KeyError
    assert shown._bar.finished or not shown._bar.live.is_started
    assert "stopped after" in screen.getvalue()


def test_time_left_goes_by_what_was_trained_and_not_by_what_was_there(clock, capsys):
    with Progress() as heard:
        for seed in range(8):  # finished before
            heard("distill", seed, 10, f"student, seed {seed}")
            clock.now += 0.01
        heard("distill", 8, 10, "student, seed 8")
        for epoch in range(1, 3):
            clock.now += 15
            heard("distill", 8 + epoch / 4, 10, f"student, seed 8: loss {epoch}")
    lines = said(capsys.readouterr().err)
    assert lines[1:3] == [
        "distilling: student, seed 8: loss 1 (about 105 s left)",
        "distilling: student, seed 8: loss 2 (about 90 s left)",
    ]


def test_no_time_left_is_said_while_nothing_was_trained(clock, capsys):
    with Progress() as heard:
        heard("plan", 0, 10, "a")
        clock.now += 0.01
        heard("plan", 6, 10, "b")
        clock.now += 30
        heard("plan", 6, 10, "b: as long as nothing is done")
    assert "left" not in capsys.readouterr().err


def test_the_bar_says_the_same_time_left(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as heard:
        heard("plan", 0, 4, "a")
        clock.now += 65
        heard("plan", 2, 4, "a: half")
        assert heard._bar.tasks[0].fields["left"] == "1:05"
