"""`python -m training doctor`: is this machine fit to train?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

SIGNS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}


def doctor(
    registry: Annotated[
        Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="Folder of the model registry.")
    ] = Path("runs/registry"),
    runs: Annotated[Path, typer.Option("--runs", help="Folder for caches, checkpoints and logs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check machine, packages, GPU, memory, disk, permissions and known traps; say how to mend each.

    Exit status 1 if anything stands in the way of training; warnings do not.
    """
    from training.doctor import examine

    findings = examine(registry, runs)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        console = Console(highlight=False)
        for finding in findings:
            console.print(f"{SIGNS[finding.state]:>16}  {finding.what}: ", end="")
            console.print(finding.found, markup=False, soft_wrap=True)
            if finding.mend:
                console.print(f"{'':9}→ {finding.mend}", markup=False, soft_wrap=True)
    if any(finding.state == "error" for finding in findings):
        raise typer.Exit(1)
