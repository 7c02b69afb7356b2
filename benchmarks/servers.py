"""Two HTTP services side by side: how one is started, asked by many clients at once, and weighed."""

import asyncio
import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.workers import ROOT
from training.shell import StepError

READY_TIMEOUT_S = 120.0
READY_POLL_S = 0.01
PSS_POLL_S = 0.1


@dataclass(frozen=True)
class Command:
    """How a service is started; `{port}` in an argument is replaced by its port."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path


@dataclass(frozen=True)
class Server:
    """A service that is ready."""

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    seconds_to_ready: float

    @property
    def address(self) -> str:
        """Return its URL."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(command: Command) -> Iterator[Server]:
    """Start a service, wait until its /health/ready answers 200, and stop it at the end.

    Raises:
        StepError: it ended, or it was not ready after two minutes.
    """
    port = free_port()
    arguments = [argument.replace("{port}", str(port)) for argument in command.arguments]
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env={**os.environ, **command.environment},
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the runner, which then ends this one
        )
    try:
        while not _is_ready(port):
            if process.poll() is not None:
                raise StepError(f"{command.name} stopped with status {process.returncode}; see {command.log}")
            if time.perf_counter() - started > READY_TIMEOUT_S:
                raise StepError(f"{command.name} was not ready after {READY_TIMEOUT_S:.0f} s; see {command.log}")
            time.sleep(READY_POLL_S)
        yield Server(command.name, process, port, time.perf_counter() - started)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()  # a tutorial's handler cannot be interrupted
            process.wait()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def ask(server: Server, requests: Sequence[tuple[Path, str | None]], *, clients: int) -> dict[str, Any]:
    """POST files to /transcribe from so many clients, each sending its next when its last is answered.

    Returns:
        `seconds` from the first request to the last answer, `latencies` in seconds and `texts`, in the order of the
        requests.
    """
    return asyncio.run(_ask(server, requests, clients))


async def _ask(server: Server, requests: Sequence[tuple[Path, str | None]], clients: int) -> dict[str, Any]:
    bodies = [(path.name, path.read_bytes()) for path, _ in requests]
    latencies = [0.0] * len(requests)
    texts = [""] * len(requests)
    waiting = iter(range(len(requests)))

    async def client(session: httpx.AsyncClient) -> None:
        for i in waiting:
            language = requests[i][1]
            started = time.perf_counter()
            response = await session.post(
                "/transcribe",
                files={"file": bodies[i]},
                data={} if language is None else {"language": language},
            )
            latencies[i] = time.perf_counter() - started
            response.raise_for_status()
            texts[i] = response.json()["text"]

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.address, timeout=600, limits=limits) as session:
        await session.get("/health/ready")  # the first connection is made
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "latencies": latencies, "texts": texts}


def get_metrics(server: Server) -> str:
    """Return the service's metrics in Prometheus' text format, empty if it has none."""
    response = httpx.get(f"{server.address}/metrics", timeout=10)
    return response.text if response.status_code == httpx.codes.OK else ""


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process and its descendants: shared pages count by their share."""
    total = 0
    for one in (pid, *_descendants(pid)):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total


def _descendants(pid: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state parent ...", where a name may hold anything.
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


@contextmanager
def watching_pss(pid: int) -> Iterator[list[int]]:
    """Yield a list that fills with the process's PSS, ten times a second."""
    samples: list[int] = [pss_bytes(pid)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(PSS_POLL_S):
            samples.append(pss_bytes(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
