"""Speech without transcripts, with the words that a checkpoint itself hears in it at 30 s.

Recordings of any length become clips with texts, of which a tenth is held out. What to do with them is
`training.elasticize`'s business.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from registry import Version
from speech import vad
from speech.audio import SAMPLE_RATE, AudioError, declared_seconds, stream_audio
from speech.context import ElasticContext
from speech.engine import DecodingResult, Engine, Window, load_engine
from speech.guard import flags, is_spoken
from speech.windows import Slice, cut_stream
from training.data.clips import keep_samples
from training.data.manifest import AudioSlice, Utterance, read_manifest, write_manifest
from training.evaluate import Progress

SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".webm", ".mkv", ".wma", ".aiff", ".aif"}
MIN_S = 0.5
"""Shorter stretches teach nothing."""

WINDOWS_AT_ONCE = 32
OWN_WORDS = "own words"
"""The source of utterances whose text is what the parent heard."""

HELD_OUT = 10
"""One clip of so many is not learned from, but judged by."""


def find_audio(places: Sequence[Path]) -> list[Path]:
    """Return the audio files below folders, and files that are named, in order of their paths."""
    found = [
        file.resolve()
        for place in places
        for file in ([place] if place.is_file() else sorted(place.rglob("*")))
        if file.is_file() and file.suffix.lower() in SUFFIXES
    ]
    return sorted(dict.fromkeys(found))


def hear(
    parent: Version,
    files: Sequence[Path],
    language: str | None,
    target: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> list[Utterance]:
    """Let the parent transcribe, at 30 s; what it is not sure of is not learned from.

    Args:
        parent: the version that listens.
        files: recordings of any length.
        language: of all of them; None: the parent says it of each.
        target: manifest to keep what was heard in, its clips beside it; if it is there, it is read.
        say: called with a line on each recording that was left out, and on the whole.
        progress: shows how far it is, in seconds of audio.
    """
    if target.is_file():
        return read_manifest(target)
    engine = load_engine(parent.path, ElasticContext())
    utterances: list[Utterance] = []
    unreadable: list[str] = []
    doubtful = 0
    with progress("listening at 30 s", sum(map(_seconds, files))) as advance:
        for file in files:
            done_s = 0
            try:
                for place, window, result in _windows(engine, file, language):
                    if is_spoken(result) and not flags(result, None, place):
                        clip = keep_samples(window.audio, SAMPLE_RATE, target.parent / "clips")
                        utterances.append(_utterance(file, place, clip, result))
                    else:
                        doubtful += 1
                    advance(place.end // SAMPLE_RATE - done_s)
                    done_s = place.end // SAMPLE_RATE
            except AudioError as error:
                unreadable.append(f"{file}: {error}")
            advance(max(0, _seconds(file) - done_s))
    for line in unreadable:
        say(f"left out: {line}")
    minutes = sum(u.audio.duration for u in utterances) / 60
    languages = ", ".join(sorted({u.language for u in utterances})) or "none"
    say(f"{len(utterances)} stretches of speech, {minutes:.1f} min, in: {languages}; {doubtful} doubtful left out")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(target, utterances)
    return utterances


def _seconds(file: Path) -> int:
    """Return how long a recording says it is; 0 if it does not."""
    try:
        return round(declared_seconds(file))
    except AudioError:
        return 0


def _windows(engine: Engine, file: Path, language: str | None) -> Iterator[tuple[Slice, Window, DecodingResult]]:
    """Yield the windows of a recording in which somebody speaks, and what the engine hears in each."""
    held: list[tuple[Slice, Window]] = []

    def decode() -> Iterator[tuple[Slice, Window, DecodingResult]]:
        answers = engine.transcribe([window for _, window in held])
        for (place, window), answer in zip(held, answers, strict=True):
            if not isinstance(answer, DecodingResult):
                raise answer
            yield place, window, answer
        held.clear()

    with vad.listen_if(wanted=True) as detector:
        # Cut as for an elastic engine, at the first pause: that is what it will be served.
        for place, audio in cut_stream(stream_audio(file), elastic=True, detector=detector):
            if place.silent or audio.size < MIN_S * SAMPLE_RATE:
                continue
            held.append((place, Window(audio, language, full_context=True)))
            if language is None:  # one language a recording: its first window decides
                found = list(decode())
                language = found[0][2].language
                yield from found
            elif len(held) == WINDOWS_AT_ONCE:
                yield from decode()
    if held:
        yield from decode()


def _utterance(file: Path, place: Slice, clip: Path, result: DecodingResult) -> Utterance:
    content = hashlib.sha256(clip.read_bytes()).hexdigest()
    return Utterance(
        id=f"{file}@{place.start}",
        audio=AudioSlice(path=str(clip), duration=(place.end - place.start) / SAMPLE_RATE, sha256=content),
        text=result.text,
        language=result.language,
        split="dev" if int(content, 16) % HELD_OUT == 0 else "train",
        source=OWN_WORDS,
    )
