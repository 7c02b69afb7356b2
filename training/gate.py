"""The gate: may a candidate take production's place?

Both models have transcribed the same held-out clips. The candidate must be shown to be better on them, in each trained
language and in all together, and must be shown not to have lost more than a margin anywhere else that was measured;
and some things no gain makes up for (`refusals`). What the data cannot decide is a verdict of its own. A pure function:
it moves no alias and reads no file. docs/training/gate.md says how each number is computed.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from speech.mapsswe import matched_pairs
from speech.scores import (
    CONFIDENCE,
    N_RESAMPLES,
    Draws,
    Interval,
    corpus_rate,
    difference_draws,
    holm,
    interval_of,
    p_at_least,
    p_at_most,
    paired_draws,
    rate_interval,
    tail_draws,
    tail_rate,
)
from speech.text import NORMALIZER_VERSION
from training.evaluate import BlockKind, Bounds, Hypothesis, blocks_of, by_language
from training.guards import Measured, Part, letters
from training.refusals import of_hypotheses
from training.rules import Rules

__all__ = ["Bounds", "Comparison", "Decision", "GuardComparison", "MatchedPairsTest", "Verdict", "exit_status", "judge"]

Decision = Literal["promote", "refuse", "undecided"]
Outcome = Literal["better", "not better", "undecided"]
GuardOutcome = Literal["kept", "lost", "undecided"]

ALPHA = 1 - CONFIDENCE
MIN_BLOCKS = 10
"""Below so many speakers or sentences, a bootstrap's interval is too narrow to be believed: more are needed first."""

Z_BOTH, Z_ONE, Z_POWER = 1.960, 1.645, 0.842
"""Quantiles of the normal distribution: 5 % on two sides, 5 % on one, and a power of 80 %."""

DEFAULT_RULES = Rules()

WORST = 0.1
"""The worst tenth of the utterances."""


class MatchedPairsTest(BaseModel):
    """NIST's MAPSSWE, the second opinion; see `speech.mapsswe`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segments: int
    z: float | None  # below zero: the candidate is better
    p: float  # two-tailed


class Comparison(BaseModel):
    """Base and candidate on one language's clips, or on all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int
    base: Bounds
    candidate: Bounds
    difference: Bounds  # candidate minus base: below zero is better
    # What follows is missing in verdicts of before the gate had it.
    unit: Literal["words", "characters", "both"] = "words"
    blocks: BlockKind = "sentence"
    n_blocks: int | None = None
    matched_pairs: MatchedPairsTest | None = None
    outcome: Outcome | None = None
    more_utterances: int | None = None  # of these languages, where the outcome is undecided

    @property
    def better(self) -> bool:
        """Whether the candidate was shown to be better."""
        return self.difference.high < 0 if self.outcome is None else self.outcome == "better"


class GuardComparison(BaseModel):
    """Something that the candidate must not have lost, beyond a margin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str  # is compared, with its unit
    n: int  # things compared: utterances, recordings' clips, sounds, edges
    base: float
    candidate: float
    difference: Bounds  # candidate minus base: above zero is worse
    margin: float
    p_kept: float  # against "worse by the margin or more"; Holm's, over all guards
    p_lost: float  # against "worse by the margin or less"; Holm's, over all guards
    outcome: GuardOutcome
    more_utterances: int | None = None


class Verdict(BaseModel):
    """What the gate decided, with everything needed to decide it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    base: str
    passed: bool
    reasons: tuple[str, ...]
    comparisons: dict[str, Comparison]  # by language, and "all"
    test_fingerprint: str
    normalizer_version: str
    confidence: float
    resamples: int
    seed: int
    judged_at: datetime
    # What follows is missing in verdicts of before the gate had it.
    decision: Decision
    guards: dict[str, GuardComparison] = {}
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what was not measured, and what was seen beside
    more_utterances: int | None = None  # a language, for a decision
    rules: Rules | None = None
    forced: str | None = None  # the reason for which somebody promoted it nevertheless

    @model_validator(mode="before")
    @classmethod
    def _read_old(cls, content: Any) -> Any:
        if isinstance(content, dict) and "decision" not in content:
            return {**content, "decision": "promote" if content.get("passed") else "refuse"}
        return content


def exit_status(verdict: Verdict) -> int:
    """Return a command's exit status: 0 to promote, 3 refused, 4 undecided."""
    return {"promote": 0, "refuse": 3, "undecided": 4}[verdict.decision]


def judge(
    base: Sequence[Hypothesis],
    candidate: Sequence[Hypothesis],
    *,
    base_ref: str,
    candidate_ref: str,
    test_fingerprint: str,
    seed: int,
    zero_shot: Sequence[Hypothesis] | None = None,
    measured: tuple[Measured, Measured] | None = None,
    refusals: Sequence[str] = (),
    notes: Sequence[str] = (),
    rules: Rules = DEFAULT_RULES,
) -> Verdict:
    """Compare two models' hypotheses for the same clips.

    Args:
        base: of the model in production, or of the one that the candidate was trained from.
        candidate: of the new model, for the same clips in the same order.
        base_ref: reference of the base's version.
        candidate_ref: reference of the candidate's version.
        test_fingerprint: of the held-out set.
        seed: of the bootstrap.
        zero_shot: of the model that training started from, where that is not `base`.
        measured: what `training.guards` measured of base and candidate; None: only the worst tenth is guarded.
        refusals: reasons to refuse that were found elsewhere (`training.refusals`, lint).
        notes: what could not be looked at.
        rules: the least gain, and the margins.

    Raises:
        ValueError: the two are not about the same clips, or there are none.
    """
    if [(h.id, h.reference) for h in base] != [(h.id, h.reference) for h in candidate]:
        raise ValueError("base and candidate were not run on the same clips in the same order")
    if zero_shot is not None and [h.id for h in zero_shot] != [h.id for h in candidate]:
        raise ValueError("the model that training started from was not run on the same clips in the same order")
    if not base:
        raise ValueError("there are no held-out clips to judge by")
    theirs, ours = by_language(base), by_language(candidate)
    comparisons = {k: _compare(theirs[k], ours[k], rules.min_effect, seed) for k in theirs}
    guards = _decide_guards(_guards(base, candidate, measured, rules, seed))
    found = (*refusals, *of_hypotheses(base, candidate, zero_shot))
    outcomes = {one.outcome for one in comparisons.values()} | {guard.outcome for guard in guards.values()}
    decision: Decision = "promote"
    if found or outcomes & {"not better", "lost"}:
        decision = "refuse"
    elif "undecided" in outcomes:
        decision = "undecided"
    needed = [*(one.more_utterances for one in comparisons.values()), *(one.more_utterances for one in guards.values())]
    more = max(n for n in needed if n) if decision == "undecided" else None
    reasons = [
        *(_reason(language, comparison, rules.min_effect) for language, comparison in comparisons.items()),
        *(_guard_reason(name, guard) for name, guard in guards.items()),
        *(f"refused: {reason}" for reason in found),
    ]
    if more is not None:
        reasons.append(f"not enough data to decide: {more:,} more utterances needed")
    return Verdict(
        candidate=candidate_ref,
        base=base_ref,
        passed=decision == "promote",
        decision=decision,
        reasons=tuple(reasons),
        comparisons=comparisons,
        guards=guards,
        refusals=found,
        notes=(*notes, *_notes(measured, has_times="timestamps" in guards)),
        more_utterances=more,
        rules=rules,
        test_fingerprint=test_fingerprint,
        normalizer_version=NORMALIZER_VERSION,
        confidence=CONFIDENCE,
        resamples=N_RESAMPLES,
        seed=seed,
        judged_at=datetime.now(UTC),
    )


def _compare(base: Sequence[Hypothesis], candidate: Sequence[Hypothesis], min_effect: float, seed: int) -> Comparison:
    theirs, ours = [h.errors for h in base], [h.errors for h in candidate]
    clusters, kind = blocks_of(base)
    n_blocks = len(set(clusters))
    draws = difference_draws(theirs, ours, clusters, seed=seed)
    difference = interval_of(corpus_rate(ours) - corpus_rate(theirs), draws)
    pairs = matched_pairs((*b.tokens(), c.tokens()[1]) for b, c in zip(base, candidate, strict=True))
    least = min_effect * corpus_rate(theirs)
    both_say = difference.high < 0 and pairs.p <= ALPHA and pairs.mean < 0
    outcome: Outcome = "undecided"
    if both_say and difference.value <= -least and n_blocks >= MIN_BLOCKS:
        outcome = "better"
    elif difference.low >= -least:
        outcome = "not better"
    units = sorted({h.unit for h in base})
    return Comparison(
        clips=len(base),
        base=Bounds.of(rate_interval(theirs, clusters, seed=seed)),
        candidate=Bounds.of(rate_interval(ours, clusters, seed=seed)),
        difference=Bounds.of(difference),
        unit=units[0] if len(units) == 1 else "both",
        blocks=kind,
        n_blocks=n_blocks,
        matched_pairs=MatchedPairsTest(segments=pairs.segments, z=pairs.z, p=pairs.p),
        outcome=outcome,
        more_utterances=_more_for_gain(len(base), n_blocks, difference, least, pairs.z)
        if outcome == "undecided"
        else None,
    )


def _more_for_gain(n: int, n_blocks: int, difference: Interval, least: float, z: float | None) -> int:
    """Return how many more utterances would show a gain, four times in five, if it is as large as it looks.

    If there does not seem to be a gain as large as the least that is wanted: if it is as large as that. An interval
    shrinks with the root of the number of utterances.
    """
    error = (difference.high - difference.low) / (2 * Z_BOTH)
    gain = max(-difference.value, least)
    needed = n * ((Z_BOTH + Z_POWER) * error / gain) ** 2 if gain > 0 else n
    if z and difference.high < 0:  # the bootstrap is convinced, the second opinion is not
        needed = max(needed, n * ((Z_BOTH + Z_POWER) / z) ** 2)
    blocks = n * MIN_BLOCKS / n_blocks if n_blocks < MIN_BLOCKS else 0
    return max(1, math.ceil(max(needed, blocks)) - n)


class _Guard(NamedTuple):
    """What is compared, before it is decided: all guards are decided together."""

    what: str
    n: int
    base: float
    candidate: float
    draws: Draws
    margin: float
    n_blocks: int
    is_sampled: bool = True  # more of it could be brought; False: it is made here, and always the same


def _guards(
    base: Sequence[Hypothesis],
    candidate: Sequence[Hypothesis],
    measured: tuple[Measured, Measured] | None,
    rules: Rules,
    seed: int,
) -> dict[str, _Guard]:
    clusters, _ = blocks_of(base)
    # An utterance can be no worse than wholly wrong here: a loop of 200 words counts among all words instead.
    theirs, ours = ([min(1.0, h.errors.errors / max(1, h.errors.reference)) for h in hs] for hs in (base, candidate))
    found = {
        "worst decile": _Guard(
            "error rate of the worst tenth",
            len(base),
            tail_rate(theirs, WORST),
            tail_rate(ours, WORST),
            tail_draws(theirs, ours, clusters, WORST, seed=seed),
            rules.worst_decile,
            len(set(clusters)),
        )
    }
    if measured is None:
        return found
    before, after = measured
    for name in before.guards.keys() & after.guards.keys():
        found[name] = _speech_guard(before.guards[name], after.guards[name], rules.other_speech, seed)
    parts = [
        (b, a)
        for one, other in zip(before.long_form, after.long_form, strict=True)
        for b, a in zip(one.parts, other.parts, strict=True)
    ]
    if parts:
        found["long-form"] = _rates(
            "error rate of long recordings",
            [(b.errors, a.errors, b.reference, b.sentence) for b, a in parts],
            rules.long_form,
            seed,
        )
    edges = _edges(parts)
    if len({sentence for *_, sentence in edges}) >= MIN_BLOCKS:
        found["timestamps"] = _rates("seconds by which times of words are off", edges, rules.timestamps, seed)
    sounds = list(zip(before.sounds, after.sounds, strict=True))
    if sounds:
        served = [(letters(b.served), letters(a.served), b.seconds / 60, b.name) for b, a in sounds]
        found["non-speech"] = _rates(
            "letters a minute made of no speech, as served", served, rules.non_speech, seed
        )._replace(is_sampled=False)
        alone = [(letters(b.undetected), letters(a.undetected), b.seconds / 60, b.name) for b, a in sounds]
        found["non-speech undetected"] = _rates(
            "letters a minute made of no speech, without voice detector", alone, rules.non_speech_undetected, seed
        )._replace(is_sampled=False)
    return found


def _edges(parts: Sequence[tuple[Part, Part]]) -> list[tuple[float, float, float, str]]:
    """Return how far off both models' times are, at each edge of a clip whose word both have heard."""
    return [
        (was, now, 1, b.sentence)
        for b, a in parts
        for was, now in ((b.start_error_s, a.start_error_s), (b.end_error_s, a.end_error_s))
        if was is not None and now is not None
    ]


def _speech_guard(base: Sequence[Hypothesis], candidate: Sequence[Hypothesis], margin: float, seed: int) -> _Guard:
    if [h.id for h in base] != [h.id for h in candidate]:
        raise ValueError("base and candidate were not run on the same clips of a guard in the same order")
    clusters, _ = blocks_of(base)
    rows = [
        (b.errors.errors, c.errors.errors, b.errors.reference, cluster)
        for b, c, cluster in zip(base, candidate, clusters, strict=True)
    ]
    return _rates("error rate", rows, margin, seed)


def _rates(what: str, rows: Sequence[tuple[float, float, float, str]], margin: float, seed: int) -> _Guard:
    """Compare two rates; a row is what one thing counts for base and candidate, on how much, and its block."""
    theirs, ours, on, clusters = (list(column) for column in zip(*rows, strict=True))
    total = sum(on)
    return _Guard(
        what,
        len(rows),
        sum(theirs) / total,
        sum(ours) / total,
        paired_draws(theirs, ours, on, clusters, seed=seed),
        margin,
        len(set(clusters)),
    )


def _decide_guards(guards: Mapping[str, _Guard]) -> dict[str, GuardComparison]:
    """Decide all guards at once, with Holm's correction for their number in either direction."""
    names = sorted(guards)
    kept = holm([p_at_least(guards[name].draws, guards[name].margin) for name in names])
    lost = holm([p_at_most(guards[name].draws, guards[name].margin) for name in names])
    decided = {}
    for name, p_kept, p_lost in zip(names, kept, lost, strict=True):
        guard = guards[name]
        difference = interval_of(guard.candidate - guard.base, guard.draws)
        enough = guard.n_blocks >= MIN_BLOCKS or not guard.is_sampled
        outcome: GuardOutcome = "kept" if p_kept <= ALPHA and enough else "lost" if p_lost <= ALPHA else "undecided"
        if outcome == "undecided" and not guard.is_sampled:
            outcome = "kept" if difference.value <= guard.margin else "lost"  # these are all there are
        decided[name] = GuardComparison(
            what=guard.what,
            n=guard.n,
            base=guard.base,
            candidate=guard.candidate,
            difference=Bounds.of(difference),
            margin=guard.margin,
            p_kept=p_kept,
            p_lost=p_lost,
            outcome=outcome,
            more_utterances=_more_for_guard(guard, difference) if outcome == "undecided" else None,
        )
    return decided


def _more_for_guard(guard: _Guard, difference: Interval) -> int:
    """Return how many more things would show that a guard is kept, four times in five.

    If the candidate is as much worse as it looks, and by half the margin at most: how it looks is uncertain, too.
    """
    error = (difference.high - difference.low) / (2 * Z_BOTH)
    room = max(guard.margin - difference.value, guard.margin / 2)
    needed = guard.n * ((Z_ONE + Z_POWER) * error / room) ** 2
    blocks = guard.n * MIN_BLOCKS / guard.n_blocks if guard.n_blocks < MIN_BLOCKS else 0
    return max(1, math.ceil(max(needed, blocks)) - guard.n)


def _notes(measured: tuple[Measured, Measured] | None, *, has_times: bool) -> list[str]:
    """Say what was seen and decides nothing."""
    if measured is None:
        return ["long recordings, silence, times and other speech were not measured"]
    after = measured[1]
    notes = []
    if not after.guards:
        notes.append("no guard sets were given: whether other languages or other speech suffered is not known")
    if not after.long_form:
        notes.append("long recordings were not measured: the test clips of a language are less than 30 s together")
    for what, seen in (
        ("language identified", [(d.detected == d.language) for m in measured for d in m.detections]),
        ("timestamp tokens given and in order", [d.timestamps for m in measured for d in m.detections]),
    ):
        if half := len(seen) // 2:
            notes.append(f"{what}: {sum(seen[:half])} → {sum(seen[half:])} of {half} clips")
    if after.long_form:
        wrong = [sum(one.disordered + one.outside for one in m.long_form) for m in measured]
        if not has_times:
            notes.append("times of words were not compared: both models heard too few of the same words")
        notes.append(f"times of words out of order or outside the recording: {wrong[0]} → {wrong[1]}")
    return notes


def _reason(language: str, comparison: Comparison, min_effect: float) -> str:
    base, candidate, difference = comparison.base, comparison.candidate, comparison.difference
    rate = {"words": "WER", "characters": "CER", "both": "error rate"}[comparison.unit]
    change = (
        f"{language}: {rate} {base.value:.3f} → {candidate.value:.3f}, difference {difference.value:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}] on {comparison.clips} clips"
    )
    if comparison.outcome == "better":
        return f"{change}: better"
    if difference.low > 0:
        return f"{change}: worse"
    if comparison.outcome == "not better":
        return f"{change}: not shown to be better; a gain of {min_effect:.1%} or more is ruled out"
    pairs = comparison.matched_pairs
    why = f"it must fall by {min_effect:.1%} of what it was"
    if difference.high >= 0:
        why = "the interval must lie below zero"
    elif pairs is not None and pairs.p > ALPHA:
        why = f"matched pairs say p = {pairs.p:.2f}"
    elif (comparison.n_blocks or 0) < MIN_BLOCKS:
        why = f"{comparison.n_blocks} {comparison.blocks}s are too few"
    return f"{change}: not shown to be better; {why}: {comparison.more_utterances:,} more utterances needed"


def _guard_reason(name: str, guard: GuardComparison) -> str:
    difference = guard.difference
    change = (
        f"guard {name}: {guard.what} {guard.base:.3f} → {guard.candidate:.3f}, difference {difference.value:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}], margin {guard.margin:g}"
    )
    if guard.outcome == "kept":
        return f"{change}: kept (p = {guard.p_kept:.4f})"
    if guard.outcome == "lost":
        return f"{change}: lost (p = {guard.p_lost:.4f})"
    return f"{change}: not shown to be kept: {guard.more_utterances:,} more needed"
