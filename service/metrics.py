"""What operators watch, at `GET /metrics` in Prometheus' text format: load, speed, padding waste, where time goes.

Nothing here tells what was said or by whom. The numbers of the queue are read when they are asked for.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from service.scheduler import Batch, Scheduler

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
FACTOR_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32)

Stage = Literal["upload", "decode", "queue", "engine"]
SwapResult = Literal["served", "refused"]
ShadowResult = Literal["compared", "dropped", "failed"]


class Metrics:
    """The instruments of one application, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.span: Callable[[str], AbstractContextManager[None]] = lambda _stage: (
            nullcontext()
        )  # `service.telemetry` traces stages
        self._requests = Counter(
            "whisperloop_requests",
            "Requests answered, by path, status and the version that answered (none for what needs no model).",
            ["path", "status", "version"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "whisperloop_request_seconds",
            "From a request's first byte to its answer, by path.",
            ["path"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._stages = Counter(
            "whisperloop_stage_seconds",
            "Where time goes, summed over requests and windows: upload (reading the form), decode (file to features), "
            "queue (windows waiting), engine (batches being decoded).",
            ["stage"],
            registry=self._registry,
        )
        self._audio = Counter(
            "whisperloop_audio_seconds",
            "Audio that a version decoded, silence left out, copies for the shadow among it.",
            ["version"],
            registry=self._registry,
        )
        self._paid = Counter(
            "whisperloop_paid_seconds",
            "The same with each window's margin and padding: 1 - audio / paid is the padding waste.",
            ["version"],
            registry=self._registry,
        )
        self._windows = Histogram(
            "whisperloop_batch_windows",
            "Windows a batch, by version.",
            ["version"],
            buckets=SIZE_BUCKETS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "whisperloop_batch_seconds",
            "What a batch took, by version: sum / audio is the version's real-time factor.",
            ["version"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._waiting = Gauge(
            "whisperloop_queue_windows",
            "Windows that wait for the engine, by lane and version.",
            ["lane", "version"],
            registry=self._registry,
        )
        self._waiting_s = Gauge(
            "whisperloop_queue_audio_seconds",
            "Audio of admitted requests, not decoded yet, by lane and version.",
            ["lane", "version"],
            registry=self._registry,
        )
        self._jobs = Counter(
            "whisperloop_jobs",
            "Jobs that came to an end, by status (succeeded, failed, cancelled).",
            ["status"],
            registry=self._registry,
        )
        self._feedback = Counter(
            "whisperloop_feedback",
            "Corrections that were taken, by what became of them (new, merged).",
            ["result"],
            registry=self._registry,
        )
        self._errors = Counter(
            "whisperloop_errors",
            "Requests that were not answered as asked, by the error's code (overloaded, deadline_exceeded).",
            ["code"],
            registry=self._registry,
        )
        self._factor = Histogram(
            "whisperloop_request_real_time_factor",
            "From an upload's last byte to its answer, a second of its audio, waiting for others included; by version.",
            ["version"],
            buckets=FACTOR_BUCKETS,
            registry=self._registry,
        )
        self._key_requests = Counter(
            "whisperloop_key_requests",
            "Requests by API key, refused ones among them.",
            ["key"],
            registry=self._registry,
        )
        self._key_audio = Counter(
            "whisperloop_key_audio_seconds", "Audio that was answered, by API key.", ["key"], registry=self._registry
        )
        self._serving = Gauge(
            "whisperloop_model_info",
            "1 for the version that answers for an alias now.",
            ["alias", "version", "engine"],
            registry=self._registry,
        )
        self._swaps = Counter(
            "whisperloop_model_swaps",
            "Versions that an alias came to name, by what became of them: served, refused.",
            ["alias", "result"],
            registry=self._registry,
        )
        self._shadowed = Counter(
            "whisperloop_shadow_requests",
            "Requests copied for the shadow: compared, dropped for lack of idle time, failed.",
            ["result"],
            registry=self._registry,
        )
        self._disagreement = Summary(
            "whisperloop_shadow_disagreement",
            "Word edits between a shadow's transcript and the answer, a word of the longer one; of each copy.",
            ["version"],
            registry=self._registry,
        )
        for stage in ("upload", "decode", "queue", "engine"):
            self._stages.labels(stage)  # there from the first scrape

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Count the time that the block takes."""
        started = time.perf_counter()
        try:
            with self.span(stage):
                yield
        finally:
            self._stages.labels(stage).inc(time.perf_counter() - started)

    def request(self, path: str, status: int, version: str, seconds: float) -> None:
        """Count an answered request; `path` and `version` are of ours, never what a caller wrote."""
        self._requests.labels(path, str(status), version).inc()
        self._latency.labels(path).observe(seconds)

    def job(self, status: str) -> None:
        """Count a job that came to an end."""
        self._jobs.labels(status).inc()

    def feedback(self, *, is_new: bool) -> None:
        """Count a correction that was taken."""
        self._feedback.labels("new" if is_new else "merged").inc()

    def real_time_factor(self, version: str, factor: float) -> None:
        """Note how long a request took, a second of its audio."""
        self._factor.labels(version).observe(factor)

    def key_request(self, key: str) -> None:
        """Count a request of a key, by the key's name."""
        self._key_requests.labels(key).inc()

    def key_audio(self, key: str, audio_s: float) -> None:
        """Count the seconds of audio that a key was answered, by a request or a job."""
        self._key_audio.labels(key).inc(audio_s)

    def error(self, code: str) -> None:
        """Count an error that was answered; `code` is one of ours."""
        self._errors.labels(code).inc()

    def batch(self, ref: str, batch: Batch, *, is_copy: bool = False) -> None:
        """Count a batch that was decoded by a version; a copy for the shadow is no request's time."""
        if not is_copy:
            self._stages.labels("queue").inc(batch.waited_s)
            self._stages.labels("engine").inc(batch.busy_s)
        self._audio.labels(ref).inc(batch.audio_s)
        self._paid.labels(ref).inc(batch.padded_s)
        self._windows.labels(ref).observe(batch.windows)
        self._batches.labels(ref).observe(batch.busy_s)

    def serving(self, served: Mapping[str, tuple[str, str]]) -> None:
        """Say what is served: by alias, the version and its engine."""
        self._serving.clear()
        for alias, (version, engine) in served.items():
            self._serving.labels(alias, version, engine).set(1)

    def swapped(self, alias: str, result: SwapResult) -> None:
        """Count a version that an alias came to name."""
        self._swaps.labels(alias, result).inc()

    def shadowed(self, result: ShadowResult) -> None:
        """Count a copy of a request."""
        self._shadowed.labels(result).inc()

    def disagreed(self, ref: str, rate: float) -> None:
        """Note by how much a shadow disagreed with an answer, from 0 to 1."""
        self._disagreement.labels(ref).observe(rate)

    def render(self, schedulers: Mapping[str, Scheduler]) -> bytes:
        """Return all of it in Prometheus' text format, with the queues of the versions that answer now."""
        self._waiting.clear()
        self._waiting_s.clear()
        for ref, scheduler in schedulers.items():
            for lane, waiting in scheduler.stats().lanes.items():
                self._waiting.labels(lane, ref).set(waiting.windows)
                self._waiting_s.labels(lane, ref).set(waiting.audio_s)
        return generate_latest(self._registry)
