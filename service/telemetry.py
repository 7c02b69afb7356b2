"""Traces for who collects them: OpenTelemetry's spans of requests and of their stages, sent over OTLP.

On where `OTEL_EXPORTER_OTLP_ENDPOINT` is set and the extra `telemetry` is installed; OpenTelemetry's other variables
mean what they always do. A span tells what the log's line tells: never audio, a text, a file's name or a client's
address, so the spans are made here, and not by an instrumentation that would send whatever it sees.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speech.machine import how_to_install

logger = logging.getLogger("whisperloop.service")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FACTS = ("request_id", "model", "key", "error", "audio_s", "segments")
"""What a request's span has of its log line."""


class Telemetry:
    """Where spans go to."""

    def __init__(self, exporter: Any = None) -> None:
        """Start to collect.

        Args:
            exporter: an OpenTelemetry span exporter; None sends over OTLP, to where the environment says.

        Raises:
            ImportError: the extra `telemetry` is not installed.
        """
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME", "whisperloop")
        # Of one application, not of the process: others may have their own.
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("whisperloop")

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Make a span of the block, inside that which the task is in."""
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False):
            yield

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Any]:
        """Make a span of a request, inside its caller's, which the headers may name."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        with self._tracer.start_as_current_span(
            method,
            TraceContextTextMapPropagator().extract(headers),
            SpanKind.SERVER,
            record_exception=False,  # their texts may quote what was sent
            set_status_on_exception=False,
        ) as span:
            yield span

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def telemetry() -> Telemetry | None:
    """Return where spans go to, if anybody wants them and it can be done; else why not is a line in the log."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        return Telemetry()
    except ImportError as error:
        logger.warning("no traces are sent: %s; %s", error, how_to_install("service,telemetry"))
        return None


class Trace:
    """ASGI middleware: a span around every request but the probes'."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].startswith("/health/"):
            await self._app(scope, receive, send)
            return
        status = 499

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._telemetry.request(scope["method"], dict(Headers(scope=scope))) as span:
            try:
                await self._app(scope, receive, note)
            finally:
                route = getattr(scope.get("route"), "path", "unknown")  # what a caller wrote may tell too much
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.request.method", scope["method"])
                span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", status)
                facts = scope["state"]["facts"]
                for name in FACTS:
                    if name in facts:
                        span.set_attribute(f"whisperloop.{name}", facts[name])
                if status >= 500:
                    _fail(span)


def _fail(span: Any) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)


def add_telemetry(app: FastAPI, where: Telemetry | None) -> None:
    """Have an application's requests and stages traced; `app.state.telemetry` is closed with the application."""
    app.state.telemetry = where
    if where is not None:
        app.state.metrics.span = where.span
        app.add_middleware(Trace, telemetry=where)
