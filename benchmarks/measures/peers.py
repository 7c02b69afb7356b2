"""Every way that we know to run these weights on a CPU, on the same few clips."""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.bench import FASTER_WHISPER, THREADS, Bench, files, medians
from benchmarks.clips import Clip, spread
from benchmarks.entries import Entry, Side
from benchmarks.environment import converted, site_packages
from benchmarks.formats import write_ggml, write_openai
from benchmarks.rounds import Round
from benchmarks.workers import Worker
from speech.scores import corpus_rate, word_errors

NAME = "peers"
CLIPS_A_LANGUAGE = 8
ROUNDS = 3
OURS, SEQUENTIAL = "whisperloop, int8", FASTER_WHISPER


def measure(bench: Bench) -> list[Entry]:
    """Measure them all; the table is the entry's detail."""
    clips = list(bench.clips) if bench.full else spread(bench.clips, CLIPS_A_LANGUAGE)
    seconds = sum(clip.seconds for clip in clips)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker) for name, worker in _contenders(bench).items()}
        rounds = bench.interleave(
            NAME, ROUNDS, {name: partial(_round, worker, clips) for name, worker in workers.items()}
        )
    rows = [
        {
            "name": name,
            "seconds": medians(done, "seconds"),
            "rtfx": seconds / medians(done, "seconds"),
            "wer": corpus_rate([word_errors(c.text, t) for c, t in zip(clips, done[-1]["texts"], strict=True)]),
            "peak_mib": max(one["peak_bytes"] for one in done) / 2**20,
        }
        for name, done in rounds.items()
    ]
    speeds = {name: [seconds / one["seconds"] for one in done] for name, done in rounds.items()}
    best = max((name for name in rounds if name != OURS), key=lambda name: median(speeds[name]))
    return [
        Entry(
            measure=NAME,
            title="All contenders, the same clips",
            how=f"{len(clips)} held-out clips ({seconds:.0f} s), {THREADS} threads, greedy, language given, one clip "
            "after another unless the contender has batches of its own. The peak memory is the process's (VmHWM), "
            "torch and all.",
            value=median(speeds[OURS]) / median(speeds[best]),
            unit="x",
            against=f"the fastest of the others: {best}",
            rounds=ROUNDS,
            ours=Side(name=OURS, value=median(speeds[OURS]), rounds=speeds[OURS]),
            theirs=Side(name=best, value=median(speeds[best]), rounds=speeds[best]),
            side_unit="s of audio / s",
            detail={"rows": rows},
        )
    ]


def _contenders(bench: Bench) -> dict[str, Worker]:
    formats = bench.folder / "formats"
    openai = {
        "model": str(converted(bench.version, formats / f"{bench.version.id}.pt", write_openai)),
        "threads": THREADS,
        "site_packages": str(site_packages(bench.peers)),
    }
    checkpoint = {"model": str(bench.version.path), "threads": THREADS}
    ggml = {
        "model": str(converted(bench.version, formats / f"ggml-{bench.version.id}.bin", write_ggml)),
        "threads": THREADS,
    }
    repository = Path(sys.executable)  # has torch and transformers
    return {
        OURS: bench.ours(),
        SEQUENTIAL: bench.faster_whisper(),
        "faster-whisper 1.2.1, BatchedInferencePipeline": bench.faster_whisper(batch_size=8),
        "transformers pipeline, float32": Worker(
            repository, "transformers_pipeline", checkpoint, bench.log("transformers")
        ),
        "openai-whisper, float32": Worker(repository, "openai_whisper", openai, bench.log("openai-whisper")),
        "whisper.cpp, float16": Worker(bench.peers, "whisper_cpp", ggml, bench.log("whisper-cpp")),
    }


def _round(worker: Worker, clips: list[Clip]) -> Round:
    answer = worker.transcribe(files(clips))
    return {"seconds": answer["seconds"], "texts": answer["texts"], **worker.ask({"do": "memory"})}
