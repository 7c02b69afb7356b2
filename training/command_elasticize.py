"""`python -m training elasticize`: speech at the price of its length, from a checkpoint that nobody has fine-tuned."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.command_line import REGISTRY, RUNS, RegistryOption, RunsOption, interruptible
from training.config import make_config

if TYPE_CHECKING:
    from registry import Version
    from training.data.manifest import Utterance

WORSE = 3
"""Exit status if the child is worse than its parent, as of a candidate that the gate refuses."""


def elasticize_command(
    version: Annotated[str, typer.Argument(help="name@alias or name@version, in the registry; it needs a checkpoint.")],
    audio: Annotated[list[Path], typer.Option(exists=True, help="Folder or file of speech; no transcripts needed.")],
    language: Annotated[str | None, typer.Option(help="Of all the audio; else, the model says it.")] = None,
    judge: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="Transcribed clips to judge by: a recipe's test split, a manifest, or a folder"),
    ] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="Optimiser steps at most.")] = 150,
    minutes: Annotated[float | None, typer.Option(min=0, help="Minutes of training at most.")] = None,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak of the learning rate.")] = 1e-5,
    alias: Annotated[str | None, typer.Option(help="Alias to move to the child, such as candidate.")] = None,
    registry: RegistryOption = REGISTRY,
    runs: RunsOption = RUNS,
) -> None:
    """Teach a version to answer from short context by its own words, and publish it as the version's child.

    Some hundred clips of a few seconds are enough, in any language. It is published only if it is no worse than its
    parent at 30 s, in each language of the audio and of --judge; else, the exit status is 3.

    For example:

        python -m training elasticize whisper@production --audio recordings
    """
    from registry import Registry
    from registry.names import check_alias
    from training.elasticize import elasticize
    from training.shell import Shell

    if alias is not None:
        check_alias(alias)  # rather now than when all is done
    shell = Shell()
    with interruptible():
        store = Registry(registry)
        parent = store.resolve(version)
        store.verify(parent)
        settings = make_config(
            "command line",
            {
                "name": parent.name,
                "base": parent.ref,
                "sources": [{"kind": "folder", "path": audio[0], "language": language}],
                "max_steps": max_steps,
                "time_budget_s": None if minutes is None else 60 * minutes,
                "learning_rate": learning_rate,
                "eval_steps": max_steps,
                "select": "last",
                "train_margins_s": (0.0, 0.3, 0.64, 1.28, 1.92, 2.56),
            },
        )
        judges = [
            clip.model_copy(update={"id": f"{number}/{clip.id}"})  # folders of one name have clips of one name
            for number, place in enumerate(judge or [], 1)
            for clip in _clips(parent, place, language, runs)
        ]
        outcome = elasticize(
            settings,
            parent,
            store,
            audio,
            runs,
            judged_by=judges,
            language=language,
            say=shell.say,
            progress=shell.progress,
        )
        if outcome.version is None:
            raise typer.Exit(WORSE)
        if alias is not None:
            before = store.alias(parent.name, alias)
            expected = None if before is None else before.version
            store.move_alias(parent.name, alias, outcome.version.id, expected=expected, reason="elasticized")
            shell.say(f"{parent.name}@{alias} is {outcome.version.ref}")


def _clips(parent: "Version", place: Path, language: str | None, runs: Path) -> "list[Utterance]":
    """Return transcribed clips, with absolute paths."""
    from training.testset import read_clips

    kind = "folder" if place.is_dir() else "config" if place.suffix == ".toml" else "manifest"
    sources: dict[str, Path | None] = {"folder": None, "config": None, "manifest": None, kind: place}
    found = read_clips(
        parent,
        **sources,
        language=language if kind == "folder" else None,
        split="all" if kind == "folder" else "test",
        cache=runs / "data",
    )
    root = found.audio_root.resolve()
    return [
        clip.model_copy(update={"audio": clip.audio.model_copy(update={"path": str(root / clip.audio.path)})})
        for clip in found.chosen
    ]
