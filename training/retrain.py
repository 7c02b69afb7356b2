"""Retraining that a scheduler can call at any time: it learns when there is something new, and else does nothing.

One at a time a model; the same data, recipe and base are trained on once; a run that was killed goes on; a run that
failed has moved no alias, and is tried again the next time. What each came to is kept in `runs/retrain/<name>/`. It
decides neither what is good (`training.gate`) nor when to run (`training.schedule`).
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict

from training.alone import alone_in

Result = Literal["no_change", "too_little", "lint", "promoted", "candidate", "refused", "undecided", "failed"]

DECIDED: frozenset[Result] = frozenset({"promoted", "candidate", "refused", "undecided"})
"""What the same data would come to again, so they are not tried again. Not what lint refuses: rows that cannot be
read are no part of the data's key, and that they were mended must count."""

QUIET: frozenset[Result] = frozenset({"no_change", "too_little"})
"""What nobody wants to be told of every night."""

KEPT_REPORTS = 1000

WEBHOOK_TIMEOUT_S = 10.0
WEBHOOK_TRIES = 3


class BusyError(Exception):
    """Another retraining of this model runs."""


class Report(BaseModel):
    """What one retraining came to; no word of what was said is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    result: Result
    detail: str  # one line for people
    reasons: tuple[str, ...] = ()  # of the verdict, which the line joins
    key: str | None = None  # of data, recipe and base: the same key is not trained on twice
    version: str | None = None  # that was published
    verdict: str | None = None  # the verdict's file in the registry
    new_clips: int | None = None
    started_at: datetime
    seconds: float
    run: str | None = None  # its folder


class Turn(BaseModel):
    """What a turn of the loop came to, as far as a report tells of it."""

    model_config = ConfigDict(frozen=True)

    result: Result
    detail: str
    reasons: tuple[str, ...] = ()
    version: str | None = None
    verdict: str | None = None
    run: str | None = None


def retrain(
    name: str,
    runs: Path,
    *,
    look: Callable[[], tuple[str, set[str]]],
    turn: Callable[[], Turn],
    min_new_clips: int = 0,
    webhook: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Learn what is new, if enough is, and keep and send a report.

    Args:
        name: the model's.
        runs: folder of all runs.
        look: reads the data; returns the key of data, recipe and base, and what identifies each training clip.
        turn: trains, judges and promotes.
        min_new_clips: so many training clips must be new since those that were last learned from; with 0, whatever has
            changed is worth it: clips that were taken out, the recipe, the base.
        webhook: gets the report of all but "no change", as JSON whose `text` chat services show.
        say: called with one line on what happens.

    Raises:
        BusyError: another one runs.
        Exception: whatever stopped the turn; it is reported first, and no alias has moved.
    """
    folder = runs / "retrain" / name
    started, clock = datetime.now(UTC), time.monotonic()

    def report(found: Turn, key: str | None = None, new_clips: int | None = None) -> Report:
        return Report(
            name=name,
            **found.model_dump(),
            key=key,
            new_clips=new_clips,
            started_at=started,
            seconds=round(time.monotonic() - clock, 1),
        )

    with only_one(folder):
        key, made, interrupted, known = None, None, False, set[str]()
        try:
            key, clips = look()
            decided, known = _last_decision(folder)
            new = len(clips - known)
            if decided is not None and decided.key == key:
                detail = f"none since {decided.started_at:%Y-%m-%d %H:%M} UTC ({decided.result}: {decided.detail})"
                made = report(Turn(result="no_change", detail=detail), key, 0)
            elif known and new < min_new_clips:
                detail = f"{new} training clips are new, {min_new_clips} are wanted"
                made = report(Turn(result="too_little", detail=detail), key, new)
            else:
                say(f"{new} new training clips")
                made = report(turn(), key, new)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            detail = "interrupted; the next one goes on" if interrupted else f"{type(error).__name__}: {error}"
            made = report(Turn(result="failed", detail=detail.splitlines()[0]), key)
            raise
        finally:
            if made is not None:
                if made.result in DECIDED:
                    decision = {"report": made.model_dump(mode="json"), "clips": sorted(clips)}
                    _write(folder / "decision.json", json.dumps(decision))
                _keep(folder, made)
                if webhook is not None and made.result not in QUIET and not interrupted:
                    why = send(webhook, made)
                    say("reported" if why is None else f"the report could not be sent: {why}")
    return made


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a model's retraining; it is let go when the process ends, however it ends.

    Raises:
        BusyError: somebody holds it.
    """
    with alone_in(folder, BusyError(f"another retraining of {folder.name} runs; nothing was done")):
        yield


def is_running(folder: Path) -> bool:
    """Say whether a retraining runs now."""
    if not (folder / "lock").is_file():
        return False
    try:
        with only_one(folder):
            return False
    except BusyError:
        return True


def reports(folder: Path) -> list[Report]:
    """Return all reports, the oldest first."""
    path = folder / "reports.jsonl"
    if not path.is_file():
        return []
    return [Report.model_validate_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def last_decision(folder: Path) -> Report | None:
    """Return the last report that decided something about its data."""
    return _last_decision(folder)[0]


def _last_decision(folder: Path) -> tuple[Report | None, set[str]]:
    """Return it, and what identified the training clips that it was about."""
    path = folder / "decision.json"
    if not path.is_file():
        return None, set()
    kept = json.loads(path.read_text(encoding="utf-8"))
    return Report.model_validate(kept["report"]), set(kept["clips"])


def send(url: str, report: Report) -> str | None:
    """Post a report; return None if it was taken, else why not. It never raises: what was learned stands."""
    text = f"Whisperloop, {report.name}: {report.result.replace('_', ' ')}. {report.detail}"
    body = {"text": text, "report": report.model_dump(mode="json")}
    why = None
    for attempt in range(WEBHOOK_TRIES):
        if attempt:
            time.sleep(2.0**attempt)
        try:
            answer = httpx.post(url, json=body, timeout=WEBHOOK_TIMEOUT_S, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = type(error).__name__  # its message may hold the address, which may hold a secret
            continue
        if answer.is_success:
            return None
        why = f"status {answer.status_code}"
    return why


def _keep(folder: Path, report: Report) -> None:
    before = reports(folder)
    if before and before[-1].result in QUIET and report.result in QUIET:
        before.pop()  # of nights on which nothing happened, the last is enough
    kept = [*before, report][-KEPT_REPORTS:]
    _write(folder / "reports.jsonl", "".join(one.model_dump_json() + "\n" for one in kept))


def _write(path: Path, content: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)
