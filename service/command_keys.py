"""``python -m service keys``: make, list and revoke API keys. The running service follows the file at once."""

from pathlib import Path
from typing import Annotated

import typer

from service.keys import KeysError, add_key, read_keys, revoke_key

keys = typer.Typer(
    no_args_is_help=True, help="API keys: with WHISPERLOOP_KEYS, nothing but /health/* is answered without one."
)

File = Annotated[
    Path, typer.Option("--file", envvar="WHISPERLOOP_KEYS", help="The file of keys that the service is started with.")
]
Name = Annotated[
    str, typer.Argument(help="Whom it is for: letters, digits, '.', '_' and '-'; logs and metrics show it.")
]


@keys.command()
def add(
    name: Name,
    file: File,
    requests_per_minute: Annotated[int | None, typer.Option(help="Refuse more (429); without: no limit.")] = None,
    audio_seconds_per_day: Annotated[float | None, typer.Option(help="Refuse more (429); without: no limit.")] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="Let it move aliases, see and delete all corrections.")
    ] = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept.

    For example:

        python -m service keys add app --file keys.jsonl

        python -m service keys add intern --file keys.jsonl --requests-per-minute 60
    """
    try:
        key = add_key(
            file,
            name,
            requests_per_minute=requests_per_minute,
            audio_seconds_per_day=audio_seconds_per_day,
            admin=admin,
        )
    except KeysError as error:
        raise _stop(error) from error
    typer.echo(key)
    typer.echo("It is not shown again. Send it as: Authorization: Bearer KEY", err=True)


@keys.command("list")
def list_keys(file: File) -> None:
    """List the keys' names and limits.

    For example:

        python -m service keys list --file keys.jsonl
    """
    from rich.console import Console
    from rich.table import Table

    try:
        found = read_keys(file)
    except KeysError as error:
        raise _stop(error) from error
    table = Table("name", "created", "requests a minute", "audio seconds a day", "admin")
    for key in found:
        limits = (key.requests_per_minute, key.audio_seconds_per_day)
        table.add_row(
            key.name,
            f"{key.created:%Y-%m-%d}",
            *("" if one is None else f"{one:,}" for one in limits),
            "yes" if key.admin else "",
        )
    Console().print(table)


@keys.command()
def revoke(name: Name, file: File) -> None:
    """Take a key away: the running service refuses it from its next request on.

    For example:

        python -m service keys revoke intern --file keys.jsonl
    """
    try:
        revoke_key(file, name)
    except KeysError as error:
        raise _stop(error) from error
    typer.echo(f"{name} is revoked")


def _stop(error: KeysError) -> typer.Exit:
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(1)
