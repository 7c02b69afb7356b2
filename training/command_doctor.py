"""`python -m training doctor`: is this machine fit to train?"""

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    registry: Annotated[
        Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="Folder of the model registry.")
    ] = Path("runs/registry"),
    runs: Annotated[Path, typer.Option("--runs", help="Folder for caches, checkpoints and logs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check machine, packages, GPU, memory, disk, permissions and known traps; say how to mend each.

    Exit status 1 if anything stands in the way of training; warnings do not.

    For example:

        python -m training doctor

        python -m training doctor --runs /mnt/scratch --json
    """
    from speech.machine import report
    from training.doctor import examine

    if not report(examine(registry, runs), as_json=as_json):
        raise typer.Exit(1)
