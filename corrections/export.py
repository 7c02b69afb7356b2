"""Corrections as files: a folder in the form of Hugging Face's audiofolder, which every trainer reads.

Each row is given for training: a correction is what a model got wrong, and is never judged by, wherever it goes.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from corrections.store import Correction

METADATA = "metadata.jsonl"


def file_name(correction: Correction) -> str:
    """Return where a correction's FLAC lies in the folder."""
    return f"audio/{correction.id}.flac"


def metadata(correction: Correction) -> dict[str, Any]:
    """Return a correction's row: audiofolder's `file_name` and `text`, and what else is known."""
    return {
        "file_name": file_name(correction),
        "text": correction.correction,
        "no_speech": not correction.correction,
        "language": correction.language,
        "split": "train",  # else, the trainer that reads the folder would draw a test set from it
        "hypothesis": correction.hypothesis,
        "model": correction.model,
        "speaker": correction.speaker,
        "key": correction.key,
        "seconds": correction.seconds,
        "created_at": correction.created_at,
        "updated_at": correction.updated_at,
    }


def line(correction: Correction) -> str:
    """Return it as a line of `METADATA`."""
    return json.dumps(metadata(correction), ensure_ascii=False) + "\n"


def write_folder(corrections: Iterable[Correction], folder: Path) -> Iterator[Correction]:
    """Write corrections into a folder, and yield each when it is there; the table is written last, and in one step."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    lines = []
    for correction in corrections:
        path = folder / file_name(correction)
        partial = path.with_suffix(".part")
        partial.write_bytes(correction.audio)
        partial.replace(path)
        lines.append(line(correction))
        yield correction
    partial = folder / f"{METADATA}.part"
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(folder / METADATA)
