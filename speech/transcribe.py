"""From audio of any length to a transcript: windows cut at quiet places, silence left out, pieces put together.

Plain functions around an engine. The service sends the windows through its scheduler; training and the command line
call `transcribe`, which sends them to the engine directly. Where speech is, beyond plain silence, is not judged here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE
from speech.engine import DecodingResult, Engine, EngineError, Window
from speech.features import N_SAMPLES
from speech.tokens import Task

SEARCH_S = 6.0  # a window ends at the quietest place of its last six seconds
FRAME = SAMPLE_RATE // 50  # 20 ms

SILENCE_DBFS = -60.0
"""Audio whose loudest 20 ms stay below is silence: speech recorded at the lowest usual gain reaches -45."""

NO_SPEECH_THRESHOLD = 0.6
LOGPROB_THRESHOLD = -1.0
"""openai/whisper's rule: no speech if that is probable and the text that came out is not."""


@dataclass(frozen=True)
class Slice:
    """A window's place in the audio, in samples."""

    start: int
    end: int
    silent: bool


@dataclass(frozen=True)
class Segment:
    """A stretch of the transcript, in openai/whisper's names; times in seconds."""

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float


@dataclass(frozen=True)
class Transcription:
    """What was said in one piece of audio."""

    text: str
    language: str | None  # None: nothing was said, and no language was given
    duration: float  # seconds
    segments: tuple[Segment, ...]


def cut(audio: NDArray[np.float32]) -> list[Slice]:
    """Cut audio into slices of at most 30 s, at the quietest place near each end, and mark the silent ones."""
    slices = []
    start = 0
    while start < audio.size:
        end = audio.size
        if end - start > N_SAMPLES:
            search = start + N_SAMPLES - int(SEARCH_S * SAMPLE_RATE)
            levels = _levels(audio[search : start + N_SAMPLES])
            # 100 ms of quiet rather than one frame between two glottal pulses.
            smooth = np.convolve(np.pad(levels, 2, mode="edge"), np.ones(5) / 5, mode="valid")
            end = search + (int(smooth.argmin()) * FRAME + FRAME // 2)
        slices.append(Slice(start, end, is_silent(audio[start:end])))
        start = end
    return slices


def is_silent(audio: NDArray[np.float32]) -> bool:
    """Say whether the loudest 20 ms stay below `SILENCE_DBFS`."""
    return bool(_levels(audio).max() < 10 ** (SILENCE_DBFS / 20))


def windows(
    audio: NDArray[np.float32], slices: Sequence[Slice], language: str | None, task: Task
) -> list[Window | None]:
    """Return what to decode for each slice; None for a silent one."""
    return [None if s.silent else Window(audio[s.start : s.end], language, task) for s in slices]


def assemble(slices: Sequence[Slice], results: Sequence[DecodingResult | None], language: str | None) -> Transcription:
    """Put the windows' results together.

    Args:
        slices: of the whole audio, in order.
        results: one a slice; None for a silent one.
        language: as asked for; None takes the one in which most was said.
    """
    spoken = [
        (place, result)
        for place, result in zip(slices, results, strict=True)
        if result is not None and result.text and not _is_no_speech(result)
    ]
    segments = tuple(
        Segment(
            id=i,
            start=place.start / SAMPLE_RATE,
            end=place.end / SAMPLE_RATE,
            text=result.text,
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=result.compression_ratio,
        )
        for i, (place, result) in enumerate(spoken)
    )
    samples: dict[str, int] = {}
    for place, result in spoken:
        samples[result.language] = samples.get(result.language, 0) + place.end - place.start
    return Transcription(
        text=" ".join(segment.text for segment in segments),
        language=language or max(samples, key=lambda code: samples[code], default=None),
        duration=slices[-1].end / SAMPLE_RATE if slices else 0.0,
        segments=segments,
    )


def transcribe(
    engine: Engine, audio: NDArray[np.float32], *, language: str | None = None, task: Task = "transcribe"
) -> Transcription:
    """Transcribe 16 kHz mono audio of any length.

    Raises:
        EngineError: a window could not be decoded.
        UnknownLanguageError: the model has no such language.
    """
    return transcribe_many(engine, [audio], [language], task=task)[0]


def transcribe_many(
    engine: Engine,
    audios: Sequence[NDArray[np.float32]],
    languages: Sequence[str | None],
    *,
    task: Task = "transcribe",
) -> list[Transcription]:
    """Transcribe several pieces of audio, their windows batched together; each as `transcribe` would alone.

    Raises:
        EngineError: a window could not be decoded.
        UnknownLanguageError: the model has no such language.
    """
    codes = [None if language is None else engine.tokenizer.language_code(language) for language in languages]
    slices = [cut(audio) for audio in audios]
    waiting = {
        (piece, i): window
        for piece, (audio, places, code) in enumerate(zip(audios, slices, codes, strict=True))
        for i, window in enumerate(windows(audio, places, code, task))
        if window is not None
    }
    # One language a piece: where none is given, the first window that is not silent decides for the others.
    first: dict[int, int] = {}
    for piece, i in waiting:
        first.setdefault(piece, i)
    early = [(piece, i) for piece, i in waiting if codes[piece] is not None or i == first[piece]]
    results = _decode(engine, {place: waiting.pop(place) for place in early})
    for (piece, i), window in waiting.items():
        waiting[piece, i] = replace(window, language=results[piece, first[piece]].language)
    results |= _decode(engine, waiting)
    return [
        assemble(places, [results.get((piece, i)) for i in range(len(places))], codes[piece])
        for piece, places in enumerate(slices)
    ]


Place = tuple[int, int]  # which piece of audio, which slice of it


def _decode(engine: Engine, to_decode: dict[Place, Window]) -> dict[Place, DecodingResult]:
    results = {}
    for place, result in zip(to_decode, engine.transcribe(list(to_decode.values())), strict=True):
        if isinstance(result, EngineError):
            raise result
        results[place] = result
    return results


def _levels(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the RMS of each 20 ms, shape (ceil(n_samples / 320),)."""
    padded = np.pad(audio, (0, -audio.size % FRAME))
    frames = padded.reshape(-1, FRAME).astype(np.float64)
    return np.asarray(np.sqrt((frames**2).mean(axis=1)))


def _is_no_speech(result: DecodingResult) -> bool:
    return result.no_speech_prob > NO_SPEECH_THRESHOLD and result.avg_logprob < LOGPROB_THRESHOLD
