"""All checks in a row: texts, splits, sound, what the base hears, what can be decided.

`python -m training lint` calls it, and so may whoever retrains. What it takes is utterances, from any source.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from registry import Version
from speech.tokens import WhisperTokenizer
from training.data.manifest import Utterance, fingerprint
from training.data.report import DataReport, Dropped
from training.evaluate import Progress
from training.lint.codes import CODES, HELD_OUT_EFFECT_SHARE
from training.lint.labels import as_hypotheses, check_labels, score_base, suspects_of
from training.lint.leakage import check_splits
from training.lint.listen import Heard, choose, listen
from training.lint.power import measure_power
from training.lint.report import Cost, Finding, LintReport, Power, finding
from training.lint.sound import check_sound
from training.lint.style import check_style
from training.lint.texts import by_language, check_texts

MAX_LISTENED = 2000
"""Clips that the base listens to, if not said: on a GPU a few minutes, on two cores half an hour or more."""


def no_progress(_what: str, _total: int) -> nullcontext:  # type: ignore[type-arg]
    """Show nothing."""
    return nullcontext(lambda _count: None)


def lint(
    utterances: Sequence[Utterance],
    dropped: Iterable[Dropped],
    *,
    tokenizer: WhisperTokenizer,
    audio_root: Path = Path(),
    base: Version | None = None,
    cache: Path = Path("runs/lint/heard"),
    listen_to: int = MAX_LISTENED,
    detect: float | None = None,
    accept: Iterable[str] = (),
    cost: Cost | None = None,
    more: Iterable[Finding] = (),
    drawn: Collection[str] = (),
    seed: int = 1,
    progress: Progress = no_progress,
) -> LintReport:
    """Check a data set.

    Args:
        utterances: with their splits.
        dropped: rows that no utterance came of.
        tokenizer: of the base.
        audio_root: what relative audio paths start from, and must not leave.
        base: the version that listens; None leaves that out.
        cache: folder for what it heard.
        listen_to: clips that it listens to at most.
        detect: the difference in WER that the held-out clips must be able to show; None asks for none in particular.
        accept: codes of errors that are to be warnings.
        cost: to put into the report.
        more: findings of the caller's own.
        drawn: languages whose test set no source gave: the run drew it, and kept apart what could be.
        seed: of the bootstrap.
        progress: shows how far it is.
    """
    dropped = list(dropped)
    findings = [
        *check_rows(dropped),
        *more,
        *check_texts([u for u in utterances if not u.no_speech], tokenizer),
        *check_splits(utterances, drawn),
    ]
    with progress("reading the audio", len(utterances)) as advance:
        of_sound, unreadable = check_sound(utterances, audio_root, advance)
    findings += of_sound

    heard: dict[str, Heard] = {}
    if base is not None:
        audible = [u for u in utterances if u.id not in unreadable and u.language in tokenizer.languages]
        heard = listen(base, choose(audible, listen_to), audio_root, cache, progress)
    suspects = suspects_of(utterances, heard)
    scores = score_base(utterances, heard, suspects, seed)
    findings += [*check_labels(suspects, scores), *check_style(utterances, heard)]

    power = {}
    for language, group in by_language(utterances).items():
        for split in ("dev", "test"):
            held_out = [u for u in group if u.split == split]
            if held_out:
                power[f"{language} {split}"] = measure_power(held_out, as_hypotheses(held_out, heard), detect, seed)
    findings += [found for where, one in power.items() if (found := _undecided(where, one, asked=detect is not None))]
    report = DataReport.of(utterances, dropped)
    return LintReport(
        fingerprint=fingerprint(utterances),
        base=None if base is None else base.ref,
        kept=report.kept,
        left_out=report.left_out,
        findings=judged(findings, accept),
        suspects=tuple(suspects),
        listened=len(heard),
        scores=scores,
        power=power,
        cost=cost,
    )


def check_rows(dropped: Iterable[Dropped]) -> list[Finding]:
    """Return the rows that could not be used; what a source leaves out by its own rule is no fault.

    But a guard that is trained on is told: what was to be watched is not.
    """
    rows: dict[str, list[Dropped]] = {}
    for row in dropped:
        if not row.by_source_rule or row.reason == "trained_guard":
            rows.setdefault(row.reason if row.reason in CODES else "unusable_row", []).append(row)
    return [
        finding(
            code,
            ids=[row.id for row in group],
            details=[row.detail if code == row.reason else f"{row.reason}: {row.detail}" for row in group],
        )
        for code, group in rows.items()
    ]


def _undecided(where: str, power: Power, *, asked: bool) -> Finding | None:
    """Say so where a set shows too little; the gate judges by the test set, so only there it can be an error.

    Without a wanted difference, an error is what even a model without errors would probably not be told from.
    """
    todo = f"add {power.more_clips} clips like these to show {power.wanted:.3f}"
    more = f"{power.detectable:.3f} on {power.clips} clips, {power.words} words; the base's WER is {power.wer:.3f}"
    is_test = where.endswith(" test")
    if is_test and (power.detectable > power.wanted if asked else power.measured and power.detectable >= power.wer):
        return finding("cannot_decide", where=where, more=more, todo=todo)
    if power.detectable > (power.wanted if asked else HELD_OUT_EFFECT_SHARE * power.wer):
        return finding("decides_little", where=where, more=more, todo=todo)
    return None


def judged(findings: Iterable[Finding], accept: Iterable[str]) -> tuple[Finding, ...]:
    """Return errors first, the accepted ones among the warnings, each kind in the order of `CODES`."""
    order, accept = list(CODES), frozenset(accept)
    levelled = [
        one.model_copy(update={"level": "warning", "accepted": True})
        if one.level == "error" and one.code in accept
        else one
        for one in findings
    ]
    return tuple(sorted(levelled, key=lambda one: (one.level != "error", order.index(one.code))))
