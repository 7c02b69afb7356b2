"""Words of a window and when they are said: tokens put together, and times that the audio bears out.

An engine aligns the tokens (`TokenTimes`); this module makes words of them, whichever engine it was. Cross-attention
knows the order of words and nearly where each begins, but not where speech pauses: the first word reaches back into
the silence before it, the last into the silence after it. So edges beside a pause are moved to where the sound is.
"""

import codecs
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE
from speech.context import POSITIONS_PER_SECOND
from speech.engine import DecodingResult, EngineError, Window, Word
from speech.tokens import WhisperTokenizer

UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that are written without blanks between words (openai/whisper's list); a word is a character there."""

OPENING = frozenset("\"'“¿([{-" + "„‘«「『（《〈【")
CLOSING = frozenset("\"'.。,，!！?？:：”)]}、" + "…;；’»」』）》〉】–—")
"""Marks that belong to the next word and to the one before: openai/whisper's, and some that it left out."""

HOP = SAMPLE_RATE // 100  # 10 ms
FRAME = SAMPLE_RATE // 50  # 20 ms

PAUSE_S = 0.15
"""Quiet for so long is between words; within them, the closures of long plosives last up to this."""

LOUD_PERCENTILE, FLOOR_PERCENTILE = 95, 5  # of the levels of a window: how loud speech is, and what is there without it
QUIET_DB = 34.0  # below loud: what `speech.windows` calls a pause
ABOVE_FLOOR_DB = 6.0  # quiet is no quieter than so much above the noise
LEAST_CONTRAST_DB = 12.0  # where noise leaves less between quiet and loud, levels tell nothing

REACH_S = 0.3
"""An edge is moved outwards, to where the sound begins or ends, by no more: farther out is something else."""

SHORTEST_S = 0.02  # one encoder position

SLOWEST_S = 0.6, 0.15
"""A word is no longer than the first and, for each letter, the second: four letters a second is somebody who dictates.
Longer ones hold a silence that noise hides, or music."""


class TokenTimes(NamedTuple):
    """What an alignment finds for the text tokens of a window."""

    starts: Sequence[float]  # seconds; one a token, and where the last one ends
    probabilities: Sequence[float]  # one a token


class _Part(NamedTuple):
    """A stretch of tokens that stands for whole characters."""

    text: str
    begin: int  # its first token
    end: int  # the token after its last


@dataclass(frozen=True)
class _Group:
    """A word's tokens; punctuation around it has a share in its text, and none in its times."""

    text: str
    begin: int
    end: int
    core: tuple[int, int]  # begin and end without the punctuation; the same if there is nothing else


def texts_to_align(
    tokenizer: WhisperTokenizer, windows: Sequence[Window], results: Sequence[DecodingResult | EngineError]
) -> dict[int, tuple[int, ...]]:
    """Return the text tokens of the windows that want words and have said something, by their place in the batch."""
    wanted = {
        row: tuple(token for token in result.tokens if token < tokenizer.eot)
        for row, (window, result) in enumerate(zip(windows, results, strict=True))
        if window.options.word_timestamps and isinstance(result, DecodingResult)
    }
    return {row: text for row, text in wanted.items() if text}


def with_words(
    tokenizer: WhisperTokenizer,
    windows: Sequence[Window],
    results: Sequence[DecodingResult | EngineError],
    times: Mapping[int, TokenTimes],
) -> list[DecodingResult | EngineError]:
    """Return the results, with words where they are wanted.

    Args:
        tokenizer: of the model.
        windows: of the batch.
        results: one a window.
        times: of each of `texts_to_align`.
    """
    texts = texts_to_align(tokenizer, windows, results)
    answers = list(results)
    for row, (window, result) in enumerate(zip(windows, results, strict=True)):
        if not isinstance(result, EngineError) and window.options.word_timestamps:
            language = "en" if window.task == "translate" else result.language
            words = make_words(tokenizer, texts[row], language, times[row], window.audio) if row in texts else ()
            answers[row] = replace(result, words=words)
    return answers


def make_words(
    tokenizer: WhisperTokenizer, tokens: Sequence[int], language: str, times: TokenTimes, audio: NDArray[np.float32]
) -> tuple[Word, ...]:
    """Return the words of a window, in their order: none overlaps another, none is empty, all lie in the audio.

    Args:
        tokenizer: of the model.
        tokens: of the text, without timestamps; together the words have the same.
        language: of the text, which for a translation is English.
        times: of the tokens.
        audio: of the window, 16 kHz mono, without padding.
    """
    groups = _groups(tokenizer, tokens, language)
    spans = [(times.starts[group.core[0]], times.starts[group.core[1]]) for group in groups]
    edges = tidy(curb(snap(spans, audio), [group.text for group in groups]), audio.size / SAMPLE_RATE)
    return tuple(
        Word(
            start=start,
            end=end,
            word=group.text,
            probability=_geometric_mean(times.probabilities[slice(*group.core)]),
            tokens=tuple(tokens[group.begin : group.end]),
        )
        for group, (start, end) in zip(groups, edges, strict=True)
    )


def starts_of(path: Sequence[tuple[int, int]]) -> list[float]:
    """Return when each row of an alignment begins, in seconds: one a text token, and the end token's.

    Args:
        path: (row, position) pairs as dynamic time warping finds them, every row at least once.
    """
    first: dict[int, int] = {}
    for row, position in path:
        first.setdefault(row, position)
    return [first[row] / POSITIONS_PER_SECOND for row in sorted(first)]


def _geometric_mean(probabilities: Sequence[float]) -> float:
    return math.exp(math.fsum(math.log(max(p, 1e-30)) for p in probabilities) / len(probabilities))


def _parts(tokenizer: WhisperTokenizer, tokens: Sequence[int]) -> Iterator[_Part]:
    """Yield the shortest runs of tokens that end with a whole character; what is unfinished at the end is one, too."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, begin = "", 0
    for i, token in enumerate(tokens, start=1):
        text += decoder.decode(tokenizer.token_bytes(token), final=i == len(tokens))
        if not decoder.getstate()[0]:
            yield _Part(text, begin, i)
            text, begin = "", i


def _groups(tokenizer: WhisperTokenizer, tokens: Sequence[int], language: str) -> list[_Group]:
    """Return the words' tokens; together they are all of them, unless nothing but blanks was said."""
    words: list[list[_Part]] = []
    for part in _parts(tokenizer, tokens):
        if words and _continues(words[-1][-1].text, part.text, spaced=language not in UNSPACED):
            words[-1].append(part)
        else:
            words.append([part])
    groups: list[_Group] = []
    pending: list[_Part] = []  # marks that wait for their word
    for word in words:
        parts = [*pending, *word]
        said = [part for part in parts if not _is_mark(part.text)]
        pending = []
        if said:
            groups.append(_group(parts, said))
        elif groups and not _opens("".join(part.text for part in word)):
            groups[-1] = _extended(groups[-1], parts)
        else:
            pending = parts
    if pending and groups:
        groups[-1] = _extended(groups[-1], pending)
    elif any(part.text.strip() for part in pending):
        groups.append(_group(pending, pending))
    return groups


def _group(parts: Sequence[_Part], said: Sequence[_Part]) -> _Group:
    text = "".join(part.text for part in parts)
    return _Group(text, parts[0].begin, parts[-1].end, core=(said[0].begin, said[-1].end))


def _extended(group: _Group, parts: Sequence[_Part]) -> _Group:
    return replace(group, text=group.text + "".join(part.text for part in parts), end=parts[-1].end)


def _continues(before: str, text: str, *, spaced: bool) -> bool:
    """Say whether `text` belongs to the word that ends with `before`."""
    if text[:1].isspace():
        return False
    if spaced or before.isspace() or not text:
        return True
    if unicodedata.category(text[0]).startswith("M"):  # a sign over or under a letter
        return True
    return all(letter.isascii() and letter.isalnum() for letter in (before[-1], text[0]))  # a foreign word


def _is_mark(text: str) -> bool:
    return all(letter in OPENING or letter in CLOSING for letter in text.strip())


def _opens(text: str) -> bool:
    return text.strip()[:1] in OPENING and (text[:1].isspace() or text.strip()[:1] not in CLOSING)


Span = tuple[float, float]
"""Start and end, in seconds."""


def snap(spans: Sequence[Span], audio: NDArray[np.float32]) -> list[Span]:
    """Move the edges of words beside a pause to where the sound begins or ends.

    Each word belongs to the stretch of sound that it shares most of its time with. The first of a stretch begins where
    that begins, the last ends where it ends, if that does not move them outwards by more than `REACH_S`. A word that
    shares none stays where it is: it may be made up, which is for others to judge.

    Args:
        spans: of the words, in their order.
        audio: of the window.
    """
    sounds = find_sounds(audio)
    places = [_place(span, sounds) for span in spans]
    return [
        span if place is None else _snapped(span, sounds[place], place not in places[:i], place not in places[i + 1 :])
        for i, (span, place) in enumerate(zip(spans, places, strict=True))
    ]


def _snapped(span: Span, sound: Span, is_first: bool, is_last: bool) -> Span:
    begins = is_first and span[0] - sound[0] < REACH_S
    ends = is_last and sound[1] - span[1] < REACH_S
    return (sound[0] if begins else max(span[0], sound[0]), sound[1] if ends else min(span[1], sound[1]))


def _place(span: Span, sounds: Sequence[Span]) -> int | None:
    shared = [min(span[1], end) - max(span[0], start) for start, end in sounds]
    best = int(np.argmax(shared)) if shared else 0
    return best if shared and shared[best] > 0 else None


def find_sounds(audio: NDArray[np.float32]) -> list[Span]:
    """Return the stretches of a window between pauses; one, the whole window, where levels do not tell them.

    A pause is `PAUSE_S` of levels `QUIET_DB` below speech, or near the level of the noise.
    """
    if audio.size < FRAME:
        return [(0.0, audio.size / SAMPLE_RATE)]
    frames = sliding_window_view(audio, FRAME)[::HOP]
    levels = 10 * np.log10(np.maximum((frames.astype(np.float64) ** 2).mean(axis=1), 1e-12))
    floor, loud = np.percentile(levels, [FLOOR_PERCENTILE, LOUD_PERCENTILE])
    threshold = max(loud - QUIET_DB, floor + ABOVE_FLOOR_DB)
    if threshold > loud - LEAST_CONTRAST_DB:
        return [(0.0, audio.size / SAMPLE_RATE)]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], levels > threshold, [False]])))
    sounds: list[Span] = []
    half = (FRAME - HOP) / 2 / SAMPLE_RATE  # a frame stands for the 10 ms in its middle
    for begin, end in edges.reshape(-1, 2) * HOP / SAMPLE_RATE:
        if sounds and begin - sounds[-1][1] + half < PAUSE_S:
            sounds[-1] = (sounds[-1][0], float(end + half))
        else:
            sounds.append((float(begin + half), float(end + half)))
    return sounds


def curb(spans: Sequence[Span], words: Sequence[str]) -> list[Span]:
    """Shorten words that nobody speaks so slowly (`SLOWEST_S`).

    The first one, and one after a mark, begin later: what is too much is the silence before them. Others end earlier.
    """
    curbed = []
    for i, ((start, end), word) in enumerate(zip(spans, words, strict=True)):
        most = SLOWEST_S[0] + SLOWEST_S[1] * sum(map(str.isalnum, word))
        after_pause = i == 0 or words[i - 1].strip()[-1:] in CLOSING
        curbed.append((max(start, end - most), end) if after_pause else (start, min(end, start + most)))
    return curbed


def tidy(spans: Sequence[Span], duration: float) -> list[Span]:
    """Make each word at least `SHORTEST_S` long, if there is room for all, none before its predecessor's end."""
    shortest = min(SHORTEST_S, duration / max(len(spans), 1))
    tidied: list[Span] = []
    latest = 0.0
    for i, (start, end) in enumerate(spans):
        room = duration - (len(spans) - i) * shortest  # the rest is for those that follow
        begin = max(latest, min(start, room))
        latest = max(begin + shortest, min(end, room + shortest))
        tidied.append((begin, latest))
    return tidied
