"""Traces: spans of requests and stages, received over OTLP, and nothing in them that was said."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from service.telemetry import telemetry

collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

pytestmark = pytest.mark.anyio


@pytest.fixture
def received(monkeypatch):
    """Run a collector on this machine, have the environment name it, and return what it is sent."""
    bodies = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield bodies
        server.shutdown()
        thread.join()


def spans_of(bodies):
    """Return the spans that were sent."""
    requests = [collector.ExportTraceServiceRequest.FromString(body) for body in bodies]
    resources = [resource for request in requests for resource in request.resource_spans]
    return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]


def attributes(span):
    """Return a span's attributes as texts."""
    return {one.key: str(getattr(one.value, one.value.WhichOneof("value"))) for one in span.attributes}


async def test_spans_of_a_request(received, make_app, serve, wav):
    """A request's span is its caller's child, its stages are its own children, and it tells what the log tells."""
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serve(make_app()) as client:
        answer = await client.post(
            "/transcribe",
            files={"file": ("private-name.wav", wav(2))},
            data={"language": "it", "prompt": "private words"},
            headers={"traceparent": caller, "X-Request-ID": "call-1", "User-Agent": "private-agent"},
        )
        assert answer.status_code == 200
        assert (await client.get("/private/path?private=query")).status_code == 404
    spans = spans_of(received)
    ours = next(span for span in spans if span.name == "POST /transcribe")
    assert ours.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert ours.parent_span_id.hex() == "b7ad6b7169203331"
    assert attributes(ours) == {
        "http.request.method": "POST",
        "http.route": "/transcribe",
        "http.response.status_code": "200",
        "whisperloop.request_id": "call-1",
        "whisperloop.model": "echo@1",
        "whisperloop.audio_s": "2.0",
        "whisperloop.segments": "1",
    }
    children = {span.name for span in spans if span.parent_span_id == ours.span_id}
    assert children == {"upload", "decode"}
    other = next(span for span in spans if span.name == "GET unknown")
    assert attributes(other)["whisperloop.error"] == "not_found"
    assert not any("health" in span.name for span in spans)
    everything = b"".join(received)
    for said in (b"private", answer.json()["text"].encode(), b"127.0.0.1"):
        assert said not in everything


async def test_a_failure_is_one(received, make_app, serve, wav, engine):
    """What is 500 is an error's span, with its code and without what it quotes."""
    async with serve(make_app()) as client:
        engine.fails = lambda _: True
        assert (await client.post("/transcribe", files={"file": ("a", wav(1))})).status_code == 500
    span = next(span for span in spans_of(received) if span.name == "POST /transcribe")
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert attributes(span)["whisperloop.error"] == "decoding_failed"
    assert b"/secret" not in b"".join(received)


def test_without_the_variable_nothing_is_traced(monkeypatch):
    """Nobody asked for it: nothing is imported, nothing is sent."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert telemetry() is None


def test_without_the_packages_a_line_says_so(monkeypatch, caplog):
    """Who asked for traces and did not install them is told what to install; the service starts."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert telemetry() is None
    assert ".[service,telemetry]" in caplog.text
