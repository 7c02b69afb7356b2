"""Running the application under uvicorn: what it listens to, and how it stops.

A client that sends no whole head of a request is hung up on after a while, which uvicorn does not do.

The first SIGTERM or SIGINT drains: readiness is 503 at once, so that load balancers look elsewhere; as they take a
while to, requests are accepted for `drain_s` more; then nobody is let in, and who is in is answered. The second ends
it at once.
"""

import asyncio
import logging
import os
import socket
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.settings import Settings, is_loopback

logger = logging.getLogger("whisperloop.service")

KEEP_ALIVE_S = 5

HEAD_TIMEOUT_S = 10.0
"""How long a client may take for a request's head, and for the rest of a body that nobody wants any longer."""

TAKE_TIMEOUT_S = 300.0
"""How long a client may take nothing of its answer. Not shorter: who is slow takes lumps of a kernel's buffer."""

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False} for name in ("uvicorn", "whisperloop")
    }
    | {"python_multipart": {"level": "ERROR"}},  # its warnings quote what was uploaded
}


class Protocol(H11Protocol):
    """One connection. uvicorn's own timer runs between requests only: half a head would stay for ever.

    So would an answer that nobody takes, and with it the model that it came from, long after that was replaced.
    """

    _patience: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_longer()  # a request is being answered; `service.upload` watches its body
        elif self._patience is None:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # what the application would answer has no place any longer
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()  # an answer is out already

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._wait_no_longer()
        self._is_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait until some of the answer is taken."""
        super().pause_writing()
        self._look_again(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on."""
        self._is_taken()
        super().resume_writing()

    def _look_again(self, left: int) -> None:
        self._taking = self.loop.call_later(TAKE_TIMEOUT_S, self._hang_up_unless_less, left)

    def _hang_up_unless_less(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._look_again(left)
        else:
            self.transport.abort()  # `close` would wait for the client

    def _is_taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _wait(self) -> None:
        self._patience = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _wait_no_longer(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class Server(uvicorn.Server):
    """uvicorn's, which would close its door at the first signal, and wait for ever after the second SIGTERM."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._app, self._drain_s = app, drain_s
        self._close_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second."""
        if self._close_at is not None:
            os._exit(128 + sig)  # not by the signal, which does nothing to a container's first process
        # Not `super`, which would send the signal again at the end: a drained service has exit status 0.
        self._app.state.draining = True
        self._close_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: say whether it is time to let nobody in any more."""
        if self._close_at is not None and time.monotonic() >= self._close_at:
            self.should_exit = True
        return await super().on_tick(counter)


def run(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serve an application until it is told to stop, and has.

    Args:
        app: as `create_app` makes it.
        settings: of the application.
        listener: bound, and closed by the caller.
    """
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_config=LOGGING,
        access_log=False,  # service.request_log writes a line that tells more
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )
    warn_if_open(settings)
    Server(config, app, settings.drain_s).run(sockets=[listener])


def warn_if_open(settings: Settings) -> None:
    """Say so in the log if others than this machine can reach a service that asks nobody for a key."""
    if settings.keys is None and not is_loopback(settings.host):
        logger.warning(
            "whoever reaches %s may transcribe: make keys with `python -m service keys add NAME` and set "
            "WHISPERLOOP_KEYS, or listen on 127.0.0.1",
            settings.host,
        )
