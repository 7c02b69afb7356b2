"""The clock that runs retraining: when, one at a time, and how it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from training.schedule import NICENESS, CronError, Schedule, make_trigger, read_schedule, retrain_command

ROME = ZoneInfo("Europe/Rome")


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("30 3 * * *", "2026-11-24T12:00", "2026-11-25T03:30"),
        ("0 */6 * * *", "2026-11-24T12:01", "2026-11-24T18:00"),
        ("0 4 * * sun", "2026-11-24T12:00", "2026-11-29T04:00"),
        ("15 2 1 * *", "2026-11-24T12:00", "2026-12-01T02:15"),
    ],
)
def test_the_five_fields_are_crons(cron, after, expected):
    """Minute, hour, day of month, month, day of week, in the time zone that is named."""
    after, expected = (datetime.fromisoformat(text).replace(tzinfo=ROME) for text in (after, expected))
    assert make_trigger(cron, "Europe/Rome").get_next_fire_time(None, after) == expected


@pytest.mark.parametrize("cron", ["", "never", "60 3 * * *", "* * *", "0 3 * * * *", "0 3 * * 0", "0 3 * * 1-5"])
def test_what_is_no_schedule_is_refused(cron):
    """With what was given; days of the week as numbers too, since 0 is Sunday to some and Monday to others."""
    with pytest.raises(CronError) as error:
        make_trigger(cron)
    assert repr(cron) in str(error.value)


def test_a_schedule_is_told_while_its_process_lives(tmp_path):
    """Of a process that is gone there is none, whatever it left."""
    assert read_schedule(tmp_path) is None
    there = Schedule(cron="30 3 * * *", timezone="UTC", pid=os.getpid(), next_run=None)
    (tmp_path / "schedule.json").write_text(there.model_dump_json())
    assert read_schedule(tmp_path) == there
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "schedule.json").write_text(there.model_copy(update={"pid": gone.pid}).model_dump_json())
    assert read_schedule(tmp_path) is None
    (tmp_path / "schedule.json").write_text("{")
    assert read_schedule(tmp_path) is None


PROGRAM = """
import sys
from pathlib import Path
from apscheduler.triggers.cron import CronTrigger
from training import schedule

schedule.make_trigger = lambda cron, timezone: CronTrigger(second="*")  # cron's own fields wait for a minute
folder = Path(sys.argv[1])
child = [sys.executable, "-c", sys.argv[2], str(folder)]
schedule.keep_schedule("soon", child, folder, timezone=None, say=lambda line: print(line, flush=True))
print("over", flush=True)
"""

CHILD = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def save(*_):
    with (folder / "saved").open("a") as saved:
        saved.write("once ")
    (folder / "saving").touch()
    time.sleep(1)
    sys.exit(130)
signal.signal(signal.SIGINT, save)
while os.nice(0) == 0:  # its parent is about to see to it
    time.sleep(0.01)
(folder / "began").write_text(str(os.nice(0)))
time.sleep(60)
"""


def test_stopping_lets_what_runs_save_first(tmp_path):
    """SIGTERM, once or twice, ends the scheduler with status 0; what runs is interrupted once, and waited for.

    It computes where others leave the processor idle.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), CHILD],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    assert json.loads((tmp_path / "schedule.json").read_text())["pid"] == process.pid
    process.send_signal(signal.SIGTERM)
    while not (tmp_path / "saving").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "saved").read_text() == "once "
    assert (tmp_path / "began").read_text() == str(os.nice(0) + NICENESS)
    assert not (tmp_path / "schedule.json").exists()
    assert "begins" in printed
    assert printed.count("next run") == 1  # at first, and not when there is none any more
    assert printed.endswith("over\n")


def test_a_retraining_is_the_command_that_a_person_would_type():
    """The same program, in a process of its own."""
    assert retrain_command(["--config", "it.toml"]) == [
        sys.executable,
        *("-m", "training", "retrain", "--config", "it.toml"),
    ]
