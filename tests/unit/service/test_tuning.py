"""Measuring while nobody waits."""

import asyncio
import json
import logging
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

import service.tuning
from service.scheduler import Scheduler
from service.tuning import tune_when_idle
from speech.engine import Window
from speech.engine.tuning import Measured, Tuning, read_cached

pytestmark = pytest.mark.anyio

BEST = Tuning("float32", workers=3, threads=1, batch=4)
ANSWER = json.dumps([asdict(Measured(BEST, 0.1, 0.02)), asdict(Measured(Tuning(), 0.3, 0.03))])


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Call a moment quiet, and look at once."""
    monkeypatch.setattr(service.tuning, "QUIET_S", 0.01)
    monkeypatch.setattr(service.tuning, "LOOK_S", 0.005)


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Let the measurement be this script, which is told the arguments and appends its process id to `started`."""

    def replace(script):
        fake = tmp_path / "python"
        started = tmp_path / "started"
        started.touch()
        note = f"open({str(started)!r}, 'a').write(f'{{os.getpid()}} ')"
        fake.write_text("\n".join((f"#!{sys.executable}", "import os, sys, time", note, script)))
        fake.chmod(0o755)
        monkeypatch.setattr(service.tuning.sys, "executable", str(fake))
        return lambda: [int(pid) for pid in started.read_text().split()]

    return replace


@asynccontextmanager
async def idle(engine):
    """Run a scheduler that has nothing to do."""
    scheduler = Scheduler(engine)
    try:
        yield scheduler
    finally:
        await scheduler.close()


def is_running(pid):
    """Say whether the process is there, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


MEASURE = f"""
sys.path.insert(0, {str(Path(service.tuning.__file__).parents[1])!r})
from speech.engine import tuning
tuning.candidates, tuning.BATCHES, tuning.ROUNDS = lambda: [tuning.Tuning("float32", 1, 1)], (1, 2), 1
sys.argv = sys.argv[2:]
tuning._main()
"""


async def test_an_idle_service_measures_and_keeps_the_answer(engine, python, tiny, tmp_path, caplog):
    """The measurement in a process of its own (of fewer candidates); the next start finds what this one found."""
    python(MEASURE)
    caplog.set_level(logging.INFO, "whisperloop.service")
    cached = tmp_path / "cache" / "tuning.json"
    async with idle(engine) as scheduler:
        tuning = await tune_when_idle(scheduler, tiny.export, 160, cached)
    assert tuning in {Tuning("float32", 1, 1, 1), Tuning("float32", 1, 1, 2)}
    assert read_cached(cached) == tuning
    assert "tuned: Tuning(" in caplog.text
    assert engine.batches == []


async def test_the_best_of_the_measured_is_taken(engine, python, tmp_path):
    """The first of the answer, which was measured for the version's export and the context of a clip."""
    seen = tmp_path / "seen"
    python(f"open({str(seen)!r}, 'w').write(' '.join(sys.argv[1:])); print({ANSWER!r})")
    async with idle(engine) as scheduler:
        assert await tune_when_idle(scheduler, Path("export"), 224, tmp_path / "tuning.json") == BEST
    assert seen.read_text() == "-m speech.engine.tuning export 224"


async def test_a_request_stops_the_measurement(engine, python, tone, tmp_path, until):
    """Who comes has the machine for itself, and when all is quiet again the measurement begins anew."""
    again = tmp_path / "again"
    started = python(f"while not os.path.exists({str(again)!r}): time.sleep(0.005)\nprint({ANSWER!r})")
    async with idle(engine) as scheduler:
        tuning = asyncio.create_task(tune_when_idle(scheduler, Path("export"), 64, tmp_path / "tuning.json"))
        await until(started)
        engine.gate.clear()
        with scheduler.admit(1.0) as job:
            decoding = asyncio.create_task(scheduler.submit(job, [Window(tone(1))]))
            await until(lambda: not is_running(started()[0]))
            await asyncio.sleep(0.05)
            assert len(started()) == 1  # it waits as long as somebody does
            engine.gate.set()
            await decoding
        await until(lambda: len(started()) == 2)
        assert not tuning.done()
        again.touch()
        assert await tuning == BEST
    assert len(started()) == 2


async def test_a_busy_service_is_not_measured(engine, tone, tmp_path, monkeypatch):
    """Requests that come and go between two looks are no peace, and one that takes long is none."""
    measured = []

    async def measure(*given):
        measured.append(given)
        return ANSWER

    monkeypatch.setattr(service.tuning, "QUIET_S", 0.05)
    monkeypatch.setattr(service.tuning, "_measure", measure)
    async with idle(engine) as scheduler:
        tuning = asyncio.create_task(tune_when_idle(scheduler, Path("export"), 64, tmp_path / "tuning.json"))
        for _ in range(20):
            with scheduler.admit(1.0) as job:
                await scheduler.submit(job, [Window(tone(1))])
            await asyncio.sleep(0.01)
        with scheduler.admit(1.0):
            await asyncio.sleep(0.2)
            assert measured == []
        assert await tuning == BEST


async def test_it_gives_up_where_there_is_no_peace(engine, python, tmp_path, monkeypatch, until):
    """After so many attempts the service stays as it is."""
    monkeypatch.setattr(service.tuning, "ATTEMPTS", 2)
    started = python("time.sleep(30)")
    cached = tmp_path / "tuning.json"
    async with idle(engine) as scheduler:
        tuning = asyncio.create_task(tune_when_idle(scheduler, Path("export"), 64, cached))
        for attempt in (1, 2):
            await until(lambda attempt=attempt: len(started()) == attempt)
            with scheduler.admit(1.0):
                await until(lambda attempt=attempt: not is_running(started()[attempt - 1]))
        assert await tuning is None
    assert not cached.exists()


@pytest.mark.parametrize(
    "script",
    [
        "sys.exit(3)",
        "print('not JSON')",
        "print('[]')",
        "print('{}')",
        "print('[{}]')",
        'print(\'[{"tuning": {"horses": 4}}]\')',
        "os.kill(os.getpid(), 9)",
    ],
)
async def test_a_measurement_that_fails_changes_nothing(engine, python, tmp_path, caplog, script):
    """The service goes on as it is, nothing is kept, and the log has a line."""
    started = python(script)
    cached = tmp_path / "tuning.json"
    async with idle(engine) as scheduler:
        assert await tune_when_idle(scheduler, Path("export"), 64, cached) is None
    assert "not tuned" in caplog.text
    assert len(started()) == 1
    assert not cached.exists()


async def test_a_measurement_that_cannot_be_started_changes_nothing(engine, tmp_path, monkeypatch, caplog):
    """Where no process can be had, there is none to measure in, and nobody is harmed."""
    monkeypatch.setattr(service.tuning.sys, "executable", str(tmp_path / "missing"))
    async with idle(engine) as scheduler:
        assert await tune_when_idle(scheduler, Path("export"), 64, tmp_path / "tuning.json") is None
    assert "not tuned" in caplog.text


async def test_an_answer_that_cannot_be_kept_is_used(engine, python, tmp_path, caplog):
    """An unwritable cache costs the next start a measurement, and this one nothing."""
    python(f"print({ANSWER!r})")
    (tmp_path / "file").touch()
    async with idle(engine) as scheduler:
        assert await tune_when_idle(scheduler, Path("export"), 64, tmp_path / "file" / "tuning.json") == BEST
    (record,) = (record for record in caplog.records if record.levelno > logging.INFO)
    assert record.levelname == "WARNING"
    assert "cannot be kept" in record.getMessage()


async def test_stopping_the_service_stops_the_measurement(engine, python, tmp_path, until):
    """No process outlives who started it."""
    started = python("time.sleep(30)")
    async with idle(engine) as scheduler:
        tuning = asyncio.create_task(tune_when_idle(scheduler, Path("export"), 64, tmp_path / "tuning.json"))
        await until(started)
        tuning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await tuning
    assert not is_running(started()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(started()[0], 0)
