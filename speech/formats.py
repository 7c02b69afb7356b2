"""A transcript as text files that other programs read: SubRip, WebVTT and openai/whisper's TSV.

How a transcript becomes cues of lines is `speech.subtitles`' business.
"""

import re
from collections.abc import Sequence

from speech.subtitles import Cue
from speech.transcribe import Segment


def to_srt(cues: Sequence[Cue]) -> str:
    """Return SubRip: numbered cues, a comma before the milliseconds."""
    return "".join(
        f"{i}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n{_payload(cue)}\n\n" for i, cue in enumerate(cues, 1)
    )


def to_vtt(cues: Sequence[Cue]) -> str:
    """Return WebVTT (https://www.w3.org/TR/webvtt1)."""
    lines = [f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{_escape(_payload(cue))}\n\n" for cue in cues]
    return "WEBVTT\n\n" + "".join(lines)


def to_tsv(segments: Sequence[Segment]) -> str:
    """Return openai/whisper's TSV: a header, then each segment's start and end in milliseconds, and its text."""
    rows = [f"{_ms(said.start)}\t{_ms(said.end)}\t{' '.join(said.text.split())}\n" for said in segments]
    return "start\tend\ttext\n" + "".join(rows)


def clock(seconds: float, point: str) -> str:
    """Return hours, minutes, seconds and milliseconds: 01:02:03.004."""
    minutes, ms = divmod(_ms(seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def _payload(cue: Cue) -> str:
    # An empty line would end the cue, and an arrow would begin another.
    lines = (" ".join(line.split()) for line in cue.lines)
    return re.sub("-{2,}>", "->", "\n".join(line for line in lines if line))


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
