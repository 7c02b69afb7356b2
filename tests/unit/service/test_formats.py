"""Subtitles that other programs read."""

from dataclasses import dataclass

import pytest

from service.formats import clock, to_srt, to_tsv, to_vtt


@dataclass
class Said:
    """A stretch of a transcript."""

    start: float
    end: float
    text: str


CUES = [Said(0.0, 1.5, " Buongiorno."), Said(3661.0, 3662.0006, "A ---> B\n\n<i>C</i> & D")]


def test_srt_numbers_its_cues():
    """SubRip: a number, times with a comma, the text on one line, an empty line; no arrow inside the text."""
    assert to_srt(CUES) == (
        "1\n00:00:00,000 --> 00:00:01,500\nBuongiorno.\n\n2\n01:01:01,000 --> 01:01:02,001\nA -> B <i>C</i> & D\n\n"
    )


def test_vtt_escapes_its_text():
    """WebVTT: its header, times with a point, and no markup from what was said."""
    assert to_vtt(CUES) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nBuongiorno.\n\n"
        "01:01:01.000 --> 01:01:02.001\nA -&gt; B &lt;i&gt;C&lt;/i&gt; &amp; D\n\n"
    )


def test_tsv_has_a_line_a_cue():
    """openai/whisper's: times in milliseconds, and no tab in what was said."""
    assert to_tsv([Said(0.0, 1.5, " Buongiorno."), Said(61.0, 62.0006, "A\tB")]) == (
        "start\tend\ttext\n0\t1500\tBuongiorno.\n61000\t62001\tA B\n"
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\u2028"])
def test_tsv_keeps_a_cue_on_its_line(end):
    """A line that ends in a text would be a cue without times."""
    assert to_tsv([Said(0.0, 1.0, f"A{end}B")]) == "start\tend\ttext\n0\t1000\tA B\n"


def test_nothing_said_is_a_file_without_cues():
    """Silence is an empty SubRip file, and WebVTT and tab-separated files of their headers."""
    assert (to_srt([]), to_vtt([]), to_tsv([])) == ("", "WEBVTT\n\n", "start\tend\ttext\n")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "00:00:00.000"), (59.9996, "00:01:00.000"), (360_000.0, "100:00:00.000")]
)
def test_times_carry_over(seconds, shown):
    """Rounding to a full second makes the next minute, and days stay hours."""
    assert clock(seconds, ".") == shown
