"""A real server in a process of its own: how it stops, by real signals."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import service

HERE = Path(__file__).parent


@contextmanager
def process(log, seconds=0.0, **settings):
    """Run the echo engine behind the real server, ready, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    here = {"PYTHONPATH": str(Path(service.__file__).parents[1])}  # what is tested, wherever else one is installed
    environment = os.environ | here | {f"WHISPERLOOP_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, HERE / "serving.py", HERE / "conftest.py", str(port), str(seconds)]
    with log.open("wb") as output:
        running = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: status(address) == 200 or running.poll() is not None, log)
        assert running.poll() is None, log.read_text()
        yield running, address
    finally:
        running.kill()
        running.wait()


def until(condition, log):
    """Wait for what another process brings about."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def status(address, path="/health/ready"):
    """Ask on a connection of its own; None if nobody listens."""
    try:
        return httpx.get(address + path, timeout=10).status_code
    except httpx.TransportError:
        return None


@pytest.fixture
def log(tmp_path):
    """Name the server's log."""
    return tmp_path / "log"


def waiting(address):
    """Tell how many windows of interactive requests wait or are being decoded."""
    text = httpx.get(f"{address}/metrics").text
    line = next(line for line in text.splitlines() if line.startswith('whisperloop_queue_audio_seconds{lane="inter'))
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(log, wav, sig):
    """Not ready at once, still accepting for a while, then closed; who was in is answered whole; exit status 0."""
    content = wav(2)

    def upload():
        return httpx.post(f"{address}/transcribe", files={"file": content}, data={"language": "it"}, timeout=60)

    with process(log, seconds=0.5, drain_s=1.5) as (running, address), ThreadPoolExecutor(8) as pool:
        early = [pool.submit(upload) for _ in range(4)]
        until(lambda: waiting(address) > 4, log)
        running.send_signal(sig)
        until(lambda: status(address) == 503, log)
        answer = httpx.get(f"{address}/health/ready").json()
        assert answer["error"]["code"] == "draining"
        assert status(address, "/health/live") == 200
        late = [pool.submit(upload) for _ in range(2)]
        answers = [one.result() for one in (*early, *late)]
        assert running.wait(timeout=30) == 0, log.read_text()
        assert status(address) is None
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.json()["text"] for answer in answers}) == 1


def test_what_runs_is_answered_after_the_door_is_closed(log, wav):
    """Without a drain time nobody is let in any more, and an upload that is half here is still read and answered."""
    content = wav(2)
    with process(log, seconds=1.0) as (running, address), ThreadPoolExecutor(1) as pool:

        def slowly():
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content[:1000]
            running.terminate()
            until(lambda: status(address) is None, log)
            yield content[1000:] + b"\r\n--b--\r\n"

        headers = {"content-type": "multipart/form-data; boundary=b"}
        posting = pool.submit(httpx.post, f"{address}/transcribe", content=slowly(), headers=headers, timeout=60)
        answer = posting.result()
        assert answer.status_code == 200
        assert answer.json()["text"].startswith("n32000")
        assert running.wait(timeout=30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_second_signal_ends_it(log):
    """Whoever cannot wait need not: the process is gone while a request runs that would take a minute."""
    with (
        process(log, shutdown_grace_s=600, drain_s=600) as (running, address),
        ThreadPoolExecutor(1) as pool,
    ):

        def never_ends():
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            until(lambda: running.poll() is not None, log)

        headers = {"content-type": "multipart/form-data; boundary=b"}
        posting = pool.submit(httpx.post, f"{address}/transcribe", content=never_ends(), headers=headers, timeout=60)
        running.terminate()
        until(lambda: status(address) == 503, log)
        running.terminate()
        assert running.wait(timeout=10) == 128 + signal.SIGTERM
        assert isinstance(posting.exception(), httpx.TransportError)


def test_grace_ends(log):
    """A request that takes longer than the grace is told so, and the process ends all the same."""
    with process(log, shutdown_grace_s=1, upload_timeout_s=600) as (running, address), ThreadPoolExecutor(1) as pool:

        def never_ends():
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            running.terminate()
            until(lambda: running.poll() is not None, log)

        headers = {"content-type": "multipart/form-data; boundary=b"}
        posting = pool.submit(httpx.post, f"{address}/transcribe", content=never_ends(), headers=headers, timeout=60)
        assert running.wait(timeout=30) == 0, log.read_text()
        answer = posting.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
