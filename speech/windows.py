"""Cutting audio of any length into windows for the engine: where nobody speaks, and never in a word if a pause is near.

Audio is cut while it is being read: no more than `AHEAD` of it is looked at, or in memory, at once. How a window is
cut depends on nothing but the audio, so a file that arrives in pieces is cut as the whole is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE
from speech.features import N_SAMPLES
from speech.vad import CHUNK, SpeechDetector

Audio = NDArray[np.float32]  # 16 kHz mono, shape (n_samples,)
Span = tuple[int, int]  # begin and end in samples

AHEAD = N_SAMPLES + 3 * SAMPLE_RATE  # a window, and enough after it to know a pause at its end

SEARCH = 6 * SAMPLE_RATE  # without a pause, a window ends at the quietest place of its last six seconds
FRAME = SAMPLE_RATE // 50  # 20 ms

ENOUGH = 10 * SAMPLE_RATE
"""Where context is elastic, a window ends at the first pause after so much: attention's cost grows with the square of
the length, so three windows of 10 s cost less than one of 30 s, and they batch better (benchmarks/windows.py)."""

PAUSE = SAMPLE_RATE // 5  # quiet for so long is between words
SILENCE = SAMPLE_RATE  # silent for so long at a window's end is left out
BREAK = 2 * SAMPLE_RATE  # nobody speaks for so long: the window ends, however short it is
FULL_BREAK = 10 * SAMPLE_RATE  # the same where every window costs 30 s
KEPT = 3 * SAMPLE_RATE // 10  # of what is left out, on each side of what is said
BLUR = SAMPLE_RATE // 10  # the voice detector is early or late by so much
MIN_SPEECH = 3  # chunks: who speaks does so for a tenth of a second

QUIET = 0.02
"""A pause is 34 dB below the loud parts (the 95th percentile of the levels), or below `SILENCE_DBFS`."""

SILENCE_DBFS = -60.0
"""Audio whose loudest 20 ms stay below is silence: speech recorded at the lowest usual gain reaches -45."""


@dataclass(frozen=True)
class Slice:
    """A window's place in the audio, in samples."""

    start: int
    end: int
    silent: bool  # nobody speaks
    speech: tuple[Span, ...] | None = None  # where somebody does, in the whole audio's samples; None: not known


def cut(audio: Audio, *, elastic: bool = False, detector: SpeechDetector | None = None) -> list[Slice]:
    """Return the slices of audio that is all there; see `cut_stream`."""
    return [place for place, _ in cut_stream([audio], elastic=elastic, detector=detector)]


def cut_stream(
    blocks: Iterable[Audio], *, elastic: bool = False, detector: SpeechDetector | None = None
) -> Iterator[tuple[Slice, Audio]]:
    """Cut audio into slices of at most 30 s, each with its samples; together they are the whole audio.

    Args:
        blocks: pieces of any size; read only as far as is needed for the next slice.
        elastic: whether a short window costs less than a long one. If so, windows end at the first pause after
            `ENOUGH`, and where nobody speaks for `BREAK`. If not, they are as long as can be, and end at the quietest
            place of their last `SEARCH`, or where nobody speaks for `FULL_BREAK`.
        detector: tells speech from noise and music; None takes only silence for no speech.
    """
    heard = _Heard(blocks, detector)
    start, begun = 0, 0  # begun: so much of a stretch that is left out is in the window before
    while (ahead := heard.ahead(start)).size:
        pauses = _pauses(ahead, heard.absences(start, ahead.size), begun, elastic=elastic)
        lead = _lead(pauses, ahead.size, ended=heard.ended)
        size = lead or _window_size(ahead, pauses, ended=heard.ended)
        audio = ahead[:size].copy()
        silent = bool(lead) or is_silent(audio) or not heard.speaks(start, start + size)
        yield Slice(start, start + size, silent, None if silent else heard.speech(start, start + size)), audio
        begun = KEPT if any(pause.absent and pause.begin + KEPT == size for pause in pauses) else 0
        start += size


class _Heard:
    """What was read of a stream and may still be needed, and where in it somebody speaks."""

    def __init__(self, blocks: Iterable[Audio], detector: SpeechDetector | None) -> None:
        self._blocks = iter(blocks)
        self._detector = detector
        self._audio = np.zeros(0, np.float32)
        self._origin = 0  # of _audio, in the stream
        self._speaking = bytearray()  # for each chunk of the stream, as far as it was judged
        self._all_read = False
        self.ended = False  # the last `ahead` saw the stream's end

    def ahead(self, start: int) -> Audio:
        """Read on and return the audio from `start`, at most `AHEAD` of it; what is before is forgotten."""
        forget = min(start, len(self._speaking) * CHUNK if self._detector else start) - self._origin
        parts, size = [self._audio[forget:]], self._audio.size - forget
        self._origin += forget
        while self._origin + size < start + AHEAD + CHUNK and not self._all_read:
            block = next(self._blocks, None)
            if block is None:
                self._all_read = True
            else:
                parts.append(block)
                size += block.size
        self._audio = np.concatenate(parts) if len(parts) > 1 else parts[0]
        ahead = self._audio[start - self._origin :]
        self.ended = self._all_read and ahead.size <= AHEAD
        return ahead[:AHEAD]

    def absences(self, start: int, size: int) -> list[Span]:
        """Return where from `start` on nobody speaks, beside it by `BLUR`; relative to `start`.

        Of a clip that is one window anyhow, nothing: whether anybody speaks is then answered sooner.
        """
        if self._detector is None or (start == 0 and self.ended and size <= ENOUGH):
            return []
        self._listen_until(start + size)
        first = start // CHUNK
        absent = ~np.frombuffer(self._speaking, np.bool_)[first : -(-(start + size) // CHUNK)]
        spans = []
        for begin, end in _runs(absent):
            inner_begin = 0 if begin == 0 else (first + begin) * CHUNK - start + BLUR
            inner_end = size if end == absent.size else (first + end) * CHUNK - start - BLUR
            if inner_end > inner_begin:
                spans.append((inner_begin, inner_end))
        return spans

    def speaks(self, start: int, end: int) -> bool:
        """Say whether anybody speaks there; listens no longer than it takes to know."""
        if self._detector is None:
            return True
        run = 0
        for chunk in range(start // CHUNK, -(-end // CHUNK)):
            self._listen_until((chunk + 1) * CHUNK)
            run = run + 1 if self._speaking[chunk] else 0
            if run == MIN_SPEECH:
                return True
        return False

    def speech(self, start: int, end: int) -> tuple[Span, ...] | None:
        """Return where somebody speaks, if all of it was listened to."""
        if self._detector is None or len(self._speaking) * CHUNK < end:
            return None
        first = start // CHUNK
        speaking = np.frombuffer(self._speaking, np.bool_)[first : -(-end // CHUNK)]
        return tuple(
            (max(start, (first + begin) * CHUNK), min(end, (first + stop) * CHUNK)) for begin, stop in _runs(speaking)
        )

    def _listen_until(self, end: int) -> None:
        assert self._detector is not None  # noqa: S101 - for the type checker
        while (position := len(self._speaking) * CHUNK) < end:
            chunk = self._audio[position - self._origin : position - self._origin + CHUNK]
            self._speaking.append(self._detector.is_speaking(chunk))


class _Pause(NamedTuple):
    """A stretch without words, in samples from a window's start."""

    begin: int
    end: int
    absent: bool  # long enough, and nobody speaks: it is left out


def _pauses(audio: Audio, absences: list[Span], begun: int, *, elastic: bool) -> list[_Pause]:
    """Return the pauses in audio, in order: what is quiet beside what is loud, and where nobody speaks for long.

    One at the beginning is longer than it seems, by what is `begun`.
    """

    def length(begin: int, end: int) -> int:
        return end - begin + (begun if begin == 0 else 0)

    shortest_silence, shortest_break = (SILENCE, BREAK) if elastic else (FULL_BREAK, FULL_BREAK)
    levels = _levels(audio)
    quiet = levels < max(10 ** (SILENCE_DBFS / 20), QUIET * float(np.quantile(levels, 0.95)))
    left_out = [(begin, end) for begin, end in absences if length(begin, end) >= shortest_break]
    pauses = []
    for begin, end in ((FRAME * begin, min(FRAME * end, audio.size)) for begin, end in _runs(quiet)):
        if end - begin < PAUSE or any(begin < e and b < end for b, e in left_out):
            continue
        pauses.append(_Pause(begin, end, length(begin, end) >= shortest_silence and is_silent(audio[begin:end])))
    # Where every window costs 30 s, a pause is no place to end one.
    kept = [pause for pause in pauses if elastic or pause.absent]
    return sorted([*kept, *(_Pause(begin, end, absent=True) for begin, end in left_out)])


def _lead(pauses: list[_Pause], size: int, *, ended: bool) -> int:
    """Return how much at the beginning is to be left out; 0 if somebody speaks."""
    if not pauses or not pauses[0].absent or pauses[0].begin > 0:
        return 0
    end = size if pauses[0].end >= size and ended else pauses[0].end - KEPT
    return max(0, min(end, N_SAMPLES))


def _window_size(audio: Audio, pauses: list[_Pause], *, ended: bool) -> int:
    """Return where a window that begins with this audio ends best."""
    for pause in pauses:
        place = pause.begin + KEPT if pause.absent else (pause.begin + pause.end) // 2
        if place > N_SAMPLES:
            break
        is_last = ended and pause.end >= audio.size
        if pause.absent and (is_last or pause.end - pause.begin >= BREAK):
            return max(place, 1)
        if place >= ENOUGH and not is_last:
            return place
    if audio.size <= N_SAMPLES:
        return audio.size
    search = N_SAMPLES - SEARCH
    levels = _levels(audio[search:N_SAMPLES])
    # 100 ms of quiet rather than one frame between two glottal pulses.
    smooth = np.convolve(np.pad(levels, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    return search + int(smooth.argmin()) * FRAME + FRAME // 2


def is_silent(audio: Audio) -> bool:
    """Say whether the loudest 20 ms stay below `SILENCE_DBFS`."""
    return bool(_levels(audio).max() < 10 ** (SILENCE_DBFS / 20))


def _levels(audio: Audio) -> NDArray[np.float64]:
    """Return the RMS of each 20 ms, shape (ceil(n_samples / 320),)."""
    padded = np.pad(audio, (0, -audio.size % FRAME))
    frames = padded.reshape(-1, FRAME).astype(np.float64)
    return np.asarray(np.sqrt((frames**2).mean(axis=1)))


def _runs(mask: NDArray[np.bool_]) -> list[Span]:
    """Return begin and end of each run of True."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
    return [(int(begin), int(end)) for begin, end in edges]
