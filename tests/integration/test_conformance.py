"""The conformance suite: this server keeps all of its promises, and servers that keep none fail it."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.demo import serving

ROOT = Path(__file__).parents[2]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UPLOAD_LIMIT = 20_000_000  # above ten minutes as WAV


def suite(base_url, results, *more):
    """Run the suite; return its exit status, the results by name, and what it printed."""
    command = [sys.executable, "-m", "tests.conformance", "--base-url", base_url, "--json", str(results)]
    run = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert results.exists(), run.stderr[-3000:]
    return run.returncode, {one["name"]: one for one in json.loads(results.read_text())["results"]}, run.stdout


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_this_server_passes_all_of_it(registry, free_port, tmp_path, monkeypatch):
    """With whisper-base, no promise is broken; only the check of keys, and Node, may be skipped."""
    monkeypatch.setenv("WHISPERLOOP_MAX_UPLOAD_BYTES", str(UPLOAD_LIMIT))
    with serving(registry.root, free_port(), tmp_path / "service.log") as (_, address):
        limit = ("--upload-limit", str(UPLOAD_LIMIT))
        status, results, printed = suite(f"{address}/v1", tmp_path / "results.json", *limit)
    broken = [f"{name}: {one['detail']}" for name, one in results.items() if one["outcome"] == "fail"]
    assert not broken, "\n".join(broken)
    skipped = {name for name, one in results.items() if one["outcome"] == "skip"}
    node = {name for name, one in results.items() if one["area"] == "Node client"}
    assert skipped <= {"wrong_key_is_401"} | node, printed
    assert status == 0, printed


@pytest.fixture
def stubborn():
    """Return a function that serves one answer to whatever is asked, until the test ends."""
    servers = []

    def start(status, kind, body):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        methods = {f"do_{name}": answer for name in METHODS}
        quiet = {"protocol_version": "HTTP/1.1", "log_message": lambda *_: None}
        handler = type("Handler", (BaseHTTPRequestHandler,), methods | quiet)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b'{"text": "", "segments": [], "duration": 0, "language": "x"}'), (500, b'{"detail": "Server Error"}')],
)
def test_no_check_passes_a_server_that_hears_nothing(stubborn, tmp_path, status, body):
    """An empty text or an error as the answer to everything keeps no promise: there is no check that cannot fail."""
    address = stubborn(status, "application/json", body)
    exit_status, results, _ = suite(address, tmp_path / "results.json", "--upload-limit", "1000", "--timeout", "20")
    assert exit_status == 1
    assert {name for name, one in results.items() if one["outcome"] == "pass"} == set()


def test_a_table_has_a_column_a_server(stubborn, tmp_path):
    """Results of one run stand beside another's, with what was not kept and why."""
    address = stubborn(404, "text/plain", b"no")
    suite(address, tmp_path / "first.json", "--only", "models", "--name", "First")
    page = tmp_path / "page.md"
    more = ("--only", "models", "--name", "Second", "--beside", str(tmp_path / "first.json"), "--markdown", str(page))
    suite(address, tmp_path / "second.json", *more)
    text = page.read_text()
    assert "| promise | Second | First | source |" in text
    assert "Second: 0 of 3 pass" in text
    assert "- First, `unknown_model_is_404`: status 404 without an error object: no" in text


def test_own_speech_needs_its_words():
    """--audio without --text is an error that says so, not a run."""
    command = [sys.executable, "-m", "tests.conformance", "--base-url", "http://127.0.0.1:1/v1", "--audio", "clip.wav"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "one --text for each --audio" in run.stderr
