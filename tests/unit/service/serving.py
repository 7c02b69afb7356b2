"""A service of its own process: ``python serving.py CONFTEST PORT SECONDS``, the echo engine behind the real server.

Settings come from the environment; `SECONDS` is what a batch takes.
"""

import runpy
import socket
import sys
from datetime import UTC, datetime

from service.app import create_app
from service.loading import Model
from service.schemas import Context, Version
from service.server import run
from service.settings import Settings

if __name__ == "__main__":
    conftest, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    engine = runpy.run_path(conftest)["EchoEngine"](seconds_a_batch=seconds)
    context = Context(elastic=False, margin=0)
    names = {"name": "echo", "version": "1", "ref": "echo@1", "manifest_sha256": "0" * 64, "base": None, "parent": None}
    version = Version(**names, engine="echo", context=context, loaded_at=datetime.now(UTC))
    settings = Settings(port=port, vad=False)
    with socket.create_server((settings.host, settings.port)) as listener:
        run(create_app(settings, load=lambda _: Model(engine, version)), settings, listener)
