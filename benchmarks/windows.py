"""How long the windows of a long file should be: time and WER at several lengths (docs/experiments.md).

``python -m benchmarks.windows`` cuts five minutes of held-out Italian clips and silences in several ways.
"""

import itertools
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import typer

import speech.windows
from benchmarks.accuracy import error_rate
from benchmarks.clips import held_out, write_long_file
from registry import Registry
from speech.audio import SAMPLE_RATE, decode_audio
from speech.context import ElasticContext
from speech.engine import ctranslate2_engine, load_engine
from speech.transcribe import Options, transcribe

SECONDS = 300.0
ENOUGH_S = (6, 10, 15, 20, 30)
BATCH_S = (30, 60, 120)
ROUNDS = 3

app = typer.Typer(help=__doc__)


@app.command()
def measure(runs: Path = Path("runs"), model: str = "whisper@production") -> None:
    """Print the fastest of three rounds for each length of window and of batch.

    For example:

        python -m benchmarks.windows --model whisper@production
    """
    version = Registry(runs / "registry").resolve(model)
    engine = load_engine(version.path, ElasticContext.from_manifest(version.manifest.context), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        clips = [clip for clip in held_out(version, runs, Path(folder)) if clip.language == "it"]
        file = Path(folder) / "long.wav"
        text = write_long_file(clips, [True] * len(clips), file, seconds=SECONDS)
        audio = decode_audio(file)
    best: dict[tuple[int, int], tuple[float, int, float]] = {}
    for _, enough, batch in itertools.product(range(ROUNDS), ENOUGH_S, BATCH_S):
        with (
            patch.object(speech.windows, "ENOUGH", enough * SAMPLE_RATE),
            patch.object(ctranslate2_engine, "BATCH_POSITIONS", 50 * batch),
        ):
            started = time.perf_counter()
            said = transcribe(engine, audio, Options(language="it"))
            took = time.perf_counter() - started
        one = (took, len(said.segments), error_rate(text, said.text))
        best[enough, batch] = min(one, best.get((enough, batch), one))
    for (enough, batch), (took, windows, wer) in best.items():
        typer.echo(f"windows from {enough} s ({windows}), batches of {batch} s: {took:.1f} s, WER {wer:.3f}")


if __name__ == "__main__":
    app()
