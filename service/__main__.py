"""The service's command line: ``python -m service --help``."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from service.command_keys import keys
from service.keys import Keyring, KeysError
from service.lookup import find_version
from service.settings import Settings

if TYPE_CHECKING:
    from service.loading import Model


def _option(name: str) -> Any:
    field = Settings.model_fields[name]
    return typer.Option(help=f"{field.description} (WHISPERLOOP_{name.upper()}, {field.default})")


def _epilog() -> str:
    others = [name for name in Settings.model_fields if name not in {"host", "port", "model", "registry"}]
    lines = (f"WHISPERLOOP_{name.upper()} ({Settings.model_fields[name].default})" for name in others)
    return "More settings, by environment: " + ", ".join(lines) + "."


app = typer.Typer(add_completion=False)
app.add_typer(keys, name="keys")


@app.callback(invoke_without_command=True, epilog=_epilog())
def serve(
    context: typer.Context,
    *,
    host: Annotated[str | None, _option("host")] = None,
    port: Annotated[int | None, _option("port")] = None,
    model: Annotated[str | None, _option("model")] = None,
    registry: Annotated[Path | None, _option("registry")] = None,
) -> None:
    """Serve a model version over HTTP: POST /transcribe, GET /health/ready, /version and /docs."""
    if context.invoked_subcommand is not None:
        return
    given: dict[str, Any] = {"host": host, "port": port, "model": model, "registry": registry}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise _stop(f"{first['loc'][0]} (WHISPERLOOP_{str(first['loc'][0]).upper()}): {first['msg']}") from error
    try:
        if settings.keys is not None:
            Keyring(settings.keys)  # a mistake in it is one line, before anything is loaded
    except KeysError as error:
        raise _stop(str(error)) from error
    listener = _listen(settings.host, settings.port)
    # While the model is verified and loaded, the rest of the program is, too: together they take a third less.
    loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
    loading = [loader.submit(_load, settings)]
    from service.app import create_app
    from service.server import run

    address, bound_port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"http://{shown}:{bound_port} serves {settings.model} from {settings.registry}; stop with Ctrl+C", flush=True)
    # A future would keep the model for ever.
    application = create_app(settings, load=lambda wanted: loading.pop().result() if loading else _load(wanted))
    with listener:
        run(application, settings, listener)


def _load(settings: Settings) -> "Model":
    version = find_version(settings)
    from service.loading import load_model

    return load_model(settings, version)


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything is loaded, so that a port in use is one line and not a page."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]  # the parenthesis says it all again
        raise _stop(f"cannot listen on {host}:{port}: {why}; choose another with --port") from error


def _stop(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m service")
