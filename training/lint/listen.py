"""What the base hears in each clip, and how sure it is; kept, so that nothing is listened to twice.

The cache is by audio, not by transcript: who corrects transcripts and lints again waits for nothing. Each answer is
written as soon as it is there, so an interrupted lint goes on where it was.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from registry import Version
from speech.context import ElasticContext
from speech.engine import Engine, load_engine
from speech.transcribe import Options, Transcription, transcribe_many
from training.data.manifest import Utterance, load_audio
from training.evaluate import Progress

CLIPS_AT_ONCE = 16


class Heard(BaseModel):
    """What the base heard in one clip.

    Attributes:
        key: of the audio; see `audio_key`.
        text: the hypothesis, decoded once and greedily.
        avg_logprob: natural logarithm, mean over all tokens; 0.0 where nothing was heard.
        no_speech_prob: the highest of the clip's windows; 1.0 where the voice detector heard nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    text: str
    avg_logprob: float
    no_speech_prob: float


def audio_key(utterance: Utterance) -> str:
    """Return what the base's answer depends on: the audio, the stretch of it, and the language."""
    audio = utterance.audio
    return f"{audio.sha256}:{audio.offset:.3f}:{audio.duration:.3f}:{utterance.language}"


def choose(utterances: Sequence[Utterance], limit: int) -> list[Utterance]:
    """Return at most `limit` utterances to listen to: the held-out ones first, as the gate judges by them.

    Which ones depends on their audio only: the same in every order, and hardly others when clips are added.
    """

    def order(utterance: Utterance) -> tuple[bool, bytes]:
        return utterance.split == "train", hashlib.sha256(audio_key(utterance).encode()).digest()

    chosen = {u.id for u in sorted(utterances, key=order)[:limit]}
    return [u for u in utterances if u.id in chosen]


def listen(
    version: Version, utterances: Sequence[Utterance], audio_root: Path, cache: Path, progress: Progress
) -> dict[str, Heard]:
    """Return what a version hears, by the utterances' ids.

    Args:
        version: of the base.
        utterances: to listen to; each in its own language.
        audio_root: what relative audio paths start from.
        cache: folder for the answers.
        progress: shows how far it is.
    """
    path = cache / f"{version.name}-{version.id}-{version.manifest_sha256()[:8]}.jsonl"
    known = _read(path)
    missing = sorted(
        {audio_key(u): u for u in utterances if audio_key(u) not in known}.values(), key=lambda u: u.audio.duration
    )
    if missing:
        engine = load_engine(version.path, ElasticContext.from_manifest(version.manifest.context))
        path.parent.mkdir(parents=True, exist_ok=True)
        with progress(f"listening with {version.ref}", len(missing)) as advance:
            _listen(engine, missing, audio_root, path, advance)
        known = _read(path)
    return {u.id: known[audio_key(u)] for u in utterances}


def _listen(
    engine: Engine, utterances: Sequence[Utterance], audio_root: Path, path: Path, advance: Callable[[int], None]
) -> None:
    for start in range(0, len(utterances), CLIPS_AT_ONCE):
        chunk = utterances[start : start + CLIPS_AT_ONCE]
        audios = [load_audio(utterance, audio_root) for utterance in chunk]
        # Decoded once: what a second try at a higher temperature says is no measure of how sure the base is.
        options = [Options(language=utterance.language, guard="mark") for utterance in chunk]
        for utterance, transcription in zip(chunk, transcribe_many(engine, audios, options), strict=True):
            _append(path, _heard(utterance, transcription))
        advance(len(chunk))


def _heard(utterance: Utterance, transcription: Transcription) -> Heard:
    segments = transcription.segments
    weights = [len(segment.tokens) + 1 for segment in segments]  # the mean is over the end token, too
    total = sum(weights)
    return Heard(
        key=audio_key(utterance),
        text=transcription.text,
        avg_logprob=sum(s.avg_logprob * w for s, w in zip(segments, weights, strict=True)) / total if total else 0.0,
        no_speech_prob=max((segment.no_speech_prob for segment in segments), default=1.0),
    )


def _append(path: Path, heard: Heard) -> None:
    """Write one line at once, so that two lints may share the file; after a torn line, on a new one."""
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = end > 0 and file.read(1) != b"\n"
        file.write(b"\n" * torn + heard.model_dump_json().encode() + b"\n")


def _read(path: Path) -> dict[str, Heard]:
    """Read all whole lines; one that was torn by a crash is listened to again."""
    known = {}
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            heard = Heard.model_validate_json(line)
        except ValidationError:
            continue
        known[heard.key] = heard
    return known
