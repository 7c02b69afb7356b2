"""Why a token took 9 ms: the same model, loaded and surrounded in four ways (docs/experiments.md).

``python -m benchmarks.threads FOLDER`` with a version's `ctranslate2/`. Each way runs in a process of its own, for what
is measured here is what one way leaves behind in a process.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ctranslate2
import numpy as np
import threadpoolctl
import typer

from speech.features import log_mel_spectrogram, pad_or_trim
from speech.machine import cores
from speech.tokens import WhisperTokenizer

POSITIONS = 224  # 3 s and a margin
TOKENS = 20
ROUNDS = 15

app = typer.Typer(help=__doc__)


@app.command()
def measure(folder: Path, one: str = typer.Option("", hidden=True)) -> None:
    """Print encoder time and time a token for each way.

    For example:

        python -m benchmarks.threads runs/registry/models/whisper/versions/ID/ctranslate2
    """
    if one:
        _one(folder, threads=int(one[0]), loader_ends=one[1] == "y", blas_alone=one[2] == "y")
        return
    for threads in (1, cores()):
        for loader_ends in "ny":
            for blas_alone in "ny":
                way = f"{threads}{loader_ends}{blas_alone}"
                subprocess.run([sys.executable, "-m", __spec__.name, str(folder), "--one", way], check=True)


def _one(folder: Path, *, threads: int, loader_ends: bool, blas_alone: bool) -> None:
    if blas_alone:
        threadpoolctl.threadpool_limits(1, user_api="blas")

    def load() -> ctranslate2.models.Whisper:
        return ctranslate2.models.Whisper(str(folder), compute_type="int8", intra_threads=threads)

    if loader_ends:
        with ThreadPoolExecutor(1) as loader:
            model = loader.submit(load).result()
    else:
        model = load()
    tokenizer = WhisperTokenizer.from_folder(folder)
    noise = np.random.default_rng(0).normal(scale=0.1, size=48_000).astype(np.float32)

    def features() -> ctranslate2.StorageView:
        made = log_mel_spectrogram(pad_or_trim(noise, POSITIONS * 320), model.n_mels)
        return ctranslate2.StorageView.from_array(made[None])

    def decode(tokens: int) -> None:
        model.generate(encoded, [[tokenizer.sot]], beam_size=1, max_length=2 * tokens, suppress_tokens=[tokenizer.eot])

    encoded = model.encode(features())
    encoding = _median_ms(lambda: model.encode(features()))
    a_token = (_median_ms(lambda: decode(TOKENS + 1)) - _median_ms(lambda: decode(1))) / TOKENS
    loaded = "on a thread that ends" if loader_ends else "on the main thread"
    blas = "one BLAS thread" if blas_alone else "BLAS as it comes"
    typer.echo(f"{threads} thread(s), loaded {loaded}, {blas}: encoder {encoding:.1f} ms, {a_token:.1f} ms a token")


def _median_ms(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(ROUNDS):
        log_mel_spectrogram(np.zeros(48_000, np.float32))  # as before every clip
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    app()
