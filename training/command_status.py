"""`python -m training status`: where each model's loop stands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from registry import Registry

if TYPE_CHECKING:
    from training.status import Status


def status_command(
    name: Annotated[str | None, typer.Argument(help="A model; all if not said.")] = None,
    registry: Annotated[
        Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="Folder of the model registry.")
    ] = Path("runs/registry"),
    runs: Annotated[Path, typer.Option("--runs", help="Folder for caches, checkpoints and logs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Say what is in production, what the last retraining came to, what the gate said, and when the next one runs.

    For example:

        python -m training status
    """
    from training.status import names, status

    store = Registry(registry)
    known = names(store, runs)
    if name is not None and name not in known:
        raise typer.BadParameter(f"there is no {name!r}; there are: {', '.join(known) or 'none'}", param_hint="NAME")
    console = Console(highlight=False)
    for one in [name] if name is not None else known:
        found = status(one, store, runs)
        if as_json:
            typer.echo(found.model_dump_json())
        else:
            for line in _lines(found):
                console.print(line, markup=False, soft_wrap=True)
    if not known and not as_json:
        console.print("no model yet: python -m training run, or make demo")


def _lines(found: "Status") -> list[str]:
    lines = [found.name]
    lines += [f"  {alias:<12}{version}" for alias, version in found.aliases.items()]
    if found.verdict is not None:
        passed = "passed" if found.verdict.passed else "did not pass"
        lines.append(f"  last verdict {found.verdict.candidate} {passed}, {found.verdict.judged_at:%Y-%m-%d %H:%M} UTC")
        lines += [f"    {reason}" for reason in found.verdict.reasons]
    if found.running:
        lines.append("  a retraining runs now")
    if found.decision is not None and found.decision != found.last:
        lines.append(f"  last decision {found.decision.started_at:%Y-%m-%d %H:%M} UTC: {found.decision.result}")
    if found.last is not None:
        lines.append(
            f"  last retraining {found.last.started_at:%Y-%m-%d %H:%M} UTC: {found.last.result.replace('_', ' ')}, "
            f"{found.last.detail}"
        )
    if found.next_run is not None:
        lines.append(f"  next retraining {found.next_run:%Y-%m-%d %H:%M %Z} ({found.cron})")
    return lines
