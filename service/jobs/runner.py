"""Doing the jobs, one after another, in whatever time the requests leave; and telling who wanted to be told.

A job is claimed for a short time and the claim renewed while it runs: who is killed renews nothing, and another
process, or the next one, begins anew. It knows the store and how to answer; neither HTTP's routes nor the engine.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.jobs.replay import Answered, Failed
from service.jobs.store import MAX_ATTEMPTS, JobStore, StoredJob
from service.jobs.webhooks import Origin, WebhookError, check_url, make_client, next_attempt, send
from service.limits import paid_by
from service.turns import Job

logger = logging.getLogger("whisperloop.service")

AT_ONCE = 2
"""Jobs that run side by side: while one is read, the other is decoded."""

LEASE_S = 15.0
"""How long a killed process' job lies still."""

RENEW_S = 3.0
POLL_S = 2.0  # for what other processes submitted; our own wakes us
SWEEP_S = 60.0
LOOK_AGAIN_S = 60.0  # whether an owner has audio left: its limit may have been raised
WEBHOOK_LEASE_S = 60.0  # more than a message takes

ABANDONED: dict[str, Any] = {
    "message": f"The service ended {MAX_ATTEMPTS} times while this was transcribed; it is not tried again.",
    "type": "server_error",
    "param": "file",
    "code": "job_abandoned",
}

Answer = Callable[[StoredJob, bytes, Callable[[Job], None]], Awaitable[Answered | Failed]]


@dataclass(eq=False)
class Running:
    """A job that runs in this process."""

    work: "asyncio.Task[Answered | Failed]"
    turns: list[Job] = field(default_factory=list)  # its place in the scheduler's queue, once it has one
    heard: list[float] = field(default_factory=list)  # seconds of audio that were decoded, bit by bit

    @property
    def progress(self) -> float:
        """How much of it is decoded: 0 to 1."""
        return self.turns[-1].progress if self.turns else 0.0

    @property
    def audio_seconds(self) -> float | None:
        """How long its header says that it is, if it does."""
        turn = self.turns[-1] if self.turns else None
        return (turn.length_s or None) if turn else None


class JobRunner:
    """Does the jobs of a store until it is cancelled."""

    def __init__(
        self,
        store: JobStore,
        answer: Answer,
        *,
        ttl_s: float,
        message: Callable[[StoredJob], Any],
        webhook_key: bytes | None = None,
        webhook_hosts: frozenset[Origin] = frozenset(),
        on_finished: Callable[[str], None] = lambda _: None,
        charge: Callable[[str, float], None] = lambda *_: None,
        wait_s: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        """Make it; `run` runs it.

        Args:
            store: of the jobs.
            answer: transcribes; given a job, its audio, and whom to tell of its place in the scheduler's queue.
            ttl_s: how long results are kept.
            message: makes a webhook's body.
            webhook_key: signs it; None: nobody is told anything.
            webhook_hosts: where it may go now; a job may be older than the list.
            on_finished: told of each job that came to an end here: its status.
            charge: told of the owner of each job that came to an end here, cancelled ones among them, and of the
                seconds of audio that were decoded for it.
            wait_s: tells how long an owner whose audio is used up is to wait for its next job; others' go first.
        """
        self.store = store
        self.ttl_s = ttl_s
        self.running: dict[str, Running] = {}
        self._answer, self._message, self._on_finished = answer, message, on_finished
        self._charge, self._wait_s = charge, wait_s
        self._webhook_key, self._webhook_hosts = webhook_key, webhook_hosts
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._wakes = [asyncio.Event() for _ in range(AT_ONCE + 1)]  # who does jobs, and who tells of them

    def wake(self) -> None:
        """Say that there is something to do."""
        for event in self._wakes:
            event.set()

    def stop(self, job_id: str) -> None:
        """Stop a job that was cancelled or deleted, if it runs here; elsewhere its runner finds out."""
        if job_id in self.running:
            self.running[job_id].work.cancel()

    async def run(self) -> None:
        """Do jobs, send messages and forget what has expired, for ever; cancelled, it gives back what it has begun."""
        async with make_client() as client, asyncio.TaskGroup() as group:
            for event in self._wakes[:-1]:
                group.create_task(self._for_ever(self._next_job, event, POLL_S), name="jobs")
            group.create_task(self._for_ever(self._sweep, asyncio.Event(), SWEEP_S), name="job sweeper")
            if self._webhook_key is not None:
                key = self._webhook_key
                group.create_task(
                    self._for_ever(lambda: self._next_webhook(client, key), self._wakes[-1], POLL_S), name="webhooks"
                )

    async def _for_ever(self, step: Callable[[], Awaitable[bool]], woken: asyncio.Event, pause_s: float) -> None:
        """Do one thing after another; wait when there is nothing, or when the database is not to be reached."""
        while True:
            woken.clear()
            try:
                is_busy = self.store.exists and await step()
            except Exception:  # the database is not to be reached, or a bug: the other jobs go on
                logger.exception("the jobs cannot go on; trying again")
                is_busy = False
            if not is_busy:
                try:
                    async with asyncio.timeout(pause_s):
                        await woken.wait()
                except TimeoutError:
                    pass

    async def _next_job(self) -> bool:
        claiming = asyncio.ensure_future(asyncio.to_thread(self.store.claim, self._name, time.time(), LEASE_S))
        try:
            job = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # The thread cannot be stopped: what it claims would lie still until the claim ends.
            if (job := await claiming) is not None:
                await asyncio.to_thread(self.store.release, job.id, self._name)
            raise
        if job is None:
            return False
        if (wait_s := self._wait_s(job.owner)) > 0:
            not_before = time.time() + min(wait_s, LOOK_AGAIN_S)
            await asyncio.shield(asyncio.to_thread(self.store.release, job.id, self._name, not_before=not_before))
            return True
        turns: list[Job] = []
        heard: list[float] = []
        work = asyncio.create_task(self._work(job, turns.append, heard.append))
        running = self.running[job.id] = Running(work, turns, heard)
        renewing = asyncio.create_task(self._renew(job, running))
        try:
            await asyncio.wait((running.work, renewing), return_when=asyncio.FIRST_COMPLETED)
            if running.work.done() and not running.work.cancelled():
                await self._finish(job, running)
            else:  # it was cancelled or deleted
                self._charge(job.owner, sum(heard))
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.to_thread(self.store.release, job.id, self._name))
            raise
        finally:
            running.work.cancel()
            renewing.cancel()
            await asyncio.gather(running.work, renewing, return_exceptions=True)
            if self.running.get(job.id) is running:  # else its claim has ended, and it was begun anew beside us
                del self.running[job.id]
        return True

    async def _work(
        self, job: StoredJob, on_admit: Callable[[Job], None], on_heard: Callable[[float], None]
    ) -> Answered | Failed:
        audio = await asyncio.to_thread(self.store.audio, job.id)
        if audio is None:
            raise asyncio.CancelledError  # it was cancelled meanwhile
        with paid_by(on_heard):
            return await self._answer(job, audio, on_admit)

    async def _renew(self, job: StoredJob, running: Running) -> None:
        """Renew the claim; return when somebody else has the job, or nobody, or may have it by now."""
        is_ours, until = True, job.lease_until or 0.0
        while is_ours:
            await asyncio.sleep(RENEW_S)
            now = time.time()
            try:
                is_ours = await asyncio.to_thread(
                    self.store.renew,
                    job.id,
                    self._name,
                    now,
                    LEASE_S,
                    progress=running.progress,
                    audio_seconds=running.audio_seconds,
                )
                until = now + LEASE_S
            except Exception:  # the database is locked, say: the claim holds on for a while
                is_ours = time.time() < until
                what = "trying again" if is_ours else "its claim has ended, and it is begun anew"
                logger.exception("job %s: the claim could not be renewed; %s", job.short_id, what)

    async def _finish(self, job: StoredJob, running: Running) -> None:
        try:
            outcome = running.work.result()
        except Exception:
            logger.exception("job %s failed", job.short_id)
            message = "Something went wrong here; the log says what."
            error = {"message": message, "type": "server_error", "param": None, "code": "internal_error"}
            outcome = Failed(error, None)
        now, seconds = time.time(), sum(running.heard)
        if isinstance(outcome, Answered):
            seconds, finish = outcome.audio_s, self.store.succeed
            done = await asyncio.to_thread(
                finish, job.id, self._name, outcome.result, now, self.ttl_s, audio_seconds=seconds
            )
            status = "succeeded"
        elif outcome.retry_after_s is not None:
            not_before = now + outcome.retry_after_s
            await asyncio.to_thread(self.store.release, job.id, self._name, not_before=not_before)
            return
        else:
            done = await asyncio.to_thread(self.store.fail, job.id, self._name, outcome.error, now, self.ttl_s)
            status = "failed"
        if done:
            logger.info("job %s %s", job.short_id, status)
            self._on_finished(status)
            self._charge(job.owner, seconds)
            self.wake()

    async def _next_webhook(self, client: httpx.AsyncClient, key: bytes) -> bool:
        job = await asyncio.to_thread(self.store.next_webhook, time.time(), WEBHOOK_LEASE_S)
        if job is None or job.webhook is None:
            return False
        try:
            check_url(job.webhook, self._webhook_hosts)  # it may have been taken off the list since
            error = await send(client, job.webhook, f"msg_{job.id}", self._message(job), key, time.time())
            next_at = next_attempt(job.webhook_attempts, error, time.time())
        except WebhookError:
            error, next_at = "not allowed", None
        except Exception as bug:  # or it would be sent again for ever
            logger.exception("job %s: the webhook could not be sent", job.short_id)
            error = type(bug).__name__
            next_at = next_attempt(job.webhook_attempts, error, time.time())
        if error is not None:
            logger.warning("job %s: the webhook failed (%s), attempt %d", job.short_id, error, job.webhook_attempts)
        await asyncio.to_thread(self.store.webhook_sent, job.id, error=error, next_at=next_at)
        return True

    async def _sweep(self) -> bool:
        for _ in range(await asyncio.to_thread(self.store.sweep, time.time(), self.ttl_s, ABANDONED)):
            self._on_finished("failed")
        return False
