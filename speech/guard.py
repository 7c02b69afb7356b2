"""Is a window's answer to be believed: what is tried next if not, and what is said of an answer that stays doubtful.

openai/whisper's rules and thresholds, which batched pipelines leave out, and what voice detection and word times add.
An answer is never changed here, and none is made up.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from speech.audio import SAMPLE_RATE
from speech.context import MAX_POSITIONS
from speech.engine import DecodingResult, Window, Word
from speech.windows import Slice

Guard = Literal["redecode", "mark", "drop", "keep"]
"""What happens to a doubtful answer: it is decoded again and marked if that does not help; only marked; decoded again
and left out if that does not help; nothing."""

GUARDS: tuple[Guard, ...] = ("redecode", "mark", "drop", "keep")

Flag = Literal["loop", "low_logprob", "implausible_rate", "outside_speech"]
"""Why a segment's text may be wrong: it repeats itself, the model does not believe it, nobody speaks so fast, or
nobody speaks there."""

NO_SPEECH_THRESHOLD = 0.6
LOGPROB_THRESHOLD = -1.0
"""openai/whisper's rule: no speech if that is probable and the text that came out is not."""

COMPRESSION_RATIO_THRESHOLD = 2.4
"""openai/whisper's: a text that shrinks more is a loop."""

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""openai/whisper's ladder, after 0."""

MAX_CHARACTERS_PER_SECOND = 30.0
"""Letters and digits: the fastest of 544 professional prompts has 18, and nobody speaks twice as fast for long."""

SPEECH_MARGIN = SAMPLE_RATE // 2  # a word may reach so far beyond detected speech


def is_no_speech(result: DecodingResult) -> bool:
    """Say whether the model itself thinks that nobody spoke."""
    return result.no_speech_prob > NO_SPEECH_THRESHOLD and result.avg_logprob < LOGPROB_THRESHOLD


def is_spoken(result: DecodingResult) -> bool:
    """Say whether an answer is part of the transcript."""
    return bool(result.text) and not is_no_speech(result)


def looks_wrong(result: DecodingResult) -> bool:
    """Say whether a window is worth another try: a loop, or words that the model does not believe."""
    return not is_no_speech(result) and (_is_loop(result) or result.avg_logprob < LOGPROB_THRESHOLD)


def next_attempt(window: Window, result: DecodingResult) -> Window | None:
    """Return how to decode a window again after this answer; None if the answer is good, or nothing is left to try.

    First as a peer would have decoded it, at 30 s, if a short context may be to blame; then less and less greedily.
    """
    if not looks_wrong(result):
        return None
    if result.positions < MAX_POSITIONS and not window.full_context:
        return replace(window, full_context=True, features=None)
    higher = [temperature for temperature in TEMPERATURES if temperature > window.options.temperature]
    return replace(window, options=replace(window.options, temperature=higher[0])) if higher else None


def best(results: Sequence[DecodingResult]) -> DecodingResult:
    """Return the answer to keep of all tries: the last if it is good, else the most probable without a loop."""
    if not looks_wrong(results[-1]):
        return results[-1]
    return max([result for result in results if not _is_loop(result)] or results, key=lambda result: result.avg_logprob)


def flags(result: DecodingResult, words: Sequence[Word] | None, place: Slice) -> tuple[Flag, ...]:
    """Return why a text may be wrong.

    Args:
        result: the window's.
        words: of the segment, with times from the beginning of the audio; None: it is the whole window.
        place: the window's.
    """
    found: list[Flag] = []
    if _is_loop(result):
        found.append("loop")
    if result.avg_logprob < LOGPROB_THRESHOLD:
        found.append("low_logprob")
    start, end = (place.start, place.end) if not words else (_samples(words[0].start), _samples(words[-1].end))
    text = result.text if words is None else "".join(word.word for word in words)
    if len(re.findall(r"\w", text)) > MAX_CHARACTERS_PER_SECOND * max(end - start, SAMPLE_RATE // 2) / SAMPLE_RATE:
        found.append("implausible_rate")
    if place.speech is not None and not any(
        begin - SPEECH_MARGIN < end and start < stop + SPEECH_MARGIN for begin, stop in place.speech
    ):
        found.append("outside_speech")
    return tuple(found)


def _is_loop(result: DecodingResult) -> bool:
    return result.finish_reason == "length" or result.compression_ratio > COMPRESSION_RATIO_THRESHOLD


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
