"""Data sets of the Hugging Face Hub, in parquet, through the `datasets` library: mapped from the disk or streamed.

Audio that lies in a table's rows is written to files once, as it is, and decoded by `speech.audio` as all other audio
is: `datasets`' own decoder is not needed. What was read of a split is listed beside them, so that a second reading
needs no network and an interrupted one goes on. A token is found by the Hub's client itself, in the environment or the
Hub's login; it passes through nothing here.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speech.audio import declared_seconds
from training.data.checks import CountTokens, Row, admit
from training.data.clips import keep_bytes, keep_samples
from training.data.manifest import SplitName, Utterance
from training.data.report import Dropped
from training.data.sources.config import HubSource
from training.data.sources.rows import SPEAKER_COLUMNS, SPLIT_NAMES, TEXT_COLUMNS, SourceError, short_language

logger = logging.getLogger(__name__)

# Written as people write comes before lower case without punctuation, where a data set has both.
HUB_TEXT_COLUMNS = ("raw_transcription", *TEXT_COLUMNS, "raw_text", "normalized_text")
SENTENCE_COLUMNS = ("sentence_id",)
AUDIO_COLUMNS = ("audio", "file", "path")


@dataclass(frozen=True)
class Columns:
    """What is read of a table; the other columns are left where they are."""

    audio: str
    text: str
    speaker: str | None
    sentence: str | None
    language: str | None

    @property
    def wanted(self) -> list[str]:
        """Their names."""
        return [name for name in (self.audio, self.text, self.speaker, self.sentence, self.language) if name]

    def __str__(self) -> str:
        """Say what was found, as it is printed."""
        return (
            f"audio from column {self.audio!r}, transcripts from {self.text!r}, "
            f"speakers from {self.speaker or 'none'}, sentences from {self.sentence or 'none'}"
        )


def read_hub(
    source: HubSource, cache: Path, *, seed: int, count_tokens: CountTokens | None = None
) -> tuple[list[Utterance], list[Dropped]]:
    """Read the splits that the source names.

    Args:
        source: what to read.
        cache: folder for the clips and for what was read of each split.
        seed: of the draw, where `max_clips` or `max_hours` takes a part.
        count_tokens: see `checks.admit`.

    Returns:
        Utterances with absolute audio paths, and the rows left out. An id is the data set's name, its split and the
        hash of the clip, so the same sound in two rows is one utterance, and a second transcript of it is reported.

    Raises:
        SourceError: no such data set, configuration, split or column, or no way to it.
    """
    rows: list[Row] = []
    dropped: list[Dropped] = []
    for split, use in _splits(source, cache):
        listing = _listing(source, split, seed, cache)
        for number, entry in enumerate(_read_split(source, split, seed, listing, cache), start=1):
            if "fault" in entry:
                where = f"{_name(source)}/{split}:{number}"
                detail = entry["detail"]
                dropped.append(Dropped(id=where, source=_name(source), reason=entry["fault"], detail=detail))
                continue
            clip = cache / entry["clip"]
            rows.append(
                Row(
                    id=f"{_name(source)}/{split}/{clip.stem[:16]}",
                    path=clip,
                    text=entry["text"],
                    language=short_language(entry["language"]) if source.language_column else source.language,
                    source=_name(source),
                    speaker=entry["speaker"],
                    sentence_id=entry["sentence"],
                    split=use,
                )
            )
    utterances, faulty = admit(rows, count_tokens=count_tokens)
    return utterances, dropped + faulty


def _name(source: HubSource) -> str:
    where = source.dataset or (source.path or Path()).resolve().name
    return "hub:" + where + (f":{source.config}" if source.config else "")


def _splits(source: HubSource, cache: Path) -> list[tuple[str, SplitName | None]]:
    """Return the splits to read, and what their clips are for."""
    if source.split is not None:
        return [(source.split, source.use)]
    listing = cache / "splits" / f"{_key(source)}.json"
    if not listing.is_file():
        from datasets import get_dataset_split_names

        with _explained(source):
            names = get_dataset_split_names(_where(source), source.config, revision=source.revision)
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(json.dumps(names), encoding="utf-8")
    found = json.loads(listing.read_text(encoding="utf-8"))
    known: list[tuple[str, SplitName | None]] = [(name, SPLIT_NAMES[name]) for name in found if name in SPLIT_NAMES]
    if not known:
        raise SourceError(f"{_name(source)} has the splits {', '.join(found)}: say with split which one to read")
    return known


def _where(source: HubSource) -> str:
    if source.dataset is not None:
        if Path(source.dataset).exists():  # `datasets` would read that one
            raise SourceError(f"{source.dataset} is a folder here, too: give it as path, or start from another folder")
        return source.dataset
    path = (source.path or Path()).resolve()
    if not path.is_dir():
        raise SourceError(f"{path}: no folder there")
    return str(path)


@contextmanager
def _explained(source: HubSource) -> Iterator[None]:
    """Turn what `datasets` and the Hub's client say into one clear error."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except SourceError:
        raise
    except (OSError, RuntimeError, ValueError, DatasetsError) as error:
        raise SourceError(f"{_name(source)}: {_advice(source, error)}") from error


def _advice(source: HubSource, error: Exception) -> str:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import get_token

    said = str(error)
    if token := get_token():
        said = said.replace(token, "…")
    if "scripts are no longer supported" in said:
        return (
            f"{said}. Nobody runs a stranger's script any more. Most such data sets have a copy in parquet: take the "
            "last commit of the branch refs/convert/parquet as revision"
        )
    if (source.dataset or "").startswith("mozilla-foundation/common_voice"):
        return (
            f"{said} Common Voice has left the Hub: download a release from Mozilla Data Collective and read it with "
            'kind = "common_voice"'
        )
    if isinstance(error, DatasetNotFoundError):
        return (
            f"{said} If it is private or gated, accept its terms on its page, and set HF_TOKEN in the environment "
            "or run `hf auth login`"
        )
    return said


def _key(source: HubSource, *more: object) -> str:
    """Name what was read by all that decides about it."""
    settings = source.model_dump(mode="json", exclude={"weight", "use", "language"})
    state = []
    if source.path is not None:
        files = sorted(source.path.resolve().rglob("*.parquet"))
        state = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    content = json.dumps([settings, state, more], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _listing(source: HubSource, split: str, seed: int, cache: Path) -> Path:
    draws = source.max_clips is not None or source.max_hours is not None
    return cache / "rows" / f"{_key(source, split, seed if draws else None)}.jsonl"


def _read_split(source: HubSource, split: str, seed: int, listing: Path, cache: Path) -> list[dict[str, Any]]:
    """Return a split's rows, each with where its clip was written to or why it has none."""
    done = listing.with_suffix(".complete")
    entries = _read_listing(listing, cache)
    if done.is_file() and len(entries) == int(done.read_text()):
        return entries
    done.unlink(missing_ok=True)
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    seconds = sum(entry.get("seconds", 0.0) for entry in entries)
    if entries:
        logger.info("%s/%s: going on after %d rows", _name(source), split, len(entries))
    with listing.open("a", encoding="utf-8") as file:
        rows = _rows(source, split, seed, cache, skip=len(entries))
        while not _is_full(source, entries, seconds):
            with _explained(source):
                row = next(rows, None)
            if row is None:
                break
            entry = _keep(row, cache)
            entries.append(entry)
            seconds += entry.get("seconds", 0.0)
            file.write(json.dumps(entry) + "\n")
            file.flush()
    done.write_text(str(len(entries)))
    return entries


def _read_listing(listing: Path, cache: Path) -> list[dict[str, Any]]:
    """Return the rows that are whole: up to a line that was cut off, or whose clip is gone."""
    entries: list[dict[str, Any]] = []
    if not listing.is_file():
        return entries
    for line in listing.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if "clip" in entry and not (cache / entry["clip"]).is_file():
            break
        entries.append(entry)
    return entries


def _is_full(source: HubSource, entries: list[dict[str, Any]], seconds: float) -> bool:
    too_many = source.max_clips is not None and sum("clip" in entry for entry in entries) >= source.max_clips
    return too_many or (source.max_hours is not None and seconds >= 3600 * source.max_hours)


@dataclass(frozen=True)
class _Cells:
    audio: Any
    text: str
    speaker: str | None
    sentence: str | None
    language: str | None


def _rows(source: HubSource, split: str, seed: int, cache: Path, *, skip: int) -> Iterator[_Cells]:
    """Yield the rows of a split after the first ones, audio as it lies in the table."""
    from datasets import Audio, ClassLabel, load_dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    options = {"split": split, "revision": source.revision, "streaming": source.streaming}
    data = load_dataset(_where(source), source.config, **options, cache_dir=str(cache / "datasets"))
    columns = _choose_columns(source, dict(data.features or {}))
    logger.info("%s/%s: %s", _name(source), split, columns)
    features = data.features
    if isinstance(features[columns.audio], Audio):
        data = data.cast_column(columns.audio, Audio(decode=False))
    data = data.select_columns(columns.wanted)
    if source.max_clips is not None or source.max_hours is not None:
        buffer = {"buffer_size": source.shuffle_buffer} if source.streaming else {}
        data = data.shuffle(seed=seed, **buffer)
    data = data.skip(skip)

    def cell(row: dict[str, Any], column: str | None) -> str | None:
        value = row[column] if column else None
        if value is None:
            return None
        return str(features[column].int2str(value) if isinstance(features[column], ClassLabel) else value)

    for row in data:
        yield _Cells(
            audio=row[columns.audio],
            text=(cell(row, columns.text) or "").strip(),
            speaker=cell(row, columns.speaker),
            sentence=cell(row, columns.sentence),
            language=cell(row, columns.language),
        )


def _keep(row: _Cells, cache: Path) -> dict[str, Any]:
    """Write a row's clip, and return its line of the listing."""
    audio = row.audio
    if isinstance(audio, bytes):
        audio = {"bytes": audio}
    if not isinstance(audio, dict):
        return {"fault": "no_audio", "detail": f"the row holds no sound, but {type(audio).__name__}"}
    if audio.get("bytes"):
        clip = keep_bytes(audio["bytes"], audio.get("path"), cache / "clips")
    elif audio.get("array") is not None and audio.get("sampling_rate"):
        samples = np.asarray(audio["array"], np.float32)
        if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
            return {"fault": "undecodable", "detail": f"no samples of one channel: shape {samples.shape}"}
        clip = keep_samples(samples, int(audio["sampling_rate"]), cache / "clips")
    else:
        # A path in a table that came from elsewhere is not followed.
        return {
            "fault": "no_audio",
            "detail": f"the row holds no sound, only the name {audio.get('path')!r}: is it parquet?",
        }
    return {
        "clip": clip.relative_to(cache).as_posix(),
        "seconds": declared_seconds(io.BytesIO(clip.read_bytes())),
        "text": row.text,
        "speaker": row.speaker,
        "sentence": row.sentence,
        "language": row.language,
    }


def _choose_columns(source: HubSource, features: dict[str, Any]) -> Columns:
    """Find the columns by name and, audio, by type, or take those that the source names.

    Raises:
        SourceError: one that is named or needed is not there; the message lists those that are.
    """
    from datasets import Audio

    def named(asked: str | None, candidates: tuple[str, ...]) -> str | None:
        if asked is not None and asked not in features:
            raise SourceError(f"{_name(source)} has no column {asked!r}, only {', '.join(features)}")
        return asked or next((name for name in candidates if name in features), None)

    by_type = tuple(name for name, feature in features.items() if isinstance(feature, Audio))
    if source.audio_column is None and len(by_type) > 1:
        raise SourceError(f"{_name(source)} has sound in {', '.join(by_type)}: say with audio_column which one to read")
    audio = named(source.audio_column, (*by_type, *AUDIO_COLUMNS))
    text = named(source.text_column, HUB_TEXT_COLUMNS)
    for column, setting in ((audio, "audio_column"), (text, "text_column")):
        if column is None:
            raise SourceError(f"{_name(source)}: say with {setting} which of {', '.join(features)} it is")
    return Columns(
        audio=str(audio),
        text=str(text),
        speaker=named(source.speaker_column, SPEAKER_COLUMNS),
        sentence=named(source.sentence_column, SENTENCE_COLUMNS),
        language=named(source.language_column, ()),
    )
