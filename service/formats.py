"""A transcript as subtitles."""

import re
from collections.abc import Sequence
from typing import Protocol


class Cue(Protocol):
    """A stretch of a transcript; times in seconds."""

    @property
    def start(self) -> float: ...  # noqa: D102
    @property
    def end(self) -> float: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102


def to_srt(cues: Sequence[Cue]) -> str:
    """Return SubRip: numbered cues, a comma before the milliseconds."""
    return "".join(
        f"{i}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n{_cue_text(cue)}\n\n" for i, cue in enumerate(cues, 1)
    )


def to_vtt(cues: Sequence[Cue]) -> str:
    """Return WebVTT (https://www.w3.org/TR/webvtt1)."""
    lines = [f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{_escape(_cue_text(cue))}\n\n" for cue in cues]
    return "WEBVTT\n\n" + "".join(lines)


def to_tsv(cues: Sequence[Cue]) -> str:
    """Return openai/whisper's tab-separated values: start and end in milliseconds, and the text."""
    lines = [f"{_ms(cue.start)}\t{_ms(cue.end)}\t{' '.join(cue.text.split())}\n" for cue in cues]
    return "start\tend\ttext\n" + "".join(lines)


def clock(seconds: float, point: str) -> str:
    """Return hours, minutes, seconds and milliseconds: 01:02:03.004."""
    minutes, ms = divmod(_ms(seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def _cue_text(cue: Cue) -> str:
    # An empty line would end the cue, and an arrow would begin another.
    return re.sub("-{2,}>", "->", " ".join(cue.text.split()))


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
