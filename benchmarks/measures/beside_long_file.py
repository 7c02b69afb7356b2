"""A clip's latency over HTTP while the same service transcribes a ten-minute file, against its own idle latency."""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks.bench import Bench, percentile, uploads
from benchmarks.clips import LONG_FILE_S
from benchmarks.entries import Entry, Side
from benchmarks.measures.clip_latency import three_second_clips
from benchmarks.measures.lazily import Lazy
from benchmarks.rounds import Round
from benchmarks.servers import ask, get_metrics, serving

NAME = "clip_latency_beside_long_file"
TIMES_IDLE = 2.0
ROUNDS = 3
WINDOW_S, WINDOWS_A_BATCH = 28.0, 8
"""The service's windows and batches, roughly: for a service that has no metrics."""


def measure(bench: Bench) -> list[Entry]:
    """Measure clips alone, the file alone, and clips one after another while the file is being transcribed."""
    clips = three_second_clips(bench)
    file = bench.long_file
    long = [(file.path, file.language)]
    with ExitStack() as stack:
        server = Lazy(stack, partial(serving, bench.service()))
        server.on_start = lambda started: ask(started, uploads(clips), clients=1)

        def one_round() -> Round:
            service = server.get()
            idle = ask(service, uploads(clips * 2), clients=1)["latencies"]
            before = get_metrics(service)
            alone_s = ask(service, long, clients=1)["seconds"]
            batch_s = one_batch_seconds(before, get_metrics(service), alone_s)
            beside: list[float] = []
            pool = ThreadPoolExecutor(1)
            film = pool.submit(ask, service, long, clients=1)
            i = 0
            while not film.done():
                latency = ask(service, uploads([clips[i % len(clips)]]), clients=1)["latencies"][0]
                i += 1
                if not film.done():  # the last one may have found the service idle
                    beside.append(latency)
            film.result()  # raises what went wrong with the file
            pool.shutdown()
            return {"idle": idle, "beside": beside, "batch_s": batch_s, "alone_s": alone_s}

        rounds = bench.interleave(NAME, ROUNDS, {"ours": one_round})["ours"]
    idle = median(value for one in rounds for value in one["idle"])
    beside = [value for one in rounds for value in one["beside"]]
    batch_s = median(one["batch_s"] for one in rounds)
    limit = TIMES_IDLE * idle + batch_s
    return [
        Entry(
            measure=NAME,
            title="Latency of a 3 s clip beside a ten-minute file",
            how="One client POSTs clips one after another while another's ten-minute file is being transcribed by the "
            f"same service. Allowed: twice the idle latency and one batch, for a batch that runs is not interrupted; "
            f"here {limit:.2f} s, a batch being {batch_s:.2f} s. 95th percentile {percentile(beside, 95):.2f} s, of "
            f"{len(beside)} clips.",
            value=median(beside),
            unit="s",
            against="itself, idle",
            target=f"<= {limit:.2f} s (2 x idle + one batch)",
            met=median(beside) <= limit,
            rounds=ROUNDS,
            ours=Side(name="beside", value=median(beside), rounds=[median(one["beside"]) for one in rounds]),
            theirs=Side(name="idle", value=idle, rounds=[median(one["idle"]) for one in rounds]),
            side_unit="s",
            detail={"p95_s": percentile(beside, 95), "batch_s": batch_s, "clips": len(beside)},
        )
    ]


def one_batch_seconds(before: str, after: str, file_seconds: float) -> float:
    """Return how long one batch of the long file took.

    Args:
        before: the service's metrics before the file, which nothing ran beside.
        after: its metrics after it.
        file_seconds: what the file took; used where the service has no `whisperloop_batch_seconds`.
    """
    counts = [_samples(text) for text in (before, after)]
    batches = counts[1].get("count", 0.0) - counts[0].get("count", 0.0)
    if batches > 0:
        return (counts[1]["sum"] - counts[0].get("sum", 0.0)) / batches
    return file_seconds / math.ceil(LONG_FILE_S / WINDOW_S / WINDOWS_A_BATCH)


def _samples(metrics: str) -> dict[str, float]:
    """Return sum and count of the histogram of batches, over all its labels."""
    found: dict[str, float] = {}
    for kind, value in re.findall(r"^whisperloop_batch_seconds_(sum|count)(?:\{[^}]*\})? (\S+)", metrics, re.MULTILINE):
        found[kind] = found.get(kind, 0.0) + float(value)
    return found
