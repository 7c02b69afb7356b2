"""The service's command line: ``python -m service --help``.

Without a command, it serves. Commands live in modules of their own, which import what computes only when they are run:
the time from here to the first answer is a promise (docs/benchmarks.md).
"""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.command_bench import bench
from service.command_doctor import doctor
from service.command_keys import keys
from service.command_line import ModelOption, RegistryOption, option, read_settings, stop
from service.command_transcribe import transcribe
from service.keys import Keyring, KeysError
from service.lookup import find_version
from service.settings import Settings

if TYPE_CHECKING:
    from service.loading import Model


class _ServesByDefault(typer.core.TyperGroup):
    """Takes options without a command as the server's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = ("--help", "--install-completion", "--show-completion")
        is_completion = ctx.resilient_parsing
        if not is_completion and (not args or (args[0].startswith("-") and not args[0].startswith(own))):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


def _epilog() -> str:
    lines = (f"WHISPERLOOP_{name.upper()} ({field.default})" for name, field in Settings.model_fields.items())
    return "All settings, by environment: " + ", ".join(lines) + "."


app = typer.Typer(
    cls=_ServesByDefault,
    add_completion="__main__" not in sys.argv[0],  # shells complete programs, not `python -m`
    help="Serve a model over HTTP (the default), transcribe files, or look at this machine.",
    epilog=_epilog(),
)
app.command()(transcribe)
app.command()(bench)
app.command()(doctor)
app.add_typer(keys, name="keys")


@app.command(epilog=_epilog())
def serve(
    *,
    host: Annotated[str | None, option("host")] = None,
    port: Annotated[int | None, option("port")] = None,
    model: ModelOption = None,
    registry: RegistryOption = None,
) -> None:
    """Serve a model version over HTTP: POST /transcribe, GET /health/ready, /version and /docs.

    For example:

        python -m service serve

        python -m service serve --model mine@production --port 9000
    """
    settings = read_settings(host=host, port=port, model=model, registry=registry)
    try:
        if settings.keys is not None:
            Keyring(settings.keys)  # a mistake in it is one line, before anything is loaded
    except KeysError as error:
        raise stop(str(error)) from error
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
        raise stop(f"cannot listen on {host}:{port}: {why}; choose another with --port") from error


def main() -> None:
    """Run the command line, as `python -m service` or as the script `whisperloop-service`."""
    app(prog_name="python -m service" if "__main__" in sys.argv[0] else None)


if __name__ == "__main__":
    main()
