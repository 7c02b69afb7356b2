"""Whether transcripts are written as the base writes: case, punctuation, numbers.

A fine-tuned model takes over the transcripts' way of writing; where that is not meant, most of what it learns is that.
"""

from collections.abc import Iterator, Mapping, Sequence

from speech.text import normalize
from training.data.manifest import Utterance
from training.lint.listen import Heard
from training.lint.report import Finding, finding
from training.lint.texts import MIN_FOR_SHARE, MIXED_SHARE, begins_upper, by_language, ends_punctuated, has_digits

FAR_APART = 0.3
"""Difference of two shares, from which transcripts and base differ in style."""


def check_style(utterances: Sequence[Utterance], heard: Mapping[str, Heard]) -> Iterator[Finding]:
    """Yield in which ways the transcripts are not written as the base writes the same clips."""
    for language, group in by_language([u for u in utterances if u.id in heard and heard[u.id].text]).items():
        if len(group) < MIN_FOR_SHARE:
            continue
        pairs = [(u.text, heard[u.id].text) for u in group]
        cased = [
            (bool(one), bool(other))
            for one, other in ((begins_upper(text), begins_upper(said)) for text, said in pairs)
            if one is not None and other is not None
        ]
        yield from _compare("other_case", language, cased, "begin with a capital")
        punctuated = [(_punctuated(text), _punctuated(said)) for text, said in pairs]
        yield from _compare("other_punctuation", language, punctuated, "have punctuation")
        yield from _numbers(language, group, heard)


def _punctuated(text: str) -> bool:
    """Say whether a text ends in punctuation, or has some between its words."""
    return ends_punctuated(text) or any(mark in text for mark in (", ", ". ", "? ", "! ", ": ", "; ", "、", "。", "،"))


def _compare(code: str, language: str, ways: Sequence[tuple[bool, bool]], done: str) -> Iterator[Finding]:
    if len(ways) < MIN_FOR_SHARE:
        return
    ours, base = (sum(way[i] for way in ways) / len(ways) for i in (0, 1))
    if abs(ours - base) > FAR_APART:
        yield finding(code, where=language, more=f"{ours:.0%} of the transcripts {done}, {base:.0%} of the base's")


def _numbers(language: str, group: Sequence[Utterance], heard: Mapping[str, Heard]) -> Iterator[Finding]:
    """Compare only where one of the two has a digit and the rest is much the same: there, a number was said."""
    in_words, in_digits, only_ours = [], [], []
    for u in group:
        ours, base = has_digits(u.text), has_digits(heard[u.id].text)
        if ours:
            in_digits.append(u.id)
        if ours and not base and _alike(u.text, heard[u.id].text):
            only_ours.append(u.id)
        if base and not ours and _alike(u.text, heard[u.id].text):
            in_words.append(u.id)
    said = len(in_words) + len(in_digits)
    rarer = min(in_words, in_digits, key=len)
    if said >= MIN_FOR_SHARE and len(rarer) >= MIXED_SHARE * said:
        more = f"{len(in_digits)} in digits, {len(in_words)} in words"
        yield finding("mixed_numbers", where=language, ids=rarer, more=more)
    otherwise = [*in_words, *only_ours]
    if said >= MIN_FOR_SHARE and len(otherwise) >= FAR_APART * said:
        yield finding("other_numbers", where=language, ids=otherwise, more=f"{len(otherwise)} of {said} with a number")


def _alike(text: str, said: str) -> bool:
    ours, base = set(normalize(text).split()), set(normalize(said).split())
    return 2 * len(ours & base) >= min(len(ours), len(base))
