"""What it costs that the C library returns memory between layers, and what a step of a batch costs.

``python -m benchmarks.allocator FOLDER`` with a version's `ctranslate2/` (docs/experiments.md). Each way runs in a
process of its own, for the C library cannot be told twice.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import ctranslate2
import numpy as np
import typer

from speech.context import FRAMES_PER_POSITION, POSITIONS_PER_SECOND
from speech.engine.tuning import Tuning, load_whisper
from speech.machine import cores
from speech.tokens import WhisperTokenizer

BATCHES = ((1, 224), (8, 224), (16, 224), (1, 640), (6, 640), (1, 1500))  # windows, positions of each
STEPS = 12
ROUNDS = 5

app = typer.Typer(help=__doc__)


@app.command()
def measure(folder: Path, one: str = typer.Option("", hidden=True)) -> None:
    """Print what a second of audio costs the encoder, and a step the decoder, both ways.

    For example:

        python -m benchmarks.allocator runs/registry/models/whisper/versions/ID/ctranslate2
    """
    if not one:
        for way in ("returned", "kept"):
            subprocess.run([sys.executable, "-m", __spec__.name, str(folder), "--one", way], check=True)
        return
    if one == "returned":
        with patch("speech.engine.tuning.keep_freed_memory"):
            _measure(folder, "freed memory returned (glibc's default)")
    else:
        _measure(folder, "freed memory kept")


def _measure(folder: Path, way: str) -> None:
    model = load_whisper(folder, Tuning(workers=1, threads=cores()))
    tokenizer = WhisperTokenizer.from_folder(folder)
    for windows, positions in BATCHES:
        noise = np.random.default_rng(0).standard_normal((windows, model.n_mels, FRAMES_PER_POSITION * positions))
        features = ctranslate2.StorageView.from_array(noise.astype(np.float32))
        encoding_ms, faults = _least_ms(lambda features=features: model.encode(features))  # type: ignore[misc]
        encoded = model.encode(features)

        def decode(encoded: ctranslate2.StorageView = encoded, windows: int = windows) -> None:
            prompts = [[tokenizer.sot]] * windows
            model.generate(encoded, prompts, beam_size=1, max_length=2 * STEPS, suppress_tokens=[tokenizer.eot])

        decoding_ms, _ = _least_ms(decode)
        seconds = windows * positions / POSITIONS_PER_SECOND
        typer.echo(
            f"{way}: {windows} x {positions} positions: encoder {encoding_ms / seconds:.1f} ms a second of audio, "
            f"{faults} page faults; decoder {decoding_ms / STEPS:.1f} ms a step"
        )


def _least_ms(run: Callable[[], object]) -> tuple[float, int]:
    """Return the least time of all rounds, and the page faults of a round."""
    run()
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1000 * min(times), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // ROUNDS


if __name__ == "__main__":
    app()
