"""How much speech tells its language: of how many clips the first so many seconds are enough (docs/experiments.md).

``python -m benchmarks.language`` reads Asterisk prompts in three languages, each from its first sound on, at 30 s.
"""

import random
from pathlib import Path

import numpy as np
import typer

from registry import Registry
from speech.audio import SAMPLE_RATE, decode_audio
from speech.context import ElasticContext
from speech.engine import DecodingResult, Window, load_engine
from speech.guard import is_spoken
from training.data.sources.asterisk import fetch, read_asterisk

LANGUAGES = ["it", "en", "ru"]
CLIPS = 16  # of each
SECONDS = (0.4, 0.7, 1.0, 2.0, 4.0)
PROBABILITIES = (0.0, 0.5, 0.8)
LOUD = 0.05  # of the loudest sample: somebody speaks

app = typer.Typer(help=__doc__)


@app.command()
def measure(runs: Path = Path("runs"), model: str = "whisper-base@candidate") -> None:
    """Print for each length and threshold how many languages are told, and how many of them wrongly.

    For example:

        python -m benchmarks.language --model whisper-base@candidate
    """
    version = Registry(runs / "registry").resolve(model)
    engine = load_engine(version.path, ElasticContext(), device="cpu")
    root, folder = fetch(LANGUAGES, runs / "data" / "asterisk"), runs / "data" / "asterisk-audio"
    windows, truths = [], []
    for language in LANGUAGES:
        utterances, _ = read_asterisk(root, language, folder)
        long = sorted((one for one in utterances if one.audio.duration > max(SECONDS) + 0.2), key=lambda one: one.id)
        for utterance in random.Random(1).sample(long, CLIPS):  # noqa: S311 - repeatable, not secret
            audio = decode_audio(folder / utterance.audio.path)
            begin = int(np.argmax(np.abs(audio) > LOUD * np.abs(audio).max()))
            for seconds in SECONDS:
                windows.append(Window(audio[begin : begin + round(seconds * SAMPLE_RATE)]))
                truths.append((language, seconds))
    answers = [answer for answer in engine.transcribe(windows) if isinstance(answer, DecodingResult)]
    for seconds in SECONDS:
        heard = [
            (answer.language == language, answer.language_probability)
            for (language, length), answer in zip(truths, answers, strict=True)
            if length == seconds and is_spoken(answer)
        ]
        for least in PROBABILITIES:
            told = [is_right for is_right, probability in heard if probability >= least]
            typer.echo(
                f"{seconds} s, p >= {least}: {len(told)} of {len(LANGUAGES) * CLIPS} told, {told.count(False)} wrong"
            )


if __name__ == "__main__":
    app()
