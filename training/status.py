"""Where a model's loop stands: what is served, what the last retraining came to, what the gate said, what comes next.

It reads what others wrote, and changes nothing.
"""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry import Registry
from training.retrain import Report, is_running, last_decision, reports
from training.schedule import read_schedule


class LastVerdict(BaseModel):
    """What the gate said last."""

    model_config = ConfigDict(frozen=True)

    file: str
    candidate: str
    base: str
    passed: bool
    reasons: tuple[str, ...]
    judged_at: datetime


class Status(BaseModel):
    """One model."""

    model_config = ConfigDict(frozen=True)

    name: str
    aliases: dict[str, str]  # to version ids
    last: Report | None  # the last retraining, whatever it came to
    decision: Report | None  # the last that decided something
    verdict: LastVerdict | None
    running: bool
    cron: str | None
    next_run: datetime | None


def names(registry: Registry, runs: Path) -> list[str]:
    """Return the models that were published, or that retraining knows of."""
    folder = runs / "retrain"
    retrained = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted({*registry.models(), *retrained})


def status(name: str, registry: Registry, runs: Path) -> Status:
    """Return where a model's loop stands.

    Raises:
        RegistryError: a verdict or an alias is damaged.
    """
    folder = runs / "retrain" / name
    known = name in registry.models()
    kept = reports(folder)
    schedule = read_schedule(folder)
    return Status(
        name=name,
        aliases={alias: there.version for alias, there in registry.aliases(name).items()} if known else {},
        last=kept[-1] if kept else None,
        decision=last_decision(folder),
        verdict=_last_verdict(name, registry) if known else None,
        running=is_running(folder),
        cron=None if schedule is None else schedule.cron,
        next_run=None if schedule is None else schedule.next_run,
    )


def _last_verdict(name: str, registry: Registry) -> LastVerdict | None:
    found = [(path.name, registry.verdict(name, path.name)) for path in registry.verdicts(name)]
    verdicts = [LastVerdict.model_validate({"file": file, **content}) for file, content in found]
    return max(verdicts, key=lambda verdict: verdict.judged_at, default=None)
