"""Requests a second over HTTP with sixteen clients, and the latency that they see; ours against a tutorial's server."""

from contextlib import ExitStack
from functools import partial

from benchmarks.accuracy import compare
from benchmarks.bench import FASTER_WHISPER, Bench, medians, percentile, uploads
from benchmarks.entries import Entry, Side
from benchmarks.measures.lazily import Lazy
from benchmarks.rounds import Round
from benchmarks.servers import Server, ask, serving

NAME, NAME_P95 = "http_throughput", "http_latency_p95"
TARGET, TARGET_P95 = 6.0, 0.25
CLIENTS, REQUESTS = 16, 48
LADDER = {"ours": (1, 2, 4, 8, 16, 32), "theirs": (1, 4, 16)}
AGAINST = f"{FASTER_WHISPER}, behind FastAPI"


def measure(bench: Bench) -> list[Entry]:
    """Measure rounds of both, then a ladder of clients for the plot."""
    clips = bench.short_clips[:REQUESTS]
    requests = uploads(clips)
    with ExitStack() as stack:
        servers = {
            "ours": Lazy(stack, partial(serving, bench.service())),
            "theirs": Lazy(stack, partial(serving, bench.faster_whisper_server())),
        }
        for server in servers.values():
            server.on_start = lambda started: ask(started, requests[:2], clients=1)

        def one_round(server: Lazy[Server], n_requests: int = REQUESTS, clients: int = CLIENTS) -> Round:
            answer = ask(server.get(), requests[:n_requests], clients=clients)
            return {**answer, "speed": n_requests / answer["seconds"]}

        rounds = bench.interleave(NAME, bench.n_rounds, {who: partial(one_round, s) for who, s in servers.items()})
        ladder = {
            who: [
                (clients, bench.interleave(f"{NAME}, {clients} clients", 1, {who: step})[who][0])
                for clients in LADDER[who]
                # Theirs takes a second a request: no more of them than the step needs.
                for n in [REQUESTS if who == "ours" else max(clients, 6)]
                for step in [partial(one_round, server, n, clients)]
            ]
            for who, server in servers.items()
        }
    ours, theirs = rounds["ours"], rounds["theirs"]
    latencies = {who: [value for one in rounds[who] for value in one["latencies"]] for who in rounds}
    p50 = {who: percentile(values, 50) for who, values in latencies.items()}
    p95 = {who: percentile(values, 95) for who, values in latencies.items()}
    wer = compare(clips, ours[-1]["texts"], theirs[-1]["texts"])
    ratio = medians(ours, "speed") / medians(theirs, "speed")
    ratio_p95 = p95["ours"] / p95["theirs"]
    how = (
        f"{CLIENTS} clients, each sending its next WAV file when its last is answered, {len(clips)} requests a round; "
        "POST /transcribe with file and language. Theirs is the usual tutorial: a plain handler on FastAPI's thread "
        "pool and one model of two threads. The clients run on the same cores."
    )
    return [
        Entry(
            measure=NAME,
            title=f"Requests a second over HTTP, {CLIENTS} clients",
            how=how,
            value=ratio,
            unit="x",
            against=AGAINST,
            target=f">= {TARGET:g}",
            met=ratio >= TARGET,
            rounds=bench.n_rounds,
            wer=wer,
            ours=Side(name="service", value=medians(ours, "speed"), rounds=[r["speed"] for r in ours]),
            theirs=Side(name="FastAPI", value=medians(theirs, "speed"), rounds=[r["speed"] for r in theirs]),
            side_unit="requests / s",
            detail={"p50_s": p50, "p95_s": p95, "ladder": {who: _steps(steps) for who, steps in ladder.items()}},
        ),
        Entry(
            measure=NAME_P95,
            title=f"95th percentile of the latency, {CLIENTS} clients",
            how=f"The same requests, of all rounds. Median: ours {p50['ours']:.2f} s, theirs {p50['theirs']:.2f} s.",
            value=ratio_p95,
            unit="x",
            against=AGAINST,
            target=f"<= {TARGET_P95:g}",
            met=ratio_p95 <= TARGET_P95,
            rounds=bench.n_rounds,
            wer=wer,
            ours=Side(name="service", value=p95["ours"], rounds=[percentile(r["latencies"], 95) for r in ours]),
            theirs=Side(name="FastAPI", value=p95["theirs"], rounds=[percentile(r["latencies"], 95) for r in theirs]),
            side_unit="s",
        ),
    ]


def _steps(steps: list[tuple[int, Round]]) -> list[dict[str, float]]:
    return [
        {
            "clients": clients,
            "p50_s": percentile(one["latencies"], 50),
            "p95_s": percentile(one["latencies"], 95),
            "speed": one["speed"],
        }
        for clients, one in steps
    ]
