"""Whether what was faster said the same: word error rates of two contenders over the same clips."""

from collections.abc import Sequence

from benchmarks.clips import Clip
from benchmarks.entries import WordErrors
from speech.scores import corpus_rate, difference_interval, word_errors
from speech.text import normalize


def compare(clips: Sequence[Clip], ours: Sequence[str], theirs: Sequence[str]) -> WordErrors:
    """Score both; ours minus theirs comes with its paired bootstrap interval, over sentences."""
    own = [word_errors(clip.text, text) for clip, text in zip(clips, ours, strict=True)]
    other = [word_errors(clip.text, text) for clip, text in zip(clips, theirs, strict=True)]
    difference = difference_interval(other, own, [normalize(clip.text) for clip in clips])
    return WordErrors(
        ours=corpus_rate(own),
        theirs=corpus_rate(other),
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        clips=len(clips),
    )


def error_rate(reference: str, text: str) -> float:
    """Return the word error rate of one text."""
    return corpus_rate([word_errors(reference, text)])
