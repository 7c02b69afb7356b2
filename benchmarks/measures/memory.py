"""Memory of both services: after the first request, and the most while sixteen clients ask."""

from benchmarks.bench import FASTER_WHISPER, Bench, medians, uploads
from benchmarks.entries import Entry, Side
from benchmarks.rounds import Round
from benchmarks.servers import Command, ask, pss_bytes, serving, watching_pss

IDLE, BUSY = "memory_idle", "memory_busy"
TARGETS = {IDLE: 1.0, BUSY: 1.5}
CLIENTS, REQUESTS = 16, 24
MIB = 1024 * 1024


def measure(bench: Bench) -> list[Entry]:
    """Measure each service once, in processes just started."""
    requests = uploads(bench.short_clips[:REQUESTS])

    def weigh(command: Command) -> Round:
        with serving(command) as server:
            ask(server, requests[:1], clients=1)
            idle = pss_bytes(server.process.pid)
            with watching_pss(server.process.pid) as samples:
                ask(server, requests, clients=CLIENTS)
            return {IDLE: idle / MIB, BUSY: max(samples) / MIB}

    n_rounds = 2 if bench.full else 1
    rounds = bench.interleave(
        "memory",
        n_rounds,
        {"ours": lambda: weigh(bench.service()), "theirs": lambda: weigh(bench.faster_whisper_server())},
    )
    titles = {IDLE: "Memory of the service, after one request", BUSY: f"Memory of the service, at {CLIENTS} clients"}
    hows = {
        IDLE: "Proportional set size (PSS) of all the service's processes, after its start and one request.",
        BUSY: f"The highest of ten samples a second while {CLIENTS} clients send {len(requests)} requests.",
    }
    return [
        Entry(
            measure=name,
            title=titles[name],
            how=hows[name],
            value=medians(rounds["ours"], name) / medians(rounds["theirs"], name),
            unit="x",
            against=f"{FASTER_WHISPER}, behind FastAPI",
            target=f"<= {TARGETS[name]:g}",
            met=medians(rounds["ours"], name) <= TARGETS[name] * medians(rounds["theirs"], name),
            rounds=n_rounds,
            ours=Side(name="service", value=medians(rounds["ours"], name), rounds=[r[name] for r in rounds["ours"]]),
            theirs=Side(
                name="FastAPI", value=medians(rounds["theirs"], name), rounds=[r[name] for r in rounds["theirs"]]
            ),
            side_unit="MiB",
        )
        for name in (IDLE, BUSY)
    ]
