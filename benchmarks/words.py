"""How exact the times of words are, and what they cost (docs/measurements.md).

``python -m benchmarks.words`` trims held-out clips of the version's run by their energy, stitches them with known
silences into windows, and compares the first word's start and the last word's end of each prompt with where it was put:
at 30 s and at the version's own context, with and without what `speech.words` does beside pauses, quiet and in noise.
"""

import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import typer
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import speech.words
from benchmarks.clips import SEED, Clip, held_out
from registry import Registry
from speech.audio import SAMPLE_RATE
from speech.context import ElasticContext
from speech.engine import DecodingOptions, DecodingResult, Engine, Window, load_engine

TRIM_DB = 40.0  # below a clip's loudest 25 ms is silence: not the rule by which `speech.words` finds pauses
TRIM_FRAME, TRIM_HOP = SAMPLE_RATE // 40, SAMPLE_RATE // 200
HUSH_DBFS = -70.0  # a recording's silence is never all zeros
SILENCE_S = (0.3, 1.2)
WINDOW_S = (3.0, 25.0)
LONGEST_CLIP_S = 12.0
ROUNDS = 3

Cut = tuple[float, float]
"""Where a prompt begins and ends in its window, in seconds."""

app = typer.Typer(help=__doc__)


@dataclass(frozen=True)
class Stitched:
    """A window of prompts and where each of them lies."""

    window: Window
    cuts: tuple[Cut, ...]


def trim(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `audio` without what is `TRIM_DB` below its loudest frame at either end."""
    power = (sliding_window_view(audio, TRIM_FRAME)[::TRIM_HOP].astype(np.float64) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-TRIM_DB / 10))
    return audio[loud[0] * TRIM_HOP : loud[-1] * TRIM_HOP + TRIM_FRAME]


def stitch(
    prompts: Sequence[NDArray[np.float32]], language: str, *, seed: int = SEED, snr: float | None = None
) -> list[Stitched]:
    """Stitch all prompts into windows of `WINDOW_S`, in an order by lot, with silences between and around them.

    Args:
        prompts: trimmed, each shorter than 28 s.
        language: theirs.
        seed: of the lot.
        snr: decibels by which speech is louder than a white noise that is laid over all; None lays none.
    """
    generator = np.random.default_rng(seed)

    def silence() -> NDArray[np.float32]:
        size = round(generator.uniform(*SILENCE_S) * SAMPLE_RATE)
        return generator.normal(0, 10 ** (HUSH_DBFS / 20), size).astype(np.float32)

    def finished() -> Stitched:
        audio = np.concatenate(parts)
        if snr is not None:
            power = np.mean(np.concatenate(parts[1::2]).astype(np.float64) ** 2)
            audio = audio + generator.normal(0, np.sqrt(power / 10 ** (snr / 10)), audio.size).astype(np.float32)
        return Stitched(Window(audio, language), tuple(cuts))

    windows: list[Stitched] = []
    parts, cuts, enough = [silence()], list[Cut](), generator.uniform(*WINDOW_S)
    for index in generator.permutation(len(prompts)):
        prompt, begin = prompts[index], sum(part.size for part in parts) / SAMPLE_RATE
        end = begin + prompt.size / SAMPLE_RATE
        if cuts and end > min(enough, 28.0):
            windows.append(finished())
            parts, cuts, enough = [silence()], [], generator.uniform(*WINDOW_S)
            begin = parts[0].size / SAMPLE_RATE
            end = begin + prompt.size / SAMPLE_RATE
        parts += [prompt, silence()]
        cuts.append((begin, end))
    return [*windows, finished()] if cuts else windows


def errors(stitched: Sequence[Stitched], results: Sequence[DecodingResult]) -> tuple[list[float], list[float], int]:
    """Return by how much starts and ends are late, in seconds, and how many prompts have no word.

    A word is of the prompt that holds its middle.
    """
    starts, ends, missed = [], [], 0
    for one, result in zip(stitched, results, strict=True):
        for begin, end in one.cuts:
            words = [word for word in result.words or () if begin <= (word.start + word.end) / 2 <= end]
            if words:
                starts.append(words[0].start - begin)
                ends.append(words[-1].end - end)
            else:
                missed += 1
    return starts, ends, missed


def transcribed(engine: Engine, windows: Sequence[Window]) -> list[DecodingResult]:
    """Decode, and let no failure pass."""
    results = []
    for result in engine.transcribe(windows):
        if not isinstance(result, DecodingResult):
            raise result
        results.append(result)
    return results


def report(stitched: Sequence[Stitched], engine: Engine, label: str, *, snapped: bool) -> None:
    """Print a row of the table: median and 90th percentile of the absolute errors, in ms."""
    off = nullcontext() if snapped else patch.object(speech.words, "snap", lambda spans, _: list(spans))
    options = DecodingOptions(word_timestamps=True)
    with off:
        results = transcribed(engine, [replace(one.window, options=options) for one in stitched])
    starts, ends, missed = errors(stitched, results)
    late = 1000 * np.abs(np.array([starts, ends]))
    cells = [f"{np.median(row):.0f} / {np.percentile(row, 90):.0f}" for row in (late[0], late[1], late.ravel())]
    typer.echo(f"| {label} | {'yes' if snapped else 'no'} | {' | '.join(cells)} | {len(starts)} | {missed} |")


def cost(engine: Engine, windows: Sequence[Window]) -> tuple[float, float]:
    """Return the seconds that windows take without and with words, the fastest of rounds side by side."""
    options = (DecodingOptions(), DecodingOptions(word_timestamps=True))
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for each, spent in zip(options, took, strict=True):
            asked = [engine.prepare(replace(window, options=each)) for window in windows]
            started = time.perf_counter()
            transcribed(engine, asked)
            spent.append(time.perf_counter() - started)
    return min(took[0]), min(took[1])


@app.command()
def measure(
    registry: Annotated[Path | None, typer.Option(help="Where versions lie; RUNS/registry unless told.")] = None,
    runs: Annotated[Path, typer.Option(help="Where the run that made the version lies.")] = Path("runs"),
    model: str = "whisper@production",
    base: Annotated[str | None, typer.Option(help="Another version to measure on the same clips, at 30 s.")] = None,
    noise: Annotated[list[float] | None, typer.Option(help="Signal-to-noise ratios to measure at, too, in dB.")] = None,
    clips: Annotated[int, typer.Option(help="Clips of each language at most.")] = 100,
    timed: Annotated[int, typer.Option(help="Clips to take the time of, one a window.")] = 32,
) -> None:
    """Print the table of errors, and the cost.

    For example:

        python -m benchmarks.words

        python -m benchmarks.words --base whisper-base@candidate --noise 20 --noise 10 --clips 28
    """
    store = Registry(registry or runs / "registry")
    version = store.resolve(model)
    with tempfile.TemporaryDirectory() as folder:
        found = [clip for clip in held_out(version, runs, Path(folder)) if clip.seconds <= LONGEST_CLIP_S]
        audio = {clip: np.load(clip.npy) for clip in _first(found, clips)}
    languages = sorted({clip.language for clip in audio})

    def windows(snr: float | None = None) -> list[Stitched]:
        prompts = {code: [trim(a) for clip, a in audio.items() if clip.language == code] for code in languages}
        return [one for code in languages for one in stitch(prompts[code], code, snr=snr)]

    context = ElasticContext.from_manifest(version.manifest.context)
    elastic = load_engine(version.path, context, device="cpu")
    full = load_engine(version.path, ElasticContext(), device="cpu")
    typer.echo("| | edges moved | start, ms (median / p90) | end | both | prompts | missed |")
    typer.echo("|---|---|--:|--:|--:|--:|--:|")
    for snr in (None, *(noise or ())):
        stitched = windows(snr)
        told = "" if snr is None else f", noise {snr:.0f} dB below"
        for snapped in (False, True):
            report(stitched, elastic, f"{model}, elastic{told}", snapped=snapped)
            report(stitched, full, f"{model}, 30 s{told}", snapped=snapped)
    if base is not None:
        other = load_engine(store.resolve(base).path, ElasticContext(), device="cpu")
        for snapped in (False, True):
            report(windows(), other, f"{base}, 30 s", snapped=snapped)
    alone = [Window(a, clip.language) for clip, a in list(audio.items())[:timed]]
    for label, engine in (("elastic", elastic), ("30 s", full)):
        without, with_words = cost(engine, alone)
        typer.echo(
            f"{label}: {len(alone)} clips {without:.2f} s, with words {with_words:.2f} s: {with_words / without:.2f} ×"
        )


def _first(clips: Sequence[Clip], per_language: int) -> list[Clip]:
    """Return clips spread over all lengths, at most so many of each language."""
    chosen = []
    for language in sorted({clip.language for clip in clips}):
        own = [clip for clip in clips if clip.language == language]
        chosen += own[:: -(-len(own) // per_language)]
    return chosen


if __name__ == "__main__":
    app()
