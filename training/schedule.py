"""Running `python -m training retrain` by the clock, in a process of its own each time, until it is told to stop.

For machines that have no cron, systemd or Kubernetes to do it (docs/training/retrain.md has units for those). What a
retraining does is `training.retrain`'s business.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, tzinfo
from pathlib import Path
from types import FrameType

from apscheduler.schedulers import SchedulerNotRunningError
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.cron import CronTrigger
from pydantic import BaseModel, ConfigDict

from training.config import ConfigError

NICENESS = 10
"""Of a retraining: the decoder's threads wait for one another hundreds of times a clip, so a service that shares its
cores with an equal is not half as fast but a tenth (docs/experiments.md)."""

LATE_S = 3600
"""A run that could not begin on time, as the one before was not done or the machine slept, may begin so late."""


class CronError(ConfigError):
    """The schedule cannot be read."""


class Schedule(BaseModel):
    """What a running scheduler is going to do; kept beside the reports while it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str
    timezone: str
    pid: int
    next_run: datetime | None


def make_trigger(cron: str, timezone: tzinfo | str | None = None) -> CronTrigger:
    """Read five fields of cron: minute, hour, day of month, month, day of week.

    Days of the week are named (`mon-fri`), for 0 is Sunday to cron and Monday to APScheduler.

    Raises:
        CronError: they cannot be read.
    """
    if any(character.isdigit() for character in "".join(cron.split()[4:5])):
        raise CronError(f"{cron!r}: name the days of the week (sun, mon-fri), for not all agree which is 0")
    try:
        return CronTrigger.from_crontab(cron, timezone=timezone)
    except (ValueError, KeyError) as error:
        raise CronError(
            f"{cron!r} is no schedule ({error}): five fields are wanted, minute, hour, day of month, month and day of "
            "week; '30 3 * * *' is every night at half past three"
        ) from error


def keep_schedule(
    cron: str, command: Sequence[str], folder: Path, *, timezone: str | None, say: Callable[[str], None]
) -> None:
    """Run a command whenever the schedule says, until SIGTERM or SIGINT; the one that runs then is told, too.

    Args:
        cron: see `make_trigger`.
        command: to run; never two at a time.
        folder: of the model's reports.
        timezone: of the schedule; None: the machine's.
        say: called with one line on each run.

    Raises:
        CronError: the schedule cannot be read.
    """
    trigger = make_trigger(cron, timezone)
    scheduler = BlockingScheduler(timezone=trigger.timezone)
    path = folder / "schedule.json"
    running: list[subprocess.Popen[bytes]] = []
    busy, stopping = threading.Lock(), threading.Event()

    def note() -> None:
        after = datetime.now(trigger.timezone)
        following = trigger.get_next_fire_time(None, after)
        folder.mkdir(parents=True, exist_ok=True)
        there = Schedule(cron=cron, timezone=str(trigger.timezone), pid=os.getpid(), next_run=following)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(there.model_dump_json(), encoding="utf-8")
        partial.replace(path)
        say(f"next run: {following:%Y-%m-%d %H:%M %Z}" if following else "the schedule has no next run")

    def run() -> None:
        with busy:
            if stopping.is_set():
                return
            say("begins")
            process = subprocess.Popen(command, start_new_session=True)  # Ctrl+C is ours; twice loses its checkpoint
            step_back(process)
            running.append(process)
            if stopping.is_set():  # the signal came before there was anybody to pass it on to
                interrupt(process)
            status = process.wait()
            running.clear()
            say(f"ended with status {status}")
            if not stopping.is_set():
                note()

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)  # it saves a checkpoint first

    def stop(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():  # again: a second one would cost what runs its checkpoint
            return
        stopping.set()
        for process in running[:]:
            interrupt(process)
        with suppress(SchedulerNotRunningError):  # it has not begun yet
            scheduler.shutdown(wait=False)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        note()
        scheduler.add_job(run, trigger, max_instances=1, coalesce=True, misfire_grace_time=LATE_S)
        if not stopping.is_set():
            scheduler.start()
        with busy:  # until what runs has ended
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        path.unlink(missing_ok=True)


def step_back(process: "subprocess.Popen[bytes]") -> None:
    """Let a process compute where others leave the processor idle: a service on the same machine goes first."""
    with suppress(OSError, AttributeError):  # it is over, or this is Windows
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)


def read_schedule(folder: Path) -> Schedule | None:
    """Return what the model's scheduler is going to do; None if none runs."""
    try:
        found = Schedule.model_validate(json.loads((folder / "schedule.json").read_text(encoding="utf-8")))
        os.kill(found.pid, 0)
    except (OSError, ValueError):
        return None
    return found


def retrain_command(arguments: Sequence[str]) -> list[str]:
    """Return the command of one retraining."""
    return [sys.executable, "-m", "training", "retrain", *arguments]
