"""`python -m training gate`: judge any two versions again."""

from pathlib import Path
from typing import Annotated

import typer

from training.command_line import REGISTRY, RUNS, ConfigOption, FolderOption, RegistryOption, RunsOption

GENERATED = ("long-form", "non-speech", "non-speech undetected", "timestamps", "worst decile")
"""Names of guards that every contest has."""


def gate_command(
    candidate: Annotated[str, typer.Argument(help="name@alias or name@version, in the registry.")],
    against: Annotated[str | None, typer.Option(help="What it must beat; its own name@production if not said.")] = None,
    config: ConfigOption = None,
    folder: FolderOption = None,
    manifest: Annotated[Path | None, typer.Option(help="Utterances, such as a run's manifest.jsonl.")] = None,
    language: Annotated[str | None, typer.Option(help="Of a folder's clips; else, the only one to take.")] = None,
    split: Annotated[str, typer.Option(help="test, dev, or all for clips that nobody trains on.")] = "test",
    guard: Annotated[
        list[Path] | None, typer.Option(help="Manifest of other speech that must not get worse; may be repeated.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Move production if the gate lets it through.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Move production whatever the verdict; needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is forced; kept in the verdict and in the log.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    registry: RegistryOption = REGISTRY,
    runs: RunsOption = RUNS,
) -> None:
    """Judge a version against another on clips that neither has seen.

    Exit status 0: it may go into production; 3: refused; 4: not enough data to decide; 1: an error.

    For example:

        python -m training gate whisper@candidate --against whisper@production --config it.toml
    """
    if force and not (reason and reason.strip()):
        raise typer.BadParameter("--force needs --reason: say why the verdict is overruled", param_hint="--reason")
    if reason and not force:
        raise typer.BadParameter("a reason is for --force alone", param_hint="--reason")

    from rich.console import Console

    from registry import Registry
    from training import contest as contests
    from training.command_evaluate import one_of
    from training.gate import exit_status
    from training.refusals import data_fingerprint, of_changed_recipe
    from training.run import logs_of
    from training.shell import Shell
    from training.testset import read_clips, read_guard

    store = Registry(registry)
    challenger = store.resolve(candidate)
    rival = store.resolve(against or f"{challenger.name}@production")
    for version in (challenger, rival):
        store.verify(version)
    shell = Shell(Console(stderr=True, highlight=False))
    clips = read_clips(
        challenger,
        config=config,
        folder=folder,
        manifest=manifest,
        language=language,
        split=one_of(split),
        cache=runs / "data",
    )
    guards = dict(clips.guards)
    for path in guard or []:
        name = path.parent.name if path.stem == "manifest" else path.stem
        if name in guards or name in GENERATED:
            raise typer.BadParameter(f"there is a guard {name!r} already: rename {path}", param_hint="--guard")
        guards[name] = read_guard(path)
    # Whose data these are: only what they were trained from can have been trained on them.
    is_own = data_fingerprint(challenger) == clips.fingerprint
    data = contests.TestSet(clips.chosen, clips.audio_root, guards, clips.train if is_own else None)
    contest = contests.hold(
        challenger,
        rival,
        contests.zero_shot_of(challenger, store),
        data,
        cache=runs / "evaluations",
        seed=clips.seed,
        rules=clips.rules,
        say=shell.say,
        progress=shell.progress,
        refusals=of_changed_recipe(challenger, clips.fingerprint) if config is not None else [],
        looks=contests.looks_at(store, challenger, clips.chosen),
    )
    if force and reason:
        contest = contests.force(contest, reason.strip())
    pages = runs / "gates" / f"{challenger.name}-{challenger.id}-vs-{rival.name}-{rival.id}"
    verdict_file = contests.keep(contest, store, data, pages, logs_of(challenger, runs))
    verdict = contest.verdict
    if as_json:
        print(verdict.model_dump_json(indent=2))  # noqa: T201
    else:
        for line in (*verdict.reasons, *verdict.notes, f"{verdict.candidate}: {verdict.decision}"):
            print(line)  # noqa: T201
    shell.say(f"verdict {verdict_file}; each utterance, with its sound: {pages / contests.PAGE}")
    if force or (promote and verdict.passed):
        contests.promote(contest, store, verdict_file)
        shell.say(f"{challenger.name}@production is now {challenger.id}")
    elif not verdict.passed:
        raise typer.Exit(exit_status(verdict))
