"""From the start of the process to readiness: our service, against faster-whisper's import and load."""

import subprocess
import time

from benchmarks.bench import FASTER_WHISPER, THREADS, Bench, medians
from benchmarks.entries import Entry, Side
from benchmarks.rounds import Round
from benchmarks.servers import serving

NAME = "start_to_ready"
TARGET = 1.5
LOAD = (
    "import sys; from faster_whisper import WhisperModel; "
    "WhisperModel(sys.argv[1], device='cpu', compute_type='int8', cpu_threads=int(sys.argv[2]))"
)


def measure(bench: Bench) -> list[Entry]:
    """Measure both, after a start of each that brings the files into the page cache."""

    def ours() -> Round:
        with serving(bench.service()) as server:
            return {"seconds": server.seconds_to_ready}

    def theirs() -> Round:
        command = [str(bench.peers), "-c", LOAD, str(bench.version.path / "ctranslate2"), str(THREADS)]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        return {"seconds": time.perf_counter() - started}

    bench.interleave(f"{NAME}, first", 1, {"ours": ours, "theirs": theirs})
    rounds = bench.interleave(NAME, bench.n_rounds, {"ours": ours, "theirs": theirs})
    seconds = {who: medians(done, "seconds") for who, done in rounds.items()}
    ratio = seconds["ours"] / seconds["theirs"]
    return [
        Entry(
            measure=NAME,
            title="Start of the process to readiness",
            how="Ours until /health/ready answers 200: every byte of the version is verified, and a second of noise "
            "is decoded. Theirs is a process that imports faster-whisper, loads the model and ends. Files are cached.",
            value=ratio,
            unit="x",
            against=f"{FASTER_WHISPER}, import and load",
            target=f"<= {TARGET:g}",
            met=ratio <= TARGET,
            rounds=bench.n_rounds,
            ours=Side(name="service", value=seconds["ours"], rounds=[r["seconds"] for r in rounds["ours"]]),
            theirs=Side(name="load", value=seconds["theirs"], rounds=[r["seconds"] for r in rounds["theirs"]]),
            side_unit="s",
        )
    ]
