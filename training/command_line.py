"""What several commands share: options that name a run's recipe and folders, and how an interruption is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.config import ConfigError, TrainingConfig, make_config, read_config
from training.devices import rank

FolderOption = Annotated[Path | None, typer.Option(help="Clips with metadata.csv or .jsonl, as in audiofolder.")]
LanguageOption = Annotated[str | None, typer.Option(help="Whisper's code of the folder's language, such as it.")]
ConfigOption = Annotated[Path | None, typer.Option(help="A TOML recipe; see training/configs/.")]
NameOption = Annotated[str | None, typer.Option(help="Model whose versions are published. (whisper)")]
BaseOption = Annotated[
    str | None, typer.Option(help="name@alias, name@version or hub:org/name@revision. (hub:openai/whisper-small)")
]
StepsOption = Annotated[int | None, typer.Option(help="Optimiser steps at most.")]
MinutesOption = Annotated[float | None, typer.Option(help="Minutes of training at most.")]
AcceptOption = Annotated[
    list[str] | None, typer.Option(help="Code of an error of lint that is to be a warning; once for each.")
]
RegistryOption = Annotated[
    Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="Folder of the model registry.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder for caches, checkpoints and logs.")]

REGISTRY = Path("runs/registry")
RUNS = Path("runs")


@contextmanager
def interruptible() -> Iterator[None]:
    """Tell who interrupts a run how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if rank() == 0:
            Console(stderr=True).print("interrupted: the same command goes on from the last checkpoint")
        raise typer.Exit(130) from None


def read_settings(
    folder: Path | None,
    language: str | None,
    config: Path | None,
    *,
    name: str | None,
    base: str | None,
    max_steps: int | None = None,
    minutes: float | None = None,
) -> TrainingConfig:
    """Return the config of a run, from a folder or a recipe and what is said beside it.

    Raises:
        ConfigError: neither is given, or both are, or the recipe cannot be used.
    """
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
