"""What the console, which is loaded after readiness, costs those who ask meanwhile: our service with it and without."""

from dataclasses import replace
from functools import partial
from statistics import median

import httpx

from benchmarks.bench import Bench, medians, uploads
from benchmarks.entries import Entry, Side
from benchmarks.measures.clip_latency import three_second_clips
from benchmarks.rounds import Round
from benchmarks.servers import Server, ask, serving
from training.shell import StepError

NAME = "console"
TARGET = 1.1
REQUESTS, MAX_REQUESTS = 40, 400
"""One after another from readiness on, at least, and until the page is there, at most."""


def measure(bench: Bench) -> list[Entry]:
    """Start the service anew for each round, ask it at once, and go on until the page is there."""
    clip = three_second_clips(bench)[:1]

    def round_of(console: bool) -> Round:
        command = bench.service()
        environment = {**command.environment, "WHISPERLOOP_CONSOLE": str(console).lower()}
        latencies: list[float] = []
        with serving(replace(command, environment=environment)) as server:
            while len(latencies) < REQUESTS or (console and not _has_page(server)):
                if len(latencies) >= MAX_REQUESTS:
                    raise StepError(f"there is no console after {len(latencies)} requests; see {command.log}")
                latencies += ask(server, uploads(clip * REQUESTS), clients=1)["latencies"]
        return {
            "first": latencies[0],
            "median": median(latencies),
            "slowest": max(latencies),
            "to_ready": server.seconds_to_ready,
        }

    sides = {"with": partial(round_of, True), "without": partial(round_of, False)}
    bench.interleave(f"{NAME}, first", 1, sides)  # which brings the files into the page cache
    rounds = bench.interleave(NAME, bench.n_rounds, sides)
    found = {
        what: {who: medians(done, what) for who, done in rounds.items()}
        for what in ("first", "median", "slowest", "to_ready")
    }
    ratios = {what: both["with"] / both["without"] for what, both in found.items()}
    return [
        Entry(
            measure=NAME,
            title="First request, while the console is being loaded",
            how=f"A clip of three seconds, {REQUESTS} times or more one after another from /health/ready on, by a "
            "service until its console is there, and by one without. Medians, with as a multiple of without: "
            f"start to readiness {ratios['to_ready']:.2f}, first request {ratios['first']:.2f}, median request "
            f"{ratios['median']:.2f}, slowest request {ratios['slowest']:.2f} ({found['slowest']['with']:.2f} s).",
            value=ratios["first"],
            unit="x",
            against="itself, without a console",
            target=f"<= {TARGET:g}",
            met=ratios["first"] <= TARGET,
            rounds=bench.n_rounds,
            ours=Side(name="with", value=found["first"]["with"], rounds=[r["first"] for r in rounds["with"]]),
            theirs=Side(
                name="without", value=found["first"]["without"], rounds=[r["first"] for r in rounds["without"]]
            ),
            side_unit="s",
            detail={"ratios": ratios, "seconds": found},
        )
    ]


def _has_page(server: Server) -> bool:
    return "gradio" in httpx.get(server.address, timeout=60).text
