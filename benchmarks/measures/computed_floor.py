"""What a three-second clip would take if nothing but the model's arithmetic counted, beside what it takes."""

from statistics import median

from benchmarks.bench import THREADS, Bench, files
from benchmarks.entries import Entry, Side
from benchmarks.floor import (
    Sizes,
    clock_hertz,
    encoder_operations,
    floor_seconds,
    memory_bandwidth,
    token_bytes,
    token_operations,
)
from benchmarks.measures.clip_latency import three_second_clips
from benchmarks.rounds import Round
from speech.audio import SAMPLE_RATE
from speech.checkpoint import read_json
from speech.context import ElasticContext
from speech.tokens import WhisperTokenizer

NAME = "computed_floor"


def measure(bench: Bench) -> list[Entry]:
    """Compute the floor of the clips that `clip_latency` measures, and measure ours again beside it."""
    clips = three_second_clips(bench)
    sizes = Sizes.of(read_json(bench.version.path / "config.json"))
    context = ElasticContext.from_manifest(bench.version.manifest.context)
    positions = context.positions(round(median(clip.seconds for clip in clips) * SAMPLE_RATE))
    tokenizer = WhisperTokenizer.from_folder(bench.version.path)
    tokens = round(median(len(tokenizer.encode(clip.text)) for clip in clips)) + 1  # and the end
    with bench.ours() as worker:

        def one_round() -> Round:
            worker.transcribe(files(clips[:1]))
            each = worker.transcribe(files(clips), one_by_one=True)["each"]
            return {"seconds": median(each), "bandwidth": memory_bandwidth(), "hertz": clock_hertz()}

        rounds = bench.interleave(NAME, 3, {"ours": one_round})["ours"]
    seconds = median(one["seconds"] for one in rounds)
    bandwidth, hertz = max(one["bandwidth"] for one in rounds), max(one["hertz"] for one in rounds)
    least = floor_seconds(sizes, positions, tokens, cores=THREADS, hertz=hertz, bandwidth=bandwidth)
    return [
        Entry(
            measure=NAME,
            title="Latency of a 3 s clip over its computed floor",
            how=f"{positions} positions and {tokens} tokens on {THREADS} cores of {hertz / 1e9:.2f} GHz at 128 int8 "
            f"and 32 float32 operations a cycle, and {bandwidth / 1e9:.0f} GB/s of measured copy bandwidth "
            "(benchmarks/floor.py has the formulae). No target: it says how much is left.",
            value=seconds / least,
            unit="x",
            against="arithmetic at the processor's peak",
            rounds=len(rounds),
            ours=Side(name="measured", value=1000 * seconds, rounds=[1000 * one["seconds"] for one in rounds]),
            theirs=Side(name="floor", value=1000 * least, rounds=[]),
            side_unit="ms",
            detail={
                "encoder_gflop": sum(encoder_operations(sizes, positions).values()) / 1e9,
                "token_gflop": sum(token_operations(sizes, positions).values()) / 1e9,
                "token_megabytes": token_bytes(sizes, positions) / 1e6,
            },
        )
    ]
