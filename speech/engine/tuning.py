"""How the CPU engine is loaded and run on this machine: precision, workers, threads, batch size; measured.

``python -m speech.engine.tuning FOLDER`` measures in a process of its own, so that it can be stopped at any moment and
leaves nothing behind in the server's; the service runs it when it is idle and keeps the answer. Nothing is transcribed
here: the arithmetic of noise is that of speech.
"""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ctranslate2
import numpy as np
import threadpoolctl

from speech.context import FRAMES_PER_POSITION
from speech.engine.allocator import keep_freed_memory, return_freed_memory
from speech.machine import cores
from speech.tokens import WhisperTokenizer

MAX_THREADS = 4  # more gain nothing for one window (SYSTRAN/faster-whisper#1397); more workers do
BATCHES = (4, 8, 16, 24)
CLIP_TOKENS = 15  # what is said in 3 s
BATCH_POSITIONS = 6000  # no larger batch is tried: at 30 s a window it would take minutes, and gain nothing
ROUNDS = 3
COMPUTE_TYPES = ("int8", "float32")


@dataclass(frozen=True)
class Tuning:
    """How to run the CPU engine; the defaults suit most machines."""

    compute_type: str = "int8"  # what the weights are turned into: one of COMPUTE_TYPES
    workers: int = field(default_factory=lambda: max(1, cores() // MAX_THREADS))
    """Batches decoded at once, from one copy of the weights."""
    threads: int = field(default_factory=lambda: min(cores(), MAX_THREADS))  # of each worker
    batch: int = 16  # windows decoded together at most


def load_whisper(folder: Path, tuning: Tuning) -> ctranslate2.models.Whisper:
    """Load a CTranslate2 Whisper so that it runs at its full speed (docs/experiments.md, benchmarks/threads.py)."""
    # numpy's matrix products wait for more work on threads of their own, on the cores that CTranslate2 needs next:
    # that alone doubled the time of a clip.
    threadpoolctl.threadpool_limits(1, user_api="blas")
    keep_freed_memory()
    # Loading computes with OpenMP. On a thread that lives on, it would leave threads behind that count against the
    # cores, and OpenMP, seeing more threads than cores, would put each to sleep after each step of the decoder.
    with ThreadPoolExecutor(1) as loader:
        model = loader.submit(
            ctranslate2.models.Whisper,
            str(folder),
            device="cpu",
            compute_type=tuning.compute_type,
            inter_threads=tuning.workers,
            intra_threads=tuning.threads,
        ).result()
    return_freed_memory()
    return model


@dataclass(frozen=True)
class Measured:
    """What one way of running took, in seconds."""

    tuning: Tuning
    clip_s: float  # for one clip alone
    crowd_s: float  # a clip, of many at once


def candidates() -> Iterator[Tuning]:
    """Yield what is worth a try: both precisions, then as many workers as there are cores."""
    default = Tuning()
    yield default
    yield Tuning("float32")
    # Last: OpenMP counts the threads of workers that are gone, and would put those of later ones to sleep.
    if default.workers < cores():
        yield Tuning(workers=cores(), threads=1)


def measure(folder: Path, positions: int) -> list[Measured]:
    """Time every candidate with every batch size, and return the best first.

    The best has the smallest product of both times: a tenth gained for a lone clip is worth a tenth in a crowd.

    Args:
        folder: a CTranslate2 Whisper.
        positions: that a clip of 3 s is given.
    """
    measured = [result for tuning in candidates() for result in _measure(folder, tuning, positions)]
    return sorted(measured, key=lambda result: result.clip_s * result.crowd_s)


def _measure(folder: Path, tuning: Tuning, positions: int) -> list[Measured]:
    model = load_whisper(folder, tuning)
    tokenizer = WhisperTokenizer.from_folder(folder)
    noise = np.random.default_rng(0).standard_normal((1, model.n_mels, FRAMES_PER_POSITION * positions), np.float32)

    def decode(size: int) -> None:
        features = ctranslate2.StorageView.from_array(np.repeat(noise, size, axis=0))
        # Never ending, each row costs the same number of steps.
        model.generate(
            model.encode(features),
            [[tokenizer.sot]] * size,
            beam_size=1,
            max_length=2 * CLIP_TOKENS,
            suppress_tokens=[tokenizer.eot],
        )

    sizes = [size for size in BATCHES if size * positions <= BATCH_POSITIONS]
    crowd = max(sizes) * tuning.workers
    with ThreadPoolExecutor(tuning.workers) as pool:

        def decode_crowd(size: int) -> None:
            list(pool.map(decode, [size] * (crowd // size)))

        clip_s = _fastest(lambda: decode(1))
        return [
            Measured(
                Tuning(tuning.compute_type, tuning.workers, tuning.threads, size),
                clip_s,
                _fastest(lambda size=size: decode_crowd(size)) / crowd,  # type: ignore[misc]
            )
            for size in sizes
        ]


def _fastest(run: Callable[[], None]) -> float:
    run()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def cache_file(cache: Path, version: str, positions: int) -> Path:
    """Return where the tuning of a version on this machine is kept."""
    machine = (processor(), cores(), ctranslate2.__version__)
    key = hashlib.sha256(json.dumps([*machine, version, positions]).encode()).hexdigest()[:16]
    return cache / "tuning" / f"{key}.json"


def read_cached(path: Path) -> Tuning | None:
    """Return the tuning that was kept; None if there is none that can be used."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        tuning = Tuning(**kept)
    except (OSError, ValueError, TypeError):
        return None
    numbers = (tuning.workers, tuning.threads, tuning.batch)
    usable = all(type(number) is int and number > 0 for number in numbers) and tuning.compute_type in COMPUTE_TYPES
    # An engine that cannot be loaded would be a service that never is ready.
    return tuning if usable and kept.keys() == asdict(tuning).keys() else None


def write_cached(path: Path, tuning: Tuning) -> None:
    """Keep a tuning; half a file is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(tuning)) + "\n", encoding="utf-8")
    partial.replace(path)


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _main() -> None:
    """Print every candidate's times as JSON, the best first; arguments: folder, positions of a 3 s clip."""
    os.nice(19)  # whatever else runs on this machine goes first
    sys.stdout.write(json.dumps([asdict(result) for result in measure(Path(sys.argv[1]), int(sys.argv[2]))]) + "\n")


if __name__ == "__main__":
    _main()
