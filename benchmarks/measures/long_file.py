"""A ten-minute file from the disk to its text: ours over HTTP, theirs in batches with voice activity detection."""

from contextlib import ExitStack
from functools import partial

from benchmarks.accuracy import error_rate
from benchmarks.bench import FASTER_WHISPER, THREADS, Bench, medians
from benchmarks.clips import LONG_FILE_S
from benchmarks.entries import Entry, Side, WordErrors
from benchmarks.measures.lazily import Lazy
from benchmarks.rounds import Round
from benchmarks.servers import ask, serving

NAME = "long_file"
TARGET = 1.5
BATCH_SIZE = 8


def measure(bench: Bench) -> list[Entry]:
    """Measure rounds of both on the same file."""
    file = bench.long_file
    request = [(file.path, file.language)]
    with ExitStack() as stack:
        server = Lazy(stack, partial(serving, bench.service()))
        peer = stack.enter_context(bench.faster_whisper(THREADS, batch_size=BATCH_SIZE))

        def ours() -> Round:
            return _round(ask(server.get(), request, clients=1))

        def theirs() -> Round:
            return _round(peer.transcribe(request))

        rounds = bench.interleave(NAME, bench.n_rounds, {"ours": ours, "theirs": theirs})
    speed = {who: LONG_FILE_S / medians(done, "seconds") for who, done in rounds.items()}
    ratio = speed["ours"] / speed["theirs"]
    rates = {who: error_rate(file.text, done[-1]["text"]) for who, done in rounds.items()}
    difference = rates["ours"] - rates["theirs"]
    return [
        Entry(
            measure=NAME,
            title="A ten-minute file",
            how=f"Clips of one language ({file.language}) by lot, held-out ones first, with 0.3 to 1.5 s of silence "
            "between them, from the WAV file on the disk to its text; language given. Ours is asked over HTTP, theirs "
            f"is BatchedInferencePipeline(vad_filter=True, batch_size={BATCH_SIZE}). One text has no interval.",
            value=ratio,
            unit="x",
            against=f"{FASTER_WHISPER}, batches of {BATCH_SIZE}",
            target=f">= {TARGET:g}",
            met=ratio >= TARGET,
            rounds=bench.n_rounds,
            wer=WordErrors(**rates, difference=difference, low=difference, high=difference, clips=1),
            ours=Side(name="service", value=speed["ours"], rounds=[LONG_FILE_S / r["seconds"] for r in rounds["ours"]]),
            theirs=Side(
                name="batches", value=speed["theirs"], rounds=[LONG_FILE_S / r["seconds"] for r in rounds["theirs"]]
            ),
            side_unit="s of audio / s",
        )
    ]


def _round(answer: Round) -> Round:
    return {"seconds": answer["seconds"], "text": answer["texts"][0]}
