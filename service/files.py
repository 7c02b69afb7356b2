"""Files on this machine: which to transcribe, where their transcripts go, and which of them are there already.

No engine here: `service.command_transcribe` puts both together.
"""

import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speech import audio
from speech.formats import to_srt, to_tsv, to_vtt
from speech.subtitles import Layout, lay_out
from speech.transcribe import Transcription

SUFFIXES = {
    "text": ".txt",
    "json": ".json",
    "srt": ".srt",
    "vtt": ".vtt",
    "tsv": ".tsv",
    "verbose_json": ".verbose.json",
}
"""Of the files that the formats are written to."""

_SUFFIXES = (
    "3g2 3gp aac ac3 aif aifc aiff amr ape asf au avi caf dts eac3 f4v flac flv gsm m2ts m4a m4b m4v mka mkv mov mp2 "
    "mp3 mp4 mpc mpeg mpg mpga mts oga ogg ogv opus ra rm snd spx tta vob voc w64 wav webm wma wmv wv"
)
MEDIA = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""What is looked for in folders. Not `.ts`: most of those are TypeScript; named by itself, any file is tried."""

STDIN = "-"


class InputError(Exception):
    """What was named cannot be transcribed; the message says why."""


@dataclass(frozen=True)
class Input:
    """One file to transcribe."""

    path: Path | None  # None: standard input
    folder: Path = Path()  # between the folder that was named and the file

    def __str__(self) -> str:
        return "standard input" if self.path is None else str(self.path)

    @property
    def stem(self) -> str:
        """What its transcripts are called."""
        return "stdin" if self.path is None else self.path.stem


def find(names: Sequence[str]) -> tuple[list[Input], list[InputError]]:
    """Return what is to be transcribed, each file once, and what could not be found.

    Args:
        names: files, folders (with all below them), patterns (`talks/**/*.mp3`), or `-` for standard input.
    """
    found: dict[Path | None, Input] = {}
    errors = []
    for name in names:
        here = list(_find(name))
        if not here:
            kind = f"no audio or video files in {name}" if Path(name).is_dir() else f"there is no {name}"
            errors.append(InputError(kind))
        for one in here:
            found.setdefault(one.path and one.path.resolve(), one)
    return list(found.values()), errors


def _find(name: str) -> Iterator[Input]:
    path = Path(name)
    if name == STDIN:
        yield Input(None)
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            below = file.relative_to(path)
            hidden = any(part.startswith(".") for part in below.parts)
            if file.suffix.lower() in MEDIA and not hidden and file.is_file():
                yield Input(file, below.parent)
    elif path.exists():
        yield Input(path)
    else:
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        yield from (Input(Path(file)) for file in matches if Path(file).is_file())


def declared_seconds(one: Input) -> float:
    """Return how long a file claims to be, for planning only; 0 where it does not say, or is none."""
    try:
        return 0.0 if one.path is None else audio.declared_seconds(one.path)
    except OSError:
        return 0.0  # whoever decodes it says what is wrong


def outputs(
    inputs: Sequence[Input], formats: Sequence[str], folder: Path | None
) -> tuple[dict[Input, dict[str, Path]], list[InputError]]:
    """Return where each input's transcripts go, by format, and the inputs for which there is no place.

    Args:
        inputs: as found.
        formats: of `SUFFIXES`.
        folder: for all of them, subfolders kept; None for the folder that each input is in.
    """
    places: dict[Input, dict[str, Path]] = {}
    errors = []
    taken: dict[Path, Input] = {}
    for one in inputs:
        beside = Path() if one.path is None else one.path.parent
        where = beside if folder is None else folder / one.folder
        paths = {name: where / f"{one.stem}{SUFFIXES[name]}" for name in formats}
        resolved = [path.resolve() for path in paths.values()]
        rival = next((taken[path] for path in resolved if path in taken), None)
        if rival is not None:
            message = f"its transcript would overwrite that of {rival}; give it an --output-dir of its own"
            errors.append(InputError(f"{one}: {message}"))
        elif one.path is not None and one.path.resolve() in resolved:
            errors.append(InputError(f"{one}: its transcript would overwrite it; name an --output-dir"))
        else:
            taken |= dict.fromkeys(resolved, one)
            places[one] = paths
    return places, errors


def is_done(one: Input, paths: Sequence[Path]) -> bool:
    """Say whether all transcripts are there, and not older than what they are of. `write` leaves no half ones."""
    if one.path is None:
        return False
    changed = one.path.stat().st_mtime
    return all(path.is_file() and path.stat().st_mtime >= changed for path in paths)


def write(path: Path, text: str, *, partly_of: Path | None = None) -> None:
    """Write a file that is never seen half, whatever ends the program.

    Args:
        path: is replaced.
        text: what it holds then.
        partly_of: the file that the transcript is not the whole of: it is dated before it, so it is not done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        if partly_of is not None:
            before = partly_of.stat().st_mtime - 1
            os.utime(partial, (before, before))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def render(result: Transcription, name: str, model: str, layout: Layout, fault: audio.AudioError | None = None) -> str:
    """Return a transcript in one of the formats.

    Args:
        result: what was said.
        name: of `SUFFIXES`. `json` holds the text, its language, the duration and the model's version; `verbose_json`
            also all that is known of each segment, in openai/whisper's names.
        model: the version that said it.
        layout: of subtitles.
        fault: why the end is missing; in the JSON formats, as the service has it.
    """
    match name:
        case "text":
            return result.text + "\n"
        case "srt":
            return to_srt(lay_out(result.segments, layout))
        case "vtt":
            return to_vtt(lay_out(result.segments, layout))
        case "tsv":
            return to_tsv(result.segments)
    body: dict[str, Any] = {
        "text": result.text,
        "language": result.language,
        "duration": round(result.duration, 3),
        "model": model,
        "partial": fault and {"code": fault.code, "message": str(fault), "decoded_seconds": round(result.duration, 3)},
    }
    if name == "verbose_json":
        body["segments"] = [asdict(segment) for segment in result.segments]
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"
