"""What the console, which is loaded after readiness, costs those who ask meanwhile: our service with it and without."""

from dataclasses import replace
from functools import partial
from statistics import median

from benchmarks.bench import Bench, medians, uploads
from benchmarks.entries import Entry, Side
from benchmarks.measures.clip_latency import three_second_clips
from benchmarks.rounds import Round
from benchmarks.servers import ask, serving

NAME = "console"
TARGET = 1.1
REQUESTS = 40
"""One after another from readiness on: longer than it takes to import and build a Gradio page."""


def measure(bench: Bench) -> list[Entry]:
    """Start the service anew for each round, ask it at once, and go on until the page is there."""
    clip = three_second_clips(bench)[:1]

    def round_of(console: str) -> Round:
        command = bench.service()
        command = replace(command, environment={**command.environment, "WHISPERLOOP_CONSOLE": console})
        with serving(command) as server:
            latencies = ask(server, uploads(clip * REQUESTS), clients=1)["latencies"]
        return {
            "first": latencies[0],
            "median": median(latencies),
            "slowest": max(latencies),
            "to_ready": server.seconds_to_ready,
        }

    sides = {"with": partial(round_of, "true"), "without": partial(round_of, "false")}
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
            how=f"A clip of three seconds, {REQUESTS} times one after another from /health/ready on, by a service that "
            "loads its console meanwhile, and by one without. Medians of the rounds, with it as a multiple of without: "
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
