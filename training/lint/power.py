"""How small a difference in WER a held-out set can show, and how many more clips a smaller one needs.

The minimum detectable effect of a two-sided test at level alpha with power 1 - beta is (z_{1-alpha/2} + z_{1-beta})
standard errors (Bloom, Evaluation Review 19, 1995): 2.80 of them at 5 % and 80 %. The standard error of a difference
of two corpus WERs on the same clips is not known before there is a candidate. With the spread s of both, correlated
by rho, it is s · sqrt(2 (1 - rho)); at rho = 0.5 that is s itself, the standard error of the base's own WER. The
demonstration's candidates had rho of 0.6 (it) and 0.3 (ru). Standard errors fall with the root of the number of clips.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

from speech.scores import CONFIDENCE, Errors, rate_interval, units
from speech.text import normalize
from training.data.manifest import Utterance
from training.evaluate import Hypothesis
from training.lint.report import Power

POWER = 0.8
Z_ALPHA = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
Z_POWER = NormalDist().inv_cdf(POWER)
MIN_SPEAKERS = 20
"""Speakers from which the bootstrap resamples them; with fewer, sentences, or the interval would rest on a handful."""

ASSUMED_WER = 0.15
ASSUMED_DESIGN_EFFECT = 3.0
"""How much wider than a binomial's the variance of a WER is, as errors of one clip go together; where nothing was
measured. whisper-base on 96 clips each: 2.3 (it) and 1.6 (ru); conversation has more."""


def wanted_effect(wer: float, asked: float | None) -> float:
    """Return the difference to find: the one that was asked for, or half of the base's WER."""
    return asked if asked is not None else 0.5 * wer


def measure_power(held_out: Sequence[Utterance], heard: Sequence[Hypothesis], asked: float | None, seed: int) -> Power:
    """Say what a set of held-out clips of one language can show.

    Args:
        held_out: the set.
        heard: the base's hypotheses on it, or on some of it; with fewer than two sentences, WER and spread are assumed.
        asked: the difference in WER that is wanted.
        seed: of the bootstrap.
    """
    words = sum(len(units(u.text, u.language)) for u in held_out)
    clusters = resampled_by(held_out)
    errors = [h.errors for h in heard]
    measured = len({clusters[h.id] for h in heard}) > 1 and sum(e.errors for e in errors) > 0
    if measured:
        interval = rate_interval(errors, [clusters[h.id] for h in heard], seed=seed)
        wer = interval.value
        error = (interval.high - interval.low) / (2 * Z_ALPHA) * math.sqrt(len(heard) / len(held_out))
    else:
        wer = _wer(errors) if errors else ASSUMED_WER
        spread = max(wer, 1 / max(words, 1))
        error = math.sqrt(ASSUMED_DESIGN_EFFECT * spread * max(0.0, 1 - spread) / max(words, 1))
    detectable = (Z_ALPHA + Z_POWER) * error
    wanted = wanted_effect(wer, asked)
    needed = math.ceil(len(held_out) * (detectable / wanted) ** 2) if wanted > 0 else len(held_out)
    return Power(
        clips=len(held_out),
        words=words,
        wer=wer,
        measured=measured,
        detectable=detectable,
        wanted=wanted,
        more_clips=max(0, needed - len(held_out)),
    )


def resampled_by(utterances: Sequence[Utterance]) -> dict[str, str]:
    """Return what each utterance is resampled with: its speaker where there are at least 20, else its sentence."""
    speakers = {u.speaker for u in utterances}
    if None not in speakers and len(speakers) >= MIN_SPEAKERS:
        return {u.id: str(u.speaker) for u in utterances}
    return {u.id: normalize(u.text) for u in utterances}


def _wer(errors: Sequence[Errors]) -> float:
    return sum(e.errors for e in errors) / max(1, sum(e.reference for e in errors))
