"""A manifest of NVIDIA NeMo: JSON lines that name a file, how long it is, and what is said in it.

A line may mean a stretch of a longer file, which is then cut out. Tarred shards are not read.
"""

import json
import math
from pathlib import Path
from typing import Any

from training.data.checks import CountTokens, Row, admit
from training.data.manifest import Utterance
from training.data.report import Dropped
from training.data.sources.config import NemoSource
from training.data.sources.rows import SourceError, UnusableRowError, locate, read_lines, short_language

LANGUAGE_KEYS = ("lang", "language", "target_lang")


def read_nemo(
    source: NemoSource, clips: Path, *, count_tokens: CountTokens | None = None
) -> tuple[list[Utterance], list[Dropped]]:
    """Read every line of a manifest.

    Args:
        source: what to read.
        clips: folder for the stretches of longer files.
        count_tokens: see `checks.admit`.

    Returns:
        Utterances with absolute audio paths, and the lines left out.

    Raises:
        SourceError: no such file, or a manifest of tarred shards.
    """
    root = (source.root or source.path.parent).resolve()
    name = f"nemo:{source.path.name}"
    rows: list[Row] = []
    dropped: list[Dropped] = []
    for number, line in enumerate(read_lines(source.path), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_to_row(source, root, name, line))
        except UnusableRowError as error:
            where = f"{source.path.name}:{number}"
            dropped.append(Dropped(id=where, source=name, reason=error.reason, detail=error.detail))
    utterances, faulty = admit(rows, count_tokens=count_tokens, clips=clips)
    return utterances, dropped + faulty


def _to_row(source: NemoSource, root: Path, name: str, line: str) -> Row:
    """Return what a line says, or raise `UnusableRowError`."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UnusableRowError("malformed_row", f"no JSON: {error}") from error
    if not isinstance(values, dict):
        raise UnusableRowError("malformed_row", "no JSON object")
    if "shard_id" in values:
        raise SourceError(
            f"{source.path} names clips inside tarred shards (shard_id), which are not read here: "
            "unpack the shards, or give the manifest that they were made from"
        )
    file = values.get("audio_filepath")
    text = values.get(source.text_column, "")
    if not isinstance(file, str) or not isinstance(text, str):
        raise UnusableRowError("malformed_row", f"audio_filepath or {source.text_column} is no text")
    offset, duration = _seconds(values, "offset"), _seconds(values, "duration")
    path = locate(root, root, file, absolute=True)
    stretch = f"@{offset:g}" if offset else ""
    languages = (values[key] for key in LANGUAGE_KEYS if isinstance(values.get(key), str) and values[key])
    speaker = values.get("speaker")
    return Row(
        id=f"{source.path.stem}/{path.relative_to(root).as_posix()}{stretch}",
        path=path,
        text=text.strip(),
        language=short_language(next(languages, None)) or source.language,
        source=name,
        speaker=None if speaker is None else str(speaker),
        offset=offset or 0.0,
        duration=duration,
    )


def _seconds(values: dict[str, Any], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UnusableRowError("malformed_row", f"{key} is no length in seconds: {value!r}")
    return float(value)
