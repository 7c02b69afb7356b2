"""`python -m training evaluate`: what one version scores, as it would be served."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.command_line import REGISTRY, RUNS, ConfigOption, FolderOption, RegistryOption, RunsOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from training.evaluate import Scores
    from training.guards import Measured
    from training.measure import Scored


def evaluate_command(
    version: Annotated[str, typer.Argument(help="name@alias or name@version, in the registry.")],
    config: ConfigOption = None,
    folder: FolderOption = None,
    manifest: Annotated[Path | None, typer.Option(help="Utterances, such as a run's manifest.jsonl.")] = None,
    language: Annotated[str | None, typer.Option(help="Of a folder's clips; else, the only one to take.")] = None,
    split: Annotated[str, typer.Option(help="test, dev, or all for clips that nobody trains on.")] = "test",
    guards: Annotated[bool, typer.Option(help="Also long recordings, silence, times and languages.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    registry: RegistryOption = REGISTRY,
    runs: RunsOption = RUNS,
) -> None:
    """Score a version on clips that it was not trained on, decoded as the service does it.

    For example:

        python -m training evaluate whisper@production --folder my-speech --language it
    """
    from rich.console import Console

    from registry import Registry
    from training.evaluate import scores_of
    from training.measure import measure, score
    from training.shell import Shell
    from training.testset import read_clips

    resolved = Registry(registry).resolve(version)
    clips = read_clips(
        resolved,
        config=config,
        folder=folder,
        manifest=manifest,
        language=language,
        split=one_of(split),
        cache=runs / "data",
    )
    shell = Shell(Console(stderr=True, highlight=False))  # stdout is for the answer
    cache = runs / "evaluations"
    scored = score(resolved, clips.chosen, clips.audio_root, cache, shell.progress)
    measured = None
    if guards:
        measured = measure(resolved, clips.chosen, clips.guards, clips.audio_root, clips.seed, cache, shell.progress)
    scores = scores_of(scored.hypotheses, clips.seed)
    if as_json:
        print(json.dumps(_as_json(resolved.ref, split, scored, scores, measured), indent=2))  # noqa: T201
        return
    out = Shell().console
    out.print(f"{resolved.ref} on {len(clips.chosen)} {split} clips", markup=False)
    out.print(str(scored), markup=False, soft_wrap=True)
    if scored.record is not None:
        out.print(
            f"{scored.record.engine}, {scored.record.decoding}: {scored.record.speed:.1f} s of audio a second",
            markup=False,
            soft_wrap=True,
        )
    out.print(_score_table(scores))
    if measured is not None:
        out.print(_guard_table(measured))


def one_of(split: str) -> Any:
    """Return the split if it is one.

    Raises:
        typer.BadParameter: it is none.
    """
    if split not in {"test", "dev", "all"}:
        raise typer.BadParameter(f"{split!r} is no split; use test, dev or all", param_hint="--split")
    return split


def _score_table(scores: "Mapping[str, Scores]") -> "Table":
    from rich.table import Table

    table = Table("", "clips", "resampled", "WER", "CER", "WER as written", "CER as written", title="95 % intervals")
    for language, one in scores.items():
        blocks = f"{one.n_blocks} {one.blocks}s"
        table.add_row(
            language,
            str(one.clips),
            blocks,
            str(one.wer),
            str(one.cer),
            str(one.wer_as_written),
            str(one.cer_as_written),
        )
    return table


def _guard_table(measured: "Measured") -> "Table":
    from rich.table import Table

    table = Table("beside", "", title="Beside the clips")
    for what, value in summary(measured).items():
        table.add_row(
            what.replace("_", " "), "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
        )
    return table


def summary(measured: "Measured") -> dict[str, float | int | None]:
    """Return the figures of what was measured beside the clips, by name; None where there is nothing to say."""
    from speech.scores import corpus_rate
    from training.guards import letters_a_minute

    parts = [part for one in measured.long_form for part in one.parts]
    edges = [e for part in parts for e in (part.start_error_s, part.end_error_s) if e is not None]
    figures: dict[str, float | int | None] = {}
    for language in dict.fromkeys(one.language for one in measured.long_form):
        here = [part for one in measured.long_form if one.language == language for part in one.parts]
        rate = sum(part.errors for part in here) / max(1, sum(part.reference for part in here))
        figures[f"long_form_error_rate_{language}"] = rate
    said = len(measured.detections)
    others = {
        f"error_rate_of_guard_{name}": corpus_rate([h.errors for h in heard]) for name, heard in measured.guards.items()
    }
    return {
        **figures,
        **others,
        "long_form_minutes": sum(one.seconds for one in measured.long_form) / 60,
        "long_form_seconds_of_audio_a_second": measured.speed,
        "letters_a_minute_of_no_speech_as_served": letters_a_minute(measured.sounds, detector=True),
        "letters_a_minute_of_no_speech_without_voice_detector": letters_a_minute(measured.sounds, detector=False),
        "word_times": sum(one.n_words for one in measured.long_form),
        "word_times_out_of_order": sum(one.disordered for one in measured.long_form),
        "word_times_outside_the_recording": sum(one.outside for one in measured.long_form),
        "word_times_off_by_seconds": sum(edges) / len(edges) if edges else None,
        "language_identified": sum(d.detected == d.language for d in measured.detections) / said if said else None,
        "timestamp_tokens_in_order": sum(d.timestamps for d in measured.detections) / said if said else None,
    }


def _as_json(
    ref: str, split: str, scored: "Scored", scores: "Mapping[str, Scores]", measured: "Measured | None"
) -> dict[str, Any]:
    return {
        "version": ref,
        "split": split,
        "scored_now": scored.is_new,
        "record": None if scored.record is None else scored.record.model_dump(mode="json"),
        "seconds_of_audio_a_second": None if scored.record is None else scored.record.speed,
        "hypotheses": str(scored.path),
        "scores": {language: one.model_dump(mode="json") for language, one in scores.items()},
        "beside": None if measured is None else summary(measured),
    }
