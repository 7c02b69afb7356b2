"""From audio of any length to a transcript: windows cut at quiet places, silence left out, pieces put together.

Plain functions around an engine. The service sends the windows through its scheduler; training and the command line
call `transcribe`, which sends them to the engine directly. Where speech is, beyond plain silence, is not judged here.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE
from speech.context import MAX_POSITIONS
from speech.engine import DecodingResult, Engine, EngineError, Window, Word
from speech.features import N_SAMPLES
from speech.tokens import Task

SEARCH = 6 * SAMPLE_RATE  # a window ends at the quietest place of its last six seconds
FRAME = SAMPLE_RATE // 50  # 20 ms

ENOUGH = 10 * SAMPLE_RATE
"""Where context is elastic, a window ends at the first pause after so much: attention's cost grows with the square of
the length, so three windows of 10 s cost less than one of 30 s, and they batch better (benchmarks/windows.py)."""

PAUSE = SAMPLE_RATE // 5  # quiet for so long is between words
SILENCE = SAMPLE_RATE  # silent for so long at a window's end is left out
KEPT = 3 * SAMPLE_RATE // 10  # of such a silence, on each side of what is said
QUIET = 0.02
"""A pause is 34 dB below the loud parts (the 95th percentile of the levels), or below `SILENCE_DBFS`."""

SILENCE_DBFS = -60.0
"""Audio whose loudest 20 ms stay below is silence: speech recorded at the lowest usual gain reaches -45."""

NO_SPEECH_THRESHOLD = 0.6
LOGPROB_THRESHOLD = -1.0
"""openai/whisper's rule: no speech if that is probable and the text that came out is not."""

COMPRESSION_RATIO_THRESHOLD = 2.4
"""openai/whisper's: a text that shrinks more is a loop."""


Flag = Literal["loop", "low_logprob", "implausible_rate", "outside_speech"]
"""Why a segment's text may be wrong: it repeats itself, the model does not believe it, nobody speaks so fast, or
nobody speaks there."""


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
    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...] | None = None  # one a token, where they were asked for
    temperature: float = 0.0
    flags: tuple[Flag, ...] = ()  # why the text may be wrong
    words: tuple[Word, ...] | None = None  # where they were asked for


@dataclass(frozen=True)
class Transcription:
    """What was said in one piece of audio."""

    text: str
    language: str | None  # None: nothing was said, and no language was given
    duration: float  # seconds
    segments: tuple[Segment, ...]
    no_speech: bool = False  # nobody speaks
    language_probabilities: Mapping[str, float] | None = None  # where it was detected


def cut(audio: NDArray[np.float32], *, elastic: bool = False) -> list[Slice]:
    """Cut audio into slices of at most 30 s, and mark the silent ones; together they are the whole audio.

    Args:
        audio: 16 kHz mono, shape (n_samples,).
        elastic: whether a short window costs less than a long one. If so, windows end at the first pause after
            `ENOUGH`, and long silences between and around them are slices of their own. If not, they are as long as
            can be, and end at the quietest place of their last `SEARCH`.
    """
    pauses = deque(_pauses(audio) if elastic and audio.size else [])
    slices: list[Slice] = []
    start = 0
    while start < audio.size:
        while pauses and pauses[0].end <= start:
            pauses.popleft()
        end = _silence_end(pauses, start, audio.size) or _window_end(audio, pauses, start)
        slices.append(Slice(start, end, is_silent(audio[start:end])))
        start = end
    return slices


class _Pause(NamedTuple):
    """A quiet stretch, in samples."""

    begin: int
    end: int
    silent: bool  # long and quiet enough to be left out


def _silence_end(pauses: Iterable[_Pause], start: int, size: int) -> int | None:
    """Return where the silence at `start` ends, less what is kept of it; None if there is none."""
    pause = next(iter(pauses), None)
    if pause is None or not pause.silent or pause.begin > start:
        return None
    end = size if pause.end >= size else pause.end - KEPT
    return min(end, start + N_SAMPLES) if end > start else None


def _window_end(audio: NDArray[np.float32], pauses: Iterable[_Pause], start: int) -> int:
    """Return where a window that begins at `start` ends best."""
    latest = start + N_SAMPLES
    for pause in pauses:
        place = pause.begin + KEPT if pause.silent else (pause.begin + pause.end) // 2
        if place > latest:
            break
        if (place >= start + ENOUGH and pause.end < audio.size) or (pause.silent and pause.end >= audio.size):
            return max(place, start + 1)
    if audio.size <= latest:
        return audio.size
    search = latest - SEARCH
    levels = _levels(audio[search:latest])
    # 100 ms of quiet rather than one frame between two glottal pulses.
    smooth = np.convolve(np.pad(levels, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    return search + int(smooth.argmin()) * FRAME + FRAME // 2


def _pauses(audio: NDArray[np.float32]) -> Iterator[_Pause]:
    """Yield every stretch of at least `PAUSE` that is quiet, beside what is loud in this audio."""
    levels = _levels(audio)
    quiet = levels < max(10 ** (SILENCE_DBFS / 20), QUIET * float(np.quantile(levels, 0.95)))
    edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2) * FRAME
    for begin, end in edges.tolist():
        if end - begin >= PAUSE:
            yield _Pause(begin, end, end - begin >= SILENCE and is_silent(audio[begin:end]))


def is_silent(audio: NDArray[np.float32]) -> bool:
    """Say whether the loudest 20 ms stay below `SILENCE_DBFS`."""
    return bool(_levels(audio).max() < 10 ** (SILENCE_DBFS / 20))


def windows(
    audio: NDArray[np.float32], slices: Sequence[Slice], language: str | None, task: Task
) -> list[Window | None]:
    """Return what to decode for each slice; None for a silent one."""
    return [None if s.silent else Window(audio[s.start : s.end], language, task) for s in slices]


def looks_wrong(result: DecodingResult) -> bool:
    """Say whether a short context may be to blame for an answer: a loop, or words that the model does not believe.

    Such a window is decoded again at 30 s, where a peer would have decoded it in the first place.
    """
    return (
        result.positions < MAX_POSITIONS
        and not _is_no_speech(result)
        and (
            result.finish_reason == "length"
            or result.compression_ratio > COMPRESSION_RATIO_THRESHOLD
            or result.avg_logprob < LOGPROB_THRESHOLD
        )
    )


def at_full_context(window: Window) -> Window:
    """Return the window as it is decoded again."""
    return replace(window, full_context=True, features=None)


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
        if result is not None and is_spoken(result)
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
            tokens=result.tokens,
            token_logprobs=result.token_logprobs,
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
    slices = [cut(audio, elastic=engine.context.elastic) for audio in audios]
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
    results = _decode_once(engine, to_decode)
    again = {place: at_full_context(to_decode[place]) for place, result in results.items() if looks_wrong(result)}
    return results | _decode_once(engine, again)


def _decode_once(engine: Engine, to_decode: dict[Place, Window]) -> dict[Place, DecodingResult]:
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


def is_spoken(result: DecodingResult) -> bool:
    """Say whether an answer is part of the transcript."""
    return bool(result.text) and not _is_no_speech(result)


def _is_no_speech(result: DecodingResult) -> bool:
    return result.no_speech_prob > NO_SPEECH_THRESHOLD and result.avg_logprob < LOGPROB_THRESHOLD
