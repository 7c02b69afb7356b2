"""Transcripts that other programs read."""

import pytest

from speech.formats import clock, to_srt, to_tsv, to_vtt
from speech.subtitles import Cue
from speech.transcribe import Segment

CUES = [Cue(0.0, 1.5, ("Buongiorno,", "dottore.")), Cue(3661.0, 3662.0006, ("A ---> B", "<i>C</i> & D"))]


def segment(start, end, text):
    """Make a segment of which only these matter."""
    return Segment(0, start, end, text, avg_logprob=-0.1, no_speech_prob=0.0, compression_ratio=1.0, tokens=())


def test_srt_numbers_its_cues():
    """SubRip: a number, times with a comma, the lines, an empty line; no arrow inside the text."""
    assert to_srt(CUES) == (
        "1\n00:00:00,000 --> 00:00:01,500\nBuongiorno,\ndottore.\n\n"
        "2\n01:01:01,000 --> 01:01:02,001\nA -> B\n<i>C</i> & D\n\n"
    )


def test_vtt_escapes_its_text():
    """WebVTT: its header, times with a point, and no markup from what was said."""
    assert to_vtt(CUES) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nBuongiorno,\ndottore.\n\n"
        "01:01:01.000 --> 01:01:02.001\nA -&gt; B\n&lt;i&gt;C&lt;/i&gt; &amp; D\n\n"
    )


@pytest.mark.parametrize("write", [to_srt, to_vtt])
def test_no_line_ends_a_cue(write):
    """A line of nothing, or one with a line end in it, would make the rest of the text no text."""
    assert "\n\n" not in write([Cue(0.0, 1.0, ("a\n\nb", " ", "c"))]).removeprefix("WEBVTT\n\n").removesuffix("\n\n")


def test_tsv_is_as_openai_whisper_writes_it():
    """A header, whole milliseconds, a segment a line; tabs and line ends in the text are blanks."""
    assert to_tsv([segment(0.0, 1.2345, " Uno\tdue\n tre"), segment(3661.0, 3662.0, "<b> & -->")]) == (
        "start\tend\ttext\n0\t1234\tUno due tre\n3661000\t3662000\t<b> & -->\n"
    )


def test_nothing_said_is_a_file_without_cues():
    """Silence is an empty SubRip file, and the header alone elsewhere."""
    assert (to_srt([]), to_vtt([]), to_tsv([])) == ("", "WEBVTT\n\n", "start\tend\ttext\n")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "00:00:00.000"), (59.9996, "00:01:00.000"), (360_000.0, "100:00:00.000")]
)
def test_times_carry_over(seconds, shown):
    """Rounding to a full second makes the next minute, and days stay hours."""
    assert clock(seconds, ".") == shown
