"""`python -m training`: train on your own speech, do so by the clock, or run the demonstration."""

import logging
import sys
from typing import Annotated

import typer

from registry import Registry, RegistryError
from speech.audio import AudioError
from speech.engine import EngineError
from training.checkpoints import SaveError
from training.command_doctor import doctor
from training.command_elasticize import elasticize_command
from training.command_evaluate import evaluate_command
from training.command_gate import gate_command
from training.command_line import (
    REGISTRY,
    RUNS,
    AcceptOption,
    BaseOption,
    ConfigOption,
    FolderOption,
    LanguageOption,
    MinutesOption,
    NameOption,
    RegistryOption,
    RunsOption,
    StepsOption,
    interruptible,
    read_settings,
)
from training.command_lint import REFUSED, check_codes, lint_command
from training.command_push import push
from training.command_retrain import retrain_command, schedule_command
from training.command_space import space_command
from training.command_status import status_command
from training.config import ConfigError
from training.data.manifest import ManifestError
from training.data.report import TooManyDroppedError
from training.data.sources.asterisk import SourceUnavailableError
from training.data.sources.rows import SourceError
from training.devices import follow, leading, rank
from training.shell import Shell, StepError, run_command_line

USER_ERRORS = (
    RegistryError,
    AudioError,
    ConfigError,
    ManifestError,
    TooManyDroppedError,
    SourceUnavailableError,
    SourceError,
    StepError,
    SaveError,
    EngineError,
    FloatingPointError,
)
"""What the message alone explains; anything else is a bug and shows where it happened."""

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion="__main__" not in sys.argv[0],  # shells complete programs, not `python -m`
)
app.command()(doctor)
app.command()(push)
app.command("status")(status_command)


@app.command("run")
def run_command(
    folder: FolderOption = None,
    language: LanguageOption = None,
    config: ConfigOption = None,
    name: NameOption = None,
    base: BaseOption = None,
    max_steps: StepsOption = None,
    minutes: MinutesOption = None,
    accept: AcceptOption = None,
    registry: RegistryOption = REGISTRY,
    runs: RunsOption = RUNS,
) -> None:
    """Fine-tune on a folder or a recipe, publish the version, and promote it if the gate lets it through.

    Data are checked first (`lint`, without the base's ear). Exit status 0: promoted; 3: refused, by lint before
    anything is trained, or by the gate; 4: too few clips to decide; 1: an error.

    For example:

        python -m training run --folder my-speech --language it

        python -m training run --config training/configs/small.toml --minutes 30
    """
    settings = read_settings(folder, language, config, name=name, base=base, max_steps=max_steps, minutes=minutes)
    if rank() > 0:  # torchrun started several: the first does all of it, the others train with it
        with interruptible():
            follow()
        return
    check_codes(accept or [])
    from training.gate import exit_status
    from training.lint.report import LintError
    from training.run import run  # torch takes seconds to import: not for --help, nor for a typing error

    shell = Shell()
    with interruptible(), leading():
        try:
            outcome = run(
                settings, Registry(registry), runs, say=shell.say, progress=shell.progress, accept=accept or ()
            )
        except LintError as error:
            shell.say(f"refused: {error}")
            raise typer.Exit(REFUSED) from None
    if not outcome.promoted:
        raise typer.Exit(exit_status(outcome.verdict))


@app.command("demo")
def demo_command(
    registry: RegistryOption = REGISTRY,
    runs: RunsOption = RUNS,
    port: Annotated[int, typer.Option(help="Of the service that is started at the end.")] = 8000,
) -> None:
    """Run the whole loop on real speech: base, data, fine-tuning, gate, service, transcripts.

    For example:

        python -m training demo
    """
    from training.demo import demo

    with interruptible():
        demo(registry, runs, port, Shell())


@app.command("loop-demo")
def loop_demo_command(
    registry: RegistryOption = REGISTRY,
    runs: RunsOption = RUNS,
    port: Annotated[int, typer.Option(help="Of the service that is corrected.")] = 8000,
) -> None:
    """Close the loop on real speech: a service is corrected, learns from it, and answers better.

    For example:

        python -m training loop-demo
    """
    from training.loop_demo import loop_demo

    with interruptible():
        loop_demo(registry, runs, port, Shell())


app.command("lint")(lint_command)
app.command("elasticize")(elasticize_command)
app.command("evaluate")(evaluate_command)
app.command("gate")(gate_command)
app.command("retrain")(retrain_command)
app.command("space")(space_command)
app.command("schedule", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(schedule_command)


def main() -> None:
    """Run the command line, as `python -m training` or as the script `whisperloop-training`."""
    level = logging.INFO if rank() == 0 else logging.WARNING
    logging.basicConfig(level=level, format="      %(message)s", stream=sys.stdout)
    for noisy in ("httpx", "datasets", "evaluate", "absl", "alembic", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    run_command_line(app, "python -m training" if "__main__" in sys.argv[0] else None, USER_ERRORS)


if __name__ == "__main__":
    main()
