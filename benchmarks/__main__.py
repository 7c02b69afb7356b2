"""`python -m benchmarks`: measure this project beside its peers, and write docs/benchmarks.md."""

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from registry import RegistryError
from training.data.manifest import ManifestError
from training.shell import Shell, StepError, run_command_line

USER_ERRORS = (StepError, RegistryError, ManifestError)
"""What the message alone explains; anything else is a bug and shows where it happened."""

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

RunsOption = Annotated[Path, typer.Option("--runs", help="Folder with the demonstration's data and versions.")]


@app.command("run")
def run_command(
    only: Annotated[list[str] | None, typer.Option(help="One measure; may be given several times.")] = None,
    full: Annotated[bool, typer.Option("--full", help="All clips for all contenders, and more rounds: hours.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an interrupted run has measured.")] = False,
    model: Annotated[
        str, typer.Option(help="The version to measure; a run in --runs published it. The demonstration's is made.")
    ] = "whisper@production",
    registry: Annotated[
        Path | None, typer.Option(envvar="WHISPERLOOP_REGISTRY", help="Folder of the registry. (RUNS/registry)")
    ] = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """Measure everything (half an hour on two cores); the same command goes on where it was interrupted.

    For example:

        python -m benchmarks run

        python -m benchmarks run --only clip_latency --only long_file

        python -m benchmarks run --model mine@production --fresh
    """
    from benchmarks.run import run

    try:
        run(runs, registry or runs / "registry", model=model, only=only or [], full=full, fresh=fresh, shell=Shell())
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: the same command goes on with the next round")
        raise typer.Exit(130) from None


@app.command("training")
def training_command(
    only: Annotated[
        list[str] | None, typer.Option(help="parts, folds, speed or padding; may be given several times.")
    ] = None,
    steps: Annotated[int, typer.Option(min=10, help="Optimiser steps of each fine-tuning.")] = 200,
    jobs: Annotated[int, typer.Option(min=1, help="Fine-tunings at once; they share the device.")] = 1,
    registry: Annotated[
        Path | None, typer.Option(envvar="WHISPERLOOP_REGISTRY", help="Folder of the registry. (RUNS/registry)")
    ] = None,
    into: Annotated[Path, typer.Option(help="Folder of the documents.")] = Path("docs/training"),
    runs: RunsOption = Path("runs"),
) -> None:
    """Measure what each part of the training recipe is worth: minutes on a GPU, a day on two cores.

    Needs the demonstration's base model (`make demo`, once). The same command goes on where it was interrupted.

    For example:

        python -m benchmarks training

        python -m benchmarks training --only parts --only folds --jobs 6
    """
    from benchmarks.recipe.run import run

    run(registry or runs / "registry", runs, only=only or [], steps=steps, jobs=jobs, into=into, shell=Shell())


@app.command("report")
def report_command(runs: RunsOption = Path("runs")) -> None:
    """Write docs/benchmarks.md and its plots again, from benchmarks/results.

    For example:

        python -m benchmarks report
    """
    from benchmarks.environment import peers_python
    from benchmarks.report import draw, report

    report()
    draw(peers_python(runs.resolve() / "bench" / "peers", Shell()))


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the services that it started are stopped
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    run_command_line(app, "python -m benchmarks", USER_ERRORS)


if __name__ == "__main__":
    main()
