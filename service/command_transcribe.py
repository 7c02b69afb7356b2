"""``python -m service transcribe``: files on this machine, by the engine that serves, without a server.

It asks, shows and counts. What is a file and what is done already is `service.files`', and how files become transcripts
`service.offline`'s business.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from service.command_line import DeviceOption, ModelOption, RegistryOption, load, read_settings, stop

if TYPE_CHECKING:
    from rich.progress import Progress

    from service.files import Input
    from service.offline import Outcome
    from speech.guard import Guard
    from speech.tokens import Task

FORMATS = ("text", "json", "srt", "vtt", "tsv", "verbose_json")
TIMED = {"srt", "vtt", "tsv", "verbose_json"}  # formats that have the times of sentences
TASKS = ("transcribe", "translate")
GUARDS = ("redecode", "mark", "drop", "keep")

INTERRUPTED = 130  # the exit status of what SIGINT ended


def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(help="Files, folders (with all below), patterns (in quotes), or - for standard input."),
    ],
    *,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help=f"{', '.join(FORMATS)} or all; can be repeated. (text)"),
    ] = None,
    output_dir: Annotated[
        str | None,
        typer.Option("--output-dir", "-o", help="Where transcripts go; - is standard output. (beside each file)"),
    ] = None,
    language: Annotated[str | None, typer.Option(help="A code: it, en-GB. (detected, file by file)")] = None,
    languages: Annotated[
        list[str] | None, typer.Option(help="Detect one of these only; once for each. (all that the model knows)")
    ] = None,
    task: Annotated[str, typer.Option(help="transcribe, or translate into English.")] = "transcribe",
    prompt: Annotated[str | None, typer.Option(help="What was said before: its spelling is imitated.")] = None,
    keywords: Annotated[
        list[str] | None, typer.Option(help="A word whose spelling is imitated; once for each.")
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(min=0, max=1, help="Above 0: sampled, once. (0: greedily, and less so for doubtful parts)"),
    ] = 0.0,
    beam_size: Annotated[int, typer.Option(min=1, max=10, help="Hypotheses that are followed; 1: greedily.")] = 1,
    vad: Annotated[
        bool | None, typer.Option("--vad/--no-vad", help="Leave out what is no speech by Silero's detector. (--vad)")
    ] = None,
    guard: Annotated[str, typer.Option(help="Doubtful parts: redecode, mark, drop or keep.")] = "redecode",
    max_line_width: Annotated[int, typer.Option(min=1, help="Subtitles: letters a line; a Chinese one is two.")] = 42,
    max_line_count: Annotated[int, typer.Option(min=1, help="Subtitles: lines shown at once.")] = 2,
    max_chars_per_second: Annotated[
        float, typer.Option(min=1, help="Subtitles: reading speed; a cue stays longer where nothing follows.")
    ] = 17,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also transcribe what is done already.")] = False,
    model: ModelOption = None,
    registry: RegistryOption = None,
    device: DeviceOption = None,
) -> None:
    """Transcribe files on this machine, with the engine that serves, and write the transcripts beside them.

    What is done already is left out: after an interruption, the same command goes on. A file that cannot be
    transcribed does not stop the others, and of one that is cut off or damaged, what can be heard is written; the exit
    status is 1 if there is one of these, also the next time.

    For example:

        python -m service transcribe talk.mp3

        python -m service transcribe recordings --format srt --format text --output-dir subtitles
    """
    settings = read_settings(model=model, registry=registry, device=device)
    wanted = _check_formats(formats or ["text"])
    _check_choice("task", task, TASKS)
    _check_choice("guard", guard, GUARDS)
    _check_contradictions(language, languages, temperature, beam_size)

    from service import files as on_disk
    from speech.subtitles import Layout

    layout = Layout(max_line_width, max_line_count, max_chars_per_second)
    inputs, errors = on_disk.find(files)
    if output_dir == on_disk.STDIN or (output_dir is None and [one.path for one in inputs] == [None]):
        if len(files) != 1 or len(inputs) > 1 or len(wanted) != 1:
            raise stop("standard output has room for one file in one format; name an --output-dir")
        places: dict[Input, dict[str, Path]] = {one: dict.fromkeys(wanted, Path(on_disk.STDIN)) for one in inputs}
    else:
        places, homeless = on_disk.outputs(inputs, wanted, None if output_dir is None else Path(output_dir))
        errors += homeless
    to_do = [one for one, paths in places.items() if overwrite or not on_disk.is_done(one, list(paths.values()))]
    report = _Report(failed=len(errors))
    for error in errors:
        report.say(f"error: {error}")
    if left := len(places) - len(to_do):
        report.say(f"{left} of {len(places)} done already; --overwrite does them again")
    if to_do:
        loaded = load(settings)
        from service.offline import transcripts
        from speech.transcribe import Options, said_before

        tokenizer = loaded.engine.tokenizer
        try:
            code = None if language is None else tokenizer.language_code(language)
            among = tuple(dict.fromkeys(map(tokenizer.language_code, languages or ())))
        except ValueError as error:
            raise stop(str(error)) from error
        options = Options(
            language=code,
            languages=among,
            task=cast("Task", task),
            prompt=tuple(tokenizer.encode(said_before(keywords or [], prompt))),
            word_timestamps=not TIMED.isdisjoint(wanted),
            beam_size=beam_size,
            temperature=temperature,
            vad=settings.vad if vad is None else vad,
            guard=cast("Guard", guard),
        )
        try:
            with report.showing(to_do):
                for one, outcome in transcripts(loaded.engine, to_do, options, report.progress):
                    if not isinstance(outcome, Exception):
                        for name, path in places[one].items():
                            text = on_disk.render(
                                outcome.transcription, name, loaded.version.ref, layout, outcome.fault
                            )
                            _put(text, path, partly_of=one.path if outcome.fault else None)
                    report.add(one, outcome, list(places[one].values()))
        except KeyboardInterrupt:
            report.say(f"stopped with {report.done} of {len(to_do)} done; the same command goes on with the rest")
            raise typer.Exit(INTERRUPTED) from None
        report.summarise()
    raise typer.Exit(1 if report.failed else 0)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise stop(f"--{option} is {', '.join(choices[:-1])} or {choices[-1]}, not {value}")


def _check_contradictions(
    language: str | None, languages: list[str] | None, temperature: float, beam_size: int
) -> None:
    if language and languages:
        raise stop("give either --language or --languages")
    if temperature > 0 and beam_size > 1:
        raise stop("--beam-size has no effect on what is sampled, at a --temperature above 0")


def _check_formats(asked: list[str]) -> list[str]:
    for name in asked:
        if name not in {*FORMATS, "all"}:
            raise stop(f"--format is {', '.join(FORMATS)} or all, not {name}")
    return list(FORMATS) if "all" in asked else list(dict.fromkeys(asked))


def _put(text: str, path: Path, *, partly_of: Path | None) -> None:
    from service.files import STDIN, write

    if str(path) == STDIN:
        sys.stdout.write(text)
        return
    try:
        write(path, text, partly_of=partly_of)
    except OSError as error:  # a full disk will not do for the next file either
        raise stop(f"cannot write {path}: {error.strerror}") from error


class _Report:
    """What is told on the way: a line a file, and on a terminal a bar of seconds of audio."""

    def __init__(self, *, failed: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.done = 0
        self.failed = failed
        self._seconds = 0.0  # of audio, transcribed
        self._counted = 0.0  # of audio, dealt with
        self._declared: dict[Input, float] = {}
        self._console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.percentage:>3.0f} %"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def say(self, text: str) -> None:
        """Print a line, above the bar."""
        self._console.print(text)

    def showing(self, inputs: "list[Input]") -> "Progress":
        """Return the bar, which is shown while it is open."""
        from service.files import declared_seconds

        if not self._bar.disable:
            self._declared = {one: declared_seconds(one) for one in inputs}
        self._bar.add_task("", total=sum(self._declared.values()) or None, speed="")
        self._started = time.perf_counter()
        return self._bar

    def progress(self, _one: "Input", seconds: float) -> None:
        """Move the bar within a long file."""
        self._bar.update(self._bar.tasks[0].id, completed=self._counted + seconds)

    def add(self, one: "Input", outcome: "Outcome", paths: list[Path]) -> None:
        """Tell what became of a file."""
        declared = self._declared.get(one, 0.0)
        seconds = declared
        if isinstance(outcome, Exception):
            self.failed += 1
            self.say(f"error: {one}: {outcome}")
        else:
            seconds = outcome.transcription.duration
            self._seconds += seconds
            written = f"{seconds:.1f} s → {', '.join(path.name for path in paths)}"
            if outcome.fault is None:
                self.done += 1
                self.say(f"{one}: {written}")
            else:
                self.failed += 1
                self.say(f"error: {one}: {outcome.fault} What could be heard: {written}")
        (task,) = self._bar.tasks
        total = None if task.total is None else task.total + seconds - declared  # headers are not always right
        self._counted += seconds
        self._bar.update(task.id, completed=self._counted, total=total, speed=f"{self._speed():.1f} × real time")

    def summarise(self) -> None:
        """Tell what became of all."""
        took = time.perf_counter() - self._started
        speed = f", {self._seconds:.1f} s in {took:.1f} s: {self._speed():.1f} × real time" if self._seconds else ""
        self.say(f"{self.done} done{speed}" + (f"; {self.failed} failed" if self.failed else ""))

    def _speed(self) -> float:
        return self._seconds / (time.perf_counter() - self._started)
