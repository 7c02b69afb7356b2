"""What lint found, as data: findings, suspected transcripts, what can be decided, and what training will cost.

It is made by `lint.lint`, written as JSON, and drawn by `page`. It holds transcripts, so it is as private as the data.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.data.report import Kept
from training.lint.codes import CODES, Level

IDS_IN_A_MESSAGE = 3


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Frozen):
    """One thing that is wrong, with all places where it is.

    Attributes:
        code: of `codes.CODES`.
        level: the code's, but "warning" where an error was accepted.
        where: a language, a split, or both; empty where it is of the whole.
        what: one line: what is wrong, how often, where.
        todo: what to do about it.
        ids: of all utterances (or rows) concerned.
        details: one line for each id, or none.
        accepted: it would be an error, but the caller said to go on.
    """

    code: str
    level: Level
    where: str
    what: str
    todo: str
    ids: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    accepted: bool = False

    @property
    def line(self) -> str:
        """The finding in one line, for a terminal."""
        shown = [
            f"{name} ({detail})" if detail else name
            for name, detail in zip(self.ids, self.details or ("",) * len(self.ids), strict=True)
        ][:IDS_IN_A_MESSAGE]
        ids = f": {', '.join(shown)}{', …' if len(self.ids) > len(shown) else ''}" if shown else ""
        return f"{self.code}{' (accepted)' if self.accepted else ''}: {self.what}{ids}. To do: {self.todo}"


def finding(
    code: str,
    *,
    where: str = "",
    ids: Iterable[str] = (),
    details: Iterable[str] = (),
    more: str = "",
    todo: str = "",
) -> Finding:
    """Make a finding of what its code says, how many there are, and where.

    Args:
        code: of `codes.CODES`.
        where: a language, a split, or both.
        ids: of the utterances concerned.
        details: one for each id, or none.
        more: figures to add to what the code says.
        todo: instead of what the code says.
    """
    rule, ids = CODES[code], tuple(ids)
    count = f"{len(ids)} × " if ids else ""
    place = f"{where}: " if where else ""
    what = f"{place}{count}{rule.what}{f' ({more})' if more else ''}"
    return Finding(
        code=code,
        level=rule.level,
        where=where,
        what=what,
        todo=todo or rule.todo,
        ids=ids,
        details=tuple(details),
    )


SuspectKind = Literal["mispaired", "wrong_transcript", "incomplete_transcript", "hard_audio", "misheard"]
"""What most likely explains that the base heard something else; the first three are the transcript's fault."""


class Suspect(_Frozen):
    """A clip in which the base heard something else than the transcript says.

    Attributes:
        id: of the utterance.
        kind: the likeliest explanation.
        language: of the utterance.
        split: of the utterance.
        reference: its transcript.
        hypothesis: what the base heard.
        wer: word error rate of the one against the other; of characters where no blanks stand between words.
        cer: character error rate, likewise.
        avg_logprob: how sure the base was; natural logarithm, mean over the tokens.
        score: what the list is sorted by, from 1 (surely wrong) to 0.
        heard_elsewhere: the id of the clip whose transcript was heard.
    """

    id: str
    kind: SuspectKind
    language: str
    split: str
    reference: str
    hypothesis: str
    wer: float
    cer: float
    avg_logprob: float
    score: float
    heard_elsewhere: str | None = None

    @property
    def is_label_error(self) -> bool:
        """Whether the transcript, not the sound or the base, is to blame."""
        return self.kind in {"mispaired", "wrong_transcript", "incomplete_transcript"}


class BaseScore(_Frozen):
    """The base's WER on what was listened to of one language; of characters where no blanks stand between words."""

    clips: int
    wer: float
    low: float
    high: float
    without_suspects: float | None  # leaving out suspected transcripts


class Power(_Frozen):
    """How small a difference in WER a set of held-out clips can show; see `power`.

    Attributes:
        clips: in the set.
        words: in its transcripts; here as in `wer`, characters where the language writes no blanks between words.
        wer: of the base on it, measured or assumed.
        measured: whether it was measured, with its spread; else both are assumed.
        detectable: the smallest difference in WER that is found in 8 of 10 trials.
        wanted: the difference that was asked for, or half of the base's WER.
        more_clips: clips of the same kind to add for the wanted one; 0 where there are enough.
    """

    clips: int
    words: int
    wer: float
    measured: bool
    detectable: float
    wanted: float
    more_clips: int


class Cost(_Frozen):
    """What training will take; see `cost`.

    Attributes:
        hours: of training audio.
        steps_per_epoch: optimiser steps.
        steps: that the config allows.
        epochs: that these steps are.
        seconds_per_step: measured or estimated.
        how: by which way that was found.
        training_hours: all steps, or the config's time budget if that ends sooner.
        disk_gb: checkpoints, and the version that is published.
        price: in the currency of the price that was given.
    """

    hours: float
    steps_per_epoch: int
    steps: int
    epochs: float
    seconds_per_step: float
    how: str
    training_hours: float
    disk_gb: float
    price: float | None


class LintReport(_Frozen):
    """All that lint found.

    Attributes:
        fingerprint: of the data set.
        base: the version that listened, or None.
        kept: language → split → clips and seconds.
        left_out: reason → rows left out by their source's own rule; no fault.
        findings: errors first.
        suspects: clips in which the base heard something else, the surest first.
        listened: clips that the base has listened to.
        scores: language → the base's WER.
        power: "language split" → what it can decide.
        cost: what training will take, or None if it was not asked for.
    """

    fingerprint: str
    base: str | None
    kept: dict[str, dict[str, Kept]]
    left_out: dict[str, int]
    findings: tuple[Finding, ...]
    suspects: tuple[Suspect, ...]
    listened: int
    scores: dict[str, BaseScore]
    power: dict[str, Power]
    cost: Cost | None

    @property
    def errors(self) -> list[Finding]:
        """Return what must be mended first."""
        return [one for one in self.findings if one.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Return what should be looked at."""
        return [one for one in self.findings if one.level == "warning"]

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)


class LintError(Exception):
    """Data have errors, and nothing was trained."""

    def __init__(self, errors: Sequence[Finding]) -> None:
        """Name the codes, and what can be done."""
        codes = ", ".join(sorted({error.code for error in errors}))
        mend = "python -m training lint shows them; --accept CODE lets one pass"
        super().__init__(f"{len(errors)} errors in the data ({codes}): {mend}")
