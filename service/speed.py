"""How fast a loaded engine is on this machine, at this moment: a clip alone, clips in a crowd, a long file.

Through `speech.transcribe`, as files are transcribed: cutting, features and guard included, HTTP and waiting for others
not. It compares nothing; `benchmarks/` does.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE
from speech.engine import Engine
from speech.transcribe import Options, transcribe, transcribe_many

CLIPS_S = (3.0, 10.0)
CROWD_CLIP_S = 3.0
BUDGET_S = 10.0
"""What each of the four measurements may take, about: less than a minute for all, loading included."""

ROUNDS = (1, 20)  # of a lone clip: at least and at most
CROWD = (4, 128)  # clips at once
LONG_S = (30.0, 600.0)

UTILIZATION = 0.7
"""Of the crowd's speed, what is promised to people who speak at once: a queue that is busier makes them wait for longer
than their clips take (M/D/1: at 0.7, 1.2 of them; at 0.9, 4.5)."""


@dataclass(frozen=True)
class Speed:
    """What was measured; latencies are medians."""

    latency_s: dict[str, float]  # of a lone clip of so many seconds
    crowd_clips: int  # clips of `CROWD_CLIP_S` at once
    crowd_speed: float  # seconds of audio a second
    long_s: float  # how long the long file was
    long_speed: float  # seconds of audio a second
    streams: int  # people who speak without a pause, in clips of `CROWD_CLIP_S`, and are answered in time


def measure(engine: Engine, speech: NDArray[np.float32], options: Options) -> Speed:
    """Measure an engine that nobody else uses.

    Args:
        engine: warm.
        speech: 16 kHz mono, shape (n_samples,); repeated where it is too short.
        options: without a language, it is detected each time, which costs a step of the decoder.

    Raises:
        EngineError: it cannot be decoded.
    """
    latency = {seconds: _latency(engine, stretch(speech, seconds), options) for seconds in CLIPS_S}
    clip_s, long_clip_s = latency[CLIPS_S[0]], latency[CLIPS_S[1]]
    size = _within(CROWD, BUDGET_S / clip_s)
    crowd = [stretch(np.roll(speech, -i * SAMPLE_RATE // 3), CROWD_CLIP_S) for i in range(size)]
    crowd_s = _time(lambda: transcribe_many(engine, crowd, [options] * size))
    long_s = float(_within(LONG_S, CLIPS_S[1] * BUDGET_S / long_clip_s))
    long = stretch(speech, long_s)
    crowd_speed = size * CROWD_CLIP_S / crowd_s
    return Speed(
        latency_s={f"{seconds:g}": round(latency[seconds], 4) for seconds in CLIPS_S},
        crowd_clips=size,
        crowd_speed=round(crowd_speed, 2),
        long_s=long_s,
        long_speed=round(long_s / _time(lambda: transcribe(engine, long, options)), 2),
        streams=math.floor(UTILIZATION * crowd_speed),
    )


def stretch(speech: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
    """Return so many seconds of it, from the beginning, over and over."""
    return np.resize(speech, round(seconds * SAMPLE_RATE))


def _latency(engine: Engine, clip: NDArray[np.float32], options: Options) -> float:
    """Return the median time of a lone clip."""

    def once() -> float:
        return _time(lambda: transcribe(engine, clip, options))

    first = once()  # pays for what is made once, so that it is not counted unless there is no time for another
    return first if first > BUDGET_S else statistics.median(once() for _ in range(_within(ROUNDS, BUDGET_S / first)))


def _within(bounds: tuple[float, float], value: float) -> int:
    low, high = bounds
    return int(min(max(value, low), high))


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
