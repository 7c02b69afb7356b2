"""`python -m corrections`: what was corrected: list it, count it, export it, delete it."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from corrections.export import write_folder
from corrections.store import CorrectionsError, CorrectionStore, NewerDatabaseError, Which

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion="__main__" not in sys.argv[0],  # shells complete programs, not `python -m`
)

SECONDS_A_DAY = 86_400

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database", envvar="WHISPERLOOP_CORRECTIONS", help="sqlite:///file, or postgresql://user@host/name."
    ),
]
KeyOption = Annotated[str | None, typer.Option(help="Only what this API key sent.")]
LanguageOption = Annotated[str | None, typer.Option(help="Only clips of this language, by Whisper's code.")]


@app.command("list")
def list_command(
    database: DatabaseOption,
    key: KeyOption = None,
    language: LanguageOption = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
) -> None:
    """List corrections, the newest first: what was heard, and what was said.

    For example:

        python -m corrections list --language it --limit 50
    """
    table = Table("id", "when", "key", "language", "s", "heard", "said")
    for one in CorrectionStore(database, must_exist=True).list(Which(key=key, language=language), limit=limit).items:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.updated_at))
        table.add_row(one.id, when, one.key, one.language, f"{one.seconds:.1f}", one.hypothesis, one.correction)
    Console().print(table)


@app.command()
def stats(database: DatabaseOption, key: KeyOption = None) -> None:
    """Count clips, minutes and bytes.

    For example:

        python -m corrections stats --key app
    """
    counts = CorrectionStore(database, must_exist=True).count(Which(key=key))
    languages = ", ".join(f"{code} {n}" for code, n in counts.by_language.items()) or "none"
    typer.echo(f"{counts.clips} clips ({languages}), {counts.seconds / 60:.1f} min, {counts.bytes / 1e6:.1f} MB")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Made if it is not there; files of the same names are replaced.")],
    database: DatabaseOption,
    key: KeyOption = None,
    language: LanguageOption = None,
) -> None:
    """Write FLAC files and metadata.jsonl, as in audiofolder, to learn from elsewhere: a source of a training recipe.

    Each row is given for training (split), and nothing is judged by it. So the recipe names other speech in the same
    language beside it, as a source with use = "test"; without that, training refuses the folder.

    For example:

        python -m corrections export corrected --language it
    """
    store, which = CorrectionStore(database, must_exist=True), Which(key=key, language=language)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("exporting", total=store.count(which).clips)
        n = 0
        for _ in write_folder(store.all(which), folder):
            n += 1
            bar.advance(task)
    typer.echo(f"{n} clips are in {folder}")


@app.command()
def delete(
    database: DatabaseOption,
    ids: Annotated[list[str] | None, typer.Argument(help="Of the corrections to delete.")] = None,
    key: KeyOption = None,
    older_than_days: Annotated[float | None, typer.Option(min=0, help="Not changed for so many days.")] = None,
) -> None:
    """Delete corrections with their audio, for good: by id, by key, by age, or by key and age.

    For example:

        python -m corrections delete --key app

        python -m corrections delete --older-than-days 365
    """
    if bool(ids) == (key is not None or older_than_days is not None):
        raise CorrectionsError("say what to delete: ids, or --key, --older-than-days, or both of these")
    store = CorrectionStore(database, must_exist=True)
    if ids:
        missing = [one for one in ids if not store.delete(one)]
        typer.echo(f"{len(ids) - len(missing)} deleted")
        if missing:
            raise CorrectionsError(f"there is no correction {', '.join(missing)}")
        return
    before = None if older_than_days is None else time.time() - older_than_days * SECONDS_A_DAY
    typer.echo(f"{store.delete_all(Which(key=key, before=before))} deleted")


@app.command()
def upgrade(database: DatabaseOption) -> None:
    """Make the database, or bring it to this release's form; the service does so, too, when it starts.

    For example:

        python -m corrections upgrade
    """
    store = CorrectionStore(database)
    store.open()
    typer.echo(f"{store.name} is ready")


def main() -> None:
    """Run the command line, as `python -m corrections` or as the script `whisperloop-corrections`."""
    try:
        app(prog_name="python -m corrections" if "__main__" in sys.argv[0] else None)
    except (CorrectionsError, NewerDatabaseError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
