"""How far what takes long has come: in a log, lines that are seldom; in a terminal, a bar."""

import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from registry import report


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that is set by hand."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(report, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def _terminal(monkeypatch):
    """Let every console be a terminal."""
    monkeypatch.setattr(Console, "is_terminal", True)


def test_a_log_gets_a_line_every_half_minute(clock, capsys):
    """However often something is read; each says how much there is, and how long the rest will take."""
    with report.bar("publishing", 100_000_000) as progress:
        for seconds in (10, 29, 31, 45, 60.5, 62, 90):
            clock.now = 100 + seconds
            progress(10_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "publishing: 30.0 MB of 100.0 MB, 72 s left",
        "publishing: 60.0 MB of 100.0 MB, 41 s left",
    ]


def test_what_is_soon_done_is_no_line(clock, capsys):
    """A file that is checked in a second fills no log, nor does one of which nothing has been read."""
    with report.bar("checking", 10) as progress:
        progress(10)
    clock.now += 60
    with report.bar("checking", 10) as progress:
        clock.now += 60
        progress(0)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def told(clock, monkeypatch):
    """Return the lines that are said, half a minute apart by the clock alone, and what the third one sets."""
    lines, third = [], threading.Event()

    def say(line):
        lines.append(line)
        clock.now += 30
        if len(lines) == 3:
            third.set()

    monkeypatch.setattr(report, "say", say)
    monkeypatch.setattr(report, "PRINT_EVERY_S", 0.01)
    return lines, third


def test_a_stage_is_a_line_and_still_goes_on(told):
    """What has no known length says that it begins, and then, until it ends, for how long it has gone on."""
    lines, third = told
    n_threads = threading.active_count()
    with report.stage("downloading"):
        assert third.wait(60)
    assert lines[:3] == ["downloading", "downloading: 30 s so far", "downloading: 60 s so far"]
    assert threading.active_count() == n_threads


def test_a_stage_that_fails_ends_its_lines(told):
    """An error is the last thing that is heard of it."""
    lines, third = told
    n_threads = threading.active_count()

    def fail():
        with report.stage("reading"):
            assert third.wait(60)
            raise ValueError("no model")

    with pytest.raises(ValueError, match="no model"):
        fail()
    assert len(lines) >= 3
    assert threading.active_count() == n_threads


@pytest.mark.usefixtures("_terminal")
def test_a_terminal_gets_a_bar_and_no_lines(clock, capsys):
    """Whoever looks at a bar needs no lines below it; that a stage begins is said there, too, once."""
    with report.stage("reading"), report.bar("publishing", 100) as progress:
        for _ in range(3):
            clock.now += 60
            progress(10)
    told = capsys.readouterr().err
    assert told.count("reading") == 1
    assert "left" not in told
