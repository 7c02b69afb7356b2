"""What the transcripts alone show: odd rates, scripts, cases, token counts, and ways of writing that mix.

Needs no audio and no model; the tokenizer is the base's.
"""

import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from speech.audio import SAMPLE_RATE
from speech.engine import max_new_tokens
from speech.guard import COMPRESSION_RATIO_THRESHOLD
from speech.text import normalize
from speech.tokens import WhisperTokenizer
from training.data.checks import MAX_LABEL_TOKENS, MAX_SECONDS, SPECIAL_TOKENS
from training.data.manifest import Utterance
from training.lint.report import Finding, finding

ODD_RATE_Z = 5.0
"""Robust standard deviations; of a normal distribution, one in a million is beyond."""

ODD_RATE_FACTOR = 2.0
"""However alike the others are, less than this is no oddity."""

CAPS_SHARE = 0.9
MIXED_SHARE = 0.1
"""Two ways of writing mix where the rarer has at least this share."""

MIN_FOR_SHARE = 10  # clips of a language, below which shares say nothing
DUPLICATE_SHARE = 0.1
DENSE_TOKENS = 0.8
"""Tokens a character, at the median: English has 0.25; letters written byte by byte have 2 or 3."""

SCRIPTS: Mapping[str, frozenset[str]] = {
    code: frozenset(scripts.split())
    for codes, scripts in {
        "ru uk bg be mk kk mn tg tt ba": "CYRILLIC",
        "hi mr ne sa": "DEVANAGARI",
        "ar fa ur ps sd": "ARABIC",
        "he yi": "HEBREW",
        "el": "GREEK",
        "ka": "GEORGIAN",
        "hy": "ARMENIAN",
        "th": "THAI",
        "lo": "LAO",
        "km": "KHMER",
        "my": "MYANMAR",
        "bn as": "BENGALI",
        "pa": "GURMUKHI",
        "gu": "GUJARATI",
        "ta": "TAMIL",
        "te": "TELUGU",
        "kn": "KANNADA",
        "ml": "MALAYALAM",
        "si": "SINHALA",
        "am": "ETHIOPIC",
        "bo": "TIBETAN",
        "ja": "HIRAGANA KATAKANA CJK",
        "zh yue": "CJK BOPOMOFO",
        "ko": "HANGUL CJK",
        "sr uz az bs": "LATIN CYRILLIC",
    }.items()
    for code in codes.split()
}
"""Language → scripts, as the first word of their letters' Unicode names; all others are written in Latin."""


def check_texts(utterances: Sequence[Utterance], tokenizer: WhisperTokenizer) -> Iterator[Finding]:
    """Yield what is wrong with the transcripts."""
    counts = {u.id: len(tokenizer.encode(u.text)) for u in utterances}
    yield from _each(utterances, "empty_text", lambda u: None if normalize(u.text) else repr(u.text))
    yield from _each(
        utterances, "unknown_language", lambda u: None if u.language in tokenizer.languages else u.language
    )
    yield from _each(utterances, "too_many_tokens", lambda u: _tokens(counts[u.id], MAX_LABEL_TOKENS - SPECIAL_TOKENS))
    yield from _each(utterances, "too_long", _too_long)
    yield from _each(utterances, "lossy_tokens", lambda u: _lost(u.text, tokenizer))
    yield from _each(utterances, "repetitive_text", _repetitive)
    yield from _each(utterances, "other_script", _other_script)
    yield from _each(utterances, "not_nfc", lambda u: None if unicodedata.is_normalized("NFC", u.text) else "")
    in_limit = {u.id for u in utterances if counts[u.id] + SPECIAL_TOKENS <= MAX_LABEL_TOKENS}
    yield from _each(
        utterances, "many_tokens", lambda u: _tokens(counts[u.id], _served_tokens(u)) if u.id in in_limit else None
    )
    for language, group in by_language(utterances).items():
        yield from _odd_rates(language, group)
        yield from _ways_of_writing(language, group)
        density = float(np.median([counts[u.id] / len(u.text) for u in group]))
        if density > DENSE_TOKENS:
            yield finding("dense_tokens", where=language, more=f"{density:.1f} tokens a character")
        yield from _duplicates(language, group)


def by_language(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """Return the utterances of each language, by its code."""
    groups: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[utterance.language].append(utterance)
    return dict(sorted(groups.items()))


def _each(utterances: Sequence[Utterance], code: str, fault: Callable[[Utterance], str | None]) -> Iterator[Finding]:
    """Yield one finding of all utterances in which `fault` finds something to say."""
    faults = {u.id: said for u in utterances if (said := fault(u)) is not None}
    if faults:
        yield finding(code, ids=faults, details=faults.values() if any(faults.values()) else ())


def _tokens(count: int, limit: int) -> str | None:
    return f"{count} tokens" if count > limit else None


def _served_tokens(utterance: Utterance) -> int:
    """Return how many tokens the engines write at most of a window of that length."""
    return max_new_tokens(round(utterance.audio.duration * SAMPLE_RATE))


def _too_long(utterance: Utterance) -> str | None:
    seconds = utterance.audio.duration
    return f"{seconds:.1f} s" if seconds > MAX_SECONDS and not utterance.segments else None


def _lost(text: str, tokenizer: WhisperTokenizer) -> str | None:
    back = tokenizer.decode(tokenizer.encode(text)).strip()
    return None if back == text.strip() else f"becomes {back!r}"


def letters_compression_ratio(text: str) -> float:
    """Return how much zlib shrinks `text` at a byte a letter; in UTF-8, Cyrillic would pass for repeating itself."""
    letters = {letter: i for i, letter in enumerate(sorted(set(text)))}
    encoded = bytes(letters[letter] % 256 for letter in text)
    return len(encoded) / len(zlib.compress(encoded)) if encoded else 0.0


def _repetitive(utterance: Utterance) -> str | None:
    ratio = letters_compression_ratio(utterance.text)
    return f"by {ratio:.1f}" if ratio > COMPRESSION_RATIO_THRESHOLD else None


def _other_script(utterance: Utterance) -> str | None:
    scripts = Counter(
        unicodedata.name(letter, "").split(" ")[0]
        for letter in utterance.text
        if unicodedata.category(letter)[0] == "L"
    )
    expected = SCRIPTS.get(utterance.language, frozenset({"LATIN"}))
    strange = sum(count for script, count in scripts.items() if script not in expected)
    return scripts.most_common(1)[0][0].capitalize() if 2 * strange > scripts.total() else None


def _odd_rates(language: str, group: Sequence[Utterance]) -> Iterator[Finding]:
    """Look at the logarithm of letters a second: half as many are as odd as twice as many."""
    spoken = [u for u in group if normalize(u.text)]
    if len(spoken) < MIN_FOR_SHARE:
        return
    rates = np.log([len(normalize(u.text).replace(" ", "")) / u.audio.duration for u in spoken])
    median = np.median(rates)
    spread = 1.4826 * np.median(np.abs(rates - median))  # of a normal distribution, its standard deviation
    odd = {
        u.id: f"{np.exp(rate):.1f} a second"
        for u, rate in zip(spoken, rates, strict=True)
        if abs(rate - median) > max(ODD_RATE_Z * spread, np.log(ODD_RATE_FACTOR))
    }
    if odd:
        usual = f"the median is {np.exp(median):.1f}"
        yield finding("odd_speaking_rate", where=language, ids=odd, details=odd.values(), more=usual)


def begins_upper(text: str) -> bool | None:
    """Say whether a text's first letter is a capital; None where there is no letter, or none that has a case."""
    first = next((letter for letter in text if letter.isalnum()), "")
    return None if first.lower() == first.upper() else first.isupper()


def ends_punctuated(text: str) -> bool:
    """Say whether a text ends in punctuation."""
    return unicodedata.category(text.strip()[-1:] or " ")[0] == "P"


def has_digits(text: str) -> bool:
    """Say whether a text holds a digit."""
    return any(letter.isdigit() for letter in text)


def caps_share(texts: Sequence[str]) -> float:
    """Return the share of capitals among all letters that have a case."""
    letters = [letter for text in texts for letter in text if letter.lower() != letter.upper()]
    return sum(letter.isupper() for letter in letters) / len(letters) if letters else 0.0


def _ways_of_writing(language: str, group: Sequence[Utterance]) -> Iterator[Finding]:
    if len(group) < MIN_FOR_SHARE:
        return
    caps = caps_share([u.text for u in group])
    if caps > CAPS_SHARE:
        yield finding("all_caps", where=language, more=f"{caps:.0%} of the letters")
    yield from _mixed("mixed_case", language, {u.id: begins_upper(u.text) for u in group}, "begin with a capital")
    yield from _mixed("mixed_punctuation", language, {u.id: ends_punctuated(u.text) for u in group}, "end in it")


def _mixed(code: str, language: str, ways: Mapping[str, bool | None], done: str) -> Iterator[Finding]:
    yes, no = ([name for name, way in ways.items() if way is wanted] for wanted in (True, False))
    rarer = min(yes, no, key=len)
    total = len(yes) + len(no)
    if total and len(rarer) >= MIXED_SHARE * total:
        yield finding(code, where=language, ids=rarer, more=f"{len(yes)} of {total} {done}")


def _duplicates(language: str, group: Sequence[Utterance]) -> Iterator[Finding]:
    times = Counter(normalize(u.text) for u in group)
    shared = [u.id for u in group if times[normalize(u.text)] > 1]
    if len(group) >= MIN_FOR_SHARE and len(shared) > DUPLICATE_SHARE * len(group):
        yield finding("duplicate_sentences", where=language, ids=shared, more=f"{len(times)} sentences in {len(group)}")
