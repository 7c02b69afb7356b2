"""`python -m training lint`: what is wrong with a data set, before a GPU is paid for."""

from pathlib import Path
from typing import Annotated

import typer

from registry import Registry
from training.command_line import AcceptOption
from training.config import ConfigError, TrainingConfig, make_config, read_config
from training.shell import Shell

REFUSED = 3
"""Exit status where there are errors; as of a candidate that the gate refuses."""


def lint_command(
    folder: Annotated[Path | None, typer.Option(help="Clips with metadata.csv or .jsonl, as in audiofolder.")] = None,
    language: Annotated[str | None, typer.Option(help="Whisper's code of the folder's language, such as it.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML recipe; see training/configs/.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="An utterance manifest (JSONL), with splits.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Who listens: name@alias, name@version or hub:org/name@revision. (the config's)")
    ] = None,
    model: Annotated[bool, typer.Option("--model/--no-model", help="Let the base listen to the clips.")] = True,
    listen_to: Annotated[
        int, typer.Option(min=1, help="Clips that it listens to at most; held-out ones first.")
    ] = 2000,
    detect: Annotated[
        float | None, typer.Option(min=0.0001, max=1, help="Difference in WER that the test set must be able to show.")
    ] = None,
    accept: AcceptOption = None,
    probe: Annotated[bool, typer.Option("--probe", help="Time real training steps rather than estimate them.")] = False,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of the machine that will train.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Where the report goes. (RUNS/lint/KEY/lint.json)")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Where the page goes. (RUNS/lint/KEY/lint.html)")
    ] = None,
    registry: Annotated[
        Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="Folder of the model registry.")
    ] = Path("runs/registry"),
    runs: Annotated[Path, typer.Option("--runs", help="Folder for caches and reports.")] = Path("runs"),
) -> None:
    """Check a data set: errors, leakage, wrong transcripts, style, what it can decide, what training will cost.

    For example:

        python -m training lint --folder my-speech --language it

        python -m training lint --config it.toml --probe --price-per-hour 2.50
    """
    settings = _settings(folder, language, config, manifest, base)
    check_codes(accept or [])
    # Seconds to import: not for --help, nor for a typing error.
    from speech.tokens import WhisperTokenizer
    from training.learning_rate import unusual
    from training.lint.cost import estimate, time_steps
    from training.lint.gather import gather
    from training.lint.lint import lint
    from training.lint.page import cost_line, write_page
    from training.lint.report import finding
    from training.run import resolve_base

    shell = Shell()
    store = Registry(registry)
    try:
        version = resolve_base(settings.base, store, shell.say)
        store.verify(version)
        tokenizer = WhisperTokenizer.from_folder(version.path)
        data = gather(settings, manifest, tokenizer, runs / "data")
        odd = [] if manifest or (said := unusual(settings, version.path)) is None else [said]
        report = lint(
            data.utterances,
            data.dropped,
            tokenizer=tokenizer,
            audio_root=data.audio_root,
            base=version if model else None,
            cache=runs / "lint" / "heard",
            listen_to=listen_to,
            detect=detect,
            accept=accept or (),
            more=[*data.findings, *(finding("unusual_learning_rate", more=one) for one in odd)],
            drawn=data.drawn,
            seed=settings.seed,
            progress=shell.progress,
        )
        if any(u.split == "train" for u in data.utterances):
            measured = None
            if probe:
                shell.say("timing a few training steps")
                measured = time_steps(settings, version.path, data.utterances, data.audio_root, runs / "lint")
            cost = estimate(
                settings,
                version.path,
                data.utterances,
                tokenizer,
                seconds_per_step=measured,
                price_per_hour=price_per_hour,
            )
            report = report.model_copy(update={"cost": cost})
        target = runs / "lint" / report.fingerprint[:12]
        report.write(json_file or target / "lint.json")
        write_page(html_file or target / "lint.html", report, data.utterances, data.audio_root)
    except KeyboardInterrupt:
        shell.say("interrupted: the same command goes on with what the base has not heard yet")
        raise typer.Exit(130) from None
    for level, findings in (("error", report.errors), ("warning", report.warnings)):
        for one in findings:
            shell.say(f"{level} {one.line}")
    for where, one_power in report.power.items():
        more = f"; {one_power.more_clips} more clips would show {one_power.wanted:.3f}" if one_power.more_clips else ""
        shell.say(f"{where}: {one_power.clips} clips can show a difference in WER of {one_power.detectable:.3f}{more}")
    for code, score in report.scores.items():
        shell.say(f"{code}: the base's WER is {score.wer:.3f} [{score.low:.3f}, {score.high:.3f}]")
    if report.cost is not None:
        shell.say(cost_line(report.cost))
    shell.say(f"{len(report.errors)} errors, {len(report.warnings)} warnings")
    shell.say(f"the worst clips, to be listened to: {html_file or target / 'lint.html'} (as private as the data)")
    if report.errors:
        raise typer.Exit(REFUSED)


def _settings(
    folder: Path | None, language: str | None, config: Path | None, manifest: Path | None, base: str | None
) -> TrainingConfig:
    if sum(given is not None for given in (folder, config, manifest)) != 1:
        raise ConfigError("give one of --folder DIR (with --language CODE), --config FILE and --manifest FILE")
    if config is not None:
        return read_config(config, base=base)
    # A manifest is read as it is; its folder stands for the source that a config must have.
    path = folder if folder is not None else (manifest or Path()).parent
    source = {"kind": "folder", "path": path, "language": language}
    return make_config("command line", {"sources": [source]}, base=base)


def check_codes(accept: list[str]) -> None:
    """See that each code is that of an error of lint.

    Raises:
        ConfigError: one is not.
    """
    from training.lint.codes import CODES

    errors = sorted(code for code, rule in CODES.items() if rule.level == "error")
    if unknown := [code for code in accept if code not in errors]:
        raise ConfigError(f"--accept {unknown[0]}: there is no such error; the errors are {', '.join(errors)}")
