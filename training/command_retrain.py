"""`python -m training retrain` and `schedule`: the loop by the clock."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry import Registry
from training.command_line import (
    REGISTRY,
    RUNS,
    AcceptOption,
    BaseOption,
    ConfigOption,
    FolderOption,
    LanguageOption,
    MinutesOption,
    NameOption,
    RegistryOption,
    RunsOption,
    StepsOption,
    interruptible,
    read_settings,
)
from training.command_lint import check_codes
from training.config import TrainingConfig
from training.devices import follow, leading, rank
from training.shell import Shell

if TYPE_CHECKING:
    from training.retrain import Result, Turn
    from training.rules import Rules
    from training.run import Outcome

EXIT_STATUSES: dict["Result", int] = {"refused": 3, "lint": 3, "undecided": 4}
"""As of `run` and `lint`; of whatever else ends without an error, 0."""


def retrain_command(
    folder: FolderOption = None,
    language: LanguageOption = None,
    config: ConfigOption = None,
    name: NameOption = None,
    base: BaseOption = None,
    max_steps: StepsOption = None,
    minutes: MinutesOption = None,
    min_new_clips: Annotated[
        int, typer.Option(min=0, help="Training clips that must be new since the last decision; 0 for any change.")
    ] = 0,
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Move production if the gate lets it through.")
    ] = True,
    accept: AcceptOption = None,
    webhook: Annotated[
        str | None, typer.Option(envvar="WHISPERLOOP_RETRAIN_WEBHOOK", help="Address that gets a report by POST.")
    ] = None,
    registry: RegistryOption = REGISTRY,
    runs: RunsOption = RUNS,
) -> None:
    """Learn what is new, if anything is; made to be called by a clock.

    Exit status 0: promoted, published as a candidate, or nothing to do; 3: refused by lint or by the gate; 4: too few
    clips to decide; 1: an error. No alias moves but by a passed verdict.

    For example:

        python -m training retrain --config it.toml
    """
    settings = read_settings(folder, language, config, name=name, base=base, max_steps=max_steps, minutes=minutes)
    if rank() > 0:  # torchrun started several
        with interruptible():
            follow()
        return
    check_codes(accept or [])
    from training.retrain import BusyError, retrain

    shell, store = Shell(), Registry(registry)
    try:
        with interruptible(), leading():
            report = retrain(
                settings.name,
                runs,
                look=lambda: _look(settings, store, runs, shell, accept=accept or ()),
                turn=lambda: _turn(settings, store, runs, shell, accept=accept or (), may_promote=promote),
                min_new_clips=min_new_clips,
                webhook=webhook,
                say=shell.say,
            )
    except BusyError as error:
        shell.say(str(error))
        with leading():  # the error ended the other one
            return
    shell.say(f"{report.result.replace('_', ' ')}: {report.detail}")
    if status := EXIT_STATUSES.get(report.result):
        raise typer.Exit(status)


def schedule_command(
    context: typer.Context,
    cron: Annotated[str, typer.Option(help="Minute, hour, day, month, day of week, such as '30 3 * * *'.")],
    timezone: Annotated[str | None, typer.Option(help="Such as Europe/Rome; the machine's if not said.")] = None,
) -> None:
    """Run `retrain` by the clock until it is stopped; what follows is `retrain`'s: --config it.toml --minutes 60.

    For machines without cron, systemd timers or Kubernetes, which do the same: docs/training/retrain.md.

    For example:

        python -m training schedule --cron '0 3 * * sun' --config it.toml --minutes 60
    """
    from training.schedule import keep_schedule, retrain_command

    command = typer.main.get_command(_alone)
    given = command.make_context("retrain", list(context.args)).params  # a mistake is told now, not at night
    settings = read_settings(
        *(given[option] for option in ("folder", "language", "config")),
        **{option: given[option] for option in ("name", "base", "max_steps", "minutes")},
    )
    shell = Shell()
    keep_schedule(
        cron,
        retrain_command(context.args),
        given["runs"] / "retrain" / settings.name,
        timezone=timezone,
        say=shell.say,
    )


_alone = typer.Typer(add_completion=False)
_alone.command()(retrain_command)


def _look(
    settings: TrainingConfig, store: Registry, runs: Path, shell: Shell, *, accept: Sequence[str]
) -> tuple[str, set[str]]:
    """Read the data; return the key of data, recipe and base, and what identifies each training clip."""
    from speech.tokens import WhisperTokenizer
    from training.prepare import prepare
    from training.run import resolve_base, run_key

    base = resolve_base(settings.base, store, shell.say)
    data = prepare(settings, WhisperTokenizer.from_folder(base.path), runs / "data")
    # Kept beside the decision: not what was said, which may be deleted elsewhere.
    clips = {_digest(f"{u.audio.sha256} {u.audio.offset} {u.text}") for u in data.of("train")}
    return decision_key(run_key(settings, base, data), settings.gate, accept), clips


def decision_key(run: str, gate: "Rules", accept: Sequence[str]) -> str:
    """Return what a decision is known by: what lint or the gate refused is looked at again once they accept more."""
    return "-".join([run, _digest(gate.model_dump_json())[:8], *sorted(set(accept))])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _turn(
    settings: TrainingConfig, store: Registry, runs: Path, shell: Shell, *, accept: Sequence[str], may_promote: bool
) -> "Turn":
    """Lint, train, judge, and promote if that may be."""
    from training.lint.report import LintError
    from training.retrain import Turn
    from training.run import run

    try:
        outcome = run(
            settings,
            store,
            runs,
            say=shell.say,
            progress=shell.progress,
            accept=accept,
            unattended=True,
            may_promote=may_promote,
        )
    except LintError as error:
        return Turn(result="lint", detail=str(error))
    return came_to(outcome, store)


def came_to(outcome: "Outcome", store: Registry) -> "Turn":
    """Return what a run came to, as a report tells of it."""
    from training.retrain import Turn

    results: dict[str, Result] = {"promote": "candidate", "refuse": "refused", "undecided": "undecided"}
    version = outcome.version
    verdicts = [path.name for path in store.verdicts(version.name) if path.name.startswith(f"{version.id}-vs-")]
    return Turn(
        result="promoted" if outcome.promoted else results[outcome.verdict.decision],
        detail="; ".join(outcome.verdict.reasons) or outcome.verdict.decision,
        reasons=tuple(outcome.verdict.reasons),
        version=version.ref,
        verdict=verdicts[-1] if verdicts else None,
        run=str(outcome.run),
    )
