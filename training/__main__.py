"""`python -m training`: train on your own speech, do so by the clock, or run the demonstration."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from registry import Registry, RegistryError
from speech.audio import AudioError
from speech.engine import EngineError
from training.checkpoints import SaveError
from training.command_doctor import doctor
from training.command_evaluate import evaluate_command
from training.command_gate import gate_command
from training.command_lint import lint_command
from training.command_push import push
from training.command_status import status_command
from training.config import ConfigError, TrainingConfig, make_config, read_config
from training.data.manifest import ManifestError
from training.data.report import TooManyDroppedError
from training.data.sources.asterisk import SourceUnavailableError
from training.data.sources.rows import SourceError
from training.devices import follow, rank
from training.parity import ParityError
from training.shell import Shell, StepError, run_command_line

USER_ERRORS = (
    RegistryError,
    AudioError,
    ConfigError,
    ManifestError,
    TooManyDroppedError,
    SourceUnavailableError,
    SourceError,
    ParityError,
    StepError,
    SaveError,
    EngineError,
    FloatingPointError,
)
"""What the message alone explains; anything else is a bug and shows where it happened."""

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(doctor)
app.command()(push)
app.command("status")(status_command)

RegistryOption = Annotated[
    Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="Folder of the model registry.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder for caches, checkpoints and logs.")]


@app.command("run")
def run_command(
    folder: Annotated[Path | None, typer.Option(help="Clips with metadata.csv or .jsonl, as in audiofolder.")] = None,
    language: Annotated[str | None, typer.Option(help="Whisper's code of the folder's language, such as it.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML recipe; see training/configs/.")] = None,
    name: Annotated[str | None, typer.Option(help="Model to publish versions of [whisper].")] = None,
    base: Annotated[
        str | None, typer.Option(help="name@alias, name@version or hub:org/name@revision [hub:openai/whisper-small].")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimiser steps at most.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training at most.")] = None,
    registry: RegistryOption = Path("runs/registry"),
    runs: RunsOption = Path("runs"),
) -> None:
    """Fine-tune on a folder or a recipe, publish the version, and promote it if the gate lets it through."""
    settings = _settings(folder, language, config, name=name, base=base, max_steps=max_steps, minutes=minutes)
    if rank() > 0:  # torchrun started several: the first does all of it, the others train with it
        with _interruptible():
            follow()
        return
    from training.gate import exit_status
    from training.run import run  # torch takes seconds to import: not for --help, nor for a typing error

    shell = Shell()
    with _interruptible():
        outcome = run(settings, Registry(registry), runs, say=shell.say, progress=shell.progress)
    if not outcome.promoted:
        raise typer.Exit(exit_status(outcome.verdict))


@app.command("demo")
def demo_command(
    registry: RegistryOption = Path("runs/registry"),
    runs: RunsOption = Path("runs"),
    port: Annotated[int, typer.Option(help="Of the service that is started at the end.")] = 8000,
) -> None:
    """Run the whole loop on real speech: base, data, fine-tuning, gate, service, transcripts."""
    from training.demo import demo

    with _interruptible():
        demo(registry, runs, port, Shell())


app.command("lint")(lint_command)
app.command("evaluate")(evaluate_command)
app.command("gate")(gate_command)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if rank() == 0:
            Console(stderr=True).print("interrupted: the same command goes on from the last checkpoint")
        raise typer.Exit(130) from None


def _settings(
    folder: Path | None,
    language: str | None,
    config: Path | None,
    *,
    name: str | None,
    base: str | None,
    max_steps: int | None,
    minutes: float | None,
) -> TrainingConfig:
    if (folder is None) == (config is None):
        raise ConfigError("give either --folder DIR (with --language CODE) or --config FILE")
    overrides = {
        "name": name,
        "base": base,
        "max_steps": max_steps,
        "time_budget_s": None if minutes is None else 60 * minutes,
    }
    if config is not None:
        return read_config(config, **overrides)
    source = {"kind": "folder", "path": folder, "language": language}
    return make_config("command line", {"sources": [source]}, **overrides)


def main() -> None:
    """Run the command line."""
    level = logging.INFO if rank() == 0 else logging.WARNING
    logging.basicConfig(level=level, format="      %(message)s", stream=sys.stdout)
    for noisy in ("httpx", "datasets", "evaluate", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    run_command_line(app, "python -m training", USER_ERRORS)


if __name__ == "__main__":
    main()
