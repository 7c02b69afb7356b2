"""What users corrected in the service: clips with what was really said, from the database that it keeps them in.

Clips become files of the cache, named by what is in them; those that were deleted from the database leave it at the
next reading. It never writes the database. What a correction is for is decided by `prepare`: never for the test set.
"""

import hashlib
import os
from pathlib import Path

from corrections import CorrectionsError, CorrectionStore, NewerDatabaseError
from training.data.checks import CountTokens, Row, admit
from training.data.clips import keep_bytes, place_of_bytes
from training.data.manifest import CORRECTIONS, Utterance
from training.data.report import Dropped
from training.data.sources.config import CorrectionsSource
from training.data.sources.rows import SourceError

ENVIRONMENT = "WHISPERLOOP_CORRECTIONS"
CLIP = "clip.flac"


def read_corrections(
    source: CorrectionsSource, cache: Path, *, count_tokens: CountTokens | None = None
) -> tuple[list[Utterance], list[Dropped]]:
    """Read all corrections, the oldest first.

    Args:
        source: what to read.
        cache: folder for the clips of all databases.
        count_tokens: see `checks.admit`.

    Returns:
        Utterances with absolute audio paths, and corrections that cannot be learned from.

    Raises:
        SourceError: no database is named, or it cannot be read.
    """
    url = source.url or os.environ.get(ENVIRONMENT, "")
    if not url:
        raise SourceError(f"corrections: name the database, by `url` or by {ENVIRONMENT}, as the service's is named")
    try:
        store = CorrectionStore(url, must_exist=True)
        folder = cache / hashlib.sha256(store.name.encode()).hexdigest()[:12]
        rows: list[Row] = []
        there: set[Path] = set()
        for one in store.all():  # of all languages: what is not among them was deleted
            there.add(place_of_bytes(one.audio, CLIP, folder))
            if source.language in {None, one.language}:
                rows.append(
                    Row(
                        id=f"{CORRECTIONS}/{one.id}",
                        path=keep_bytes(one.audio, CLIP, folder).resolve(),
                        text=one.correction,
                        language=one.language,
                        source=CORRECTIONS,
                        speaker=one.speaker,
                        no_speech=not one.correction,
                    )
                )
        store.close()
    except (CorrectionsError, NewerDatabaseError) as error:
        raise SourceError(str(error)) from error
    _forget_others(folder, there)
    utterances, dropped = admit(rows, count_tokens=count_tokens)
    # Users send what they like: one that cannot be learned from is left out, and no fault that stops the others.
    return utterances, [one.model_copy(update={"by_source_rule": True}) for one in dropped]


def _forget_others(folder: Path, kept: set[Path]) -> None:
    for path in folder.glob("*/*.flac"):
        if path not in kept:
            path.unlink()
