"""Whether a short clip pays for its own length only: the encoder's time against its positions, and a line."""

import random
from functools import partial

import numpy as np

from benchmarks.bench import THREADS, Bench
from benchmarks.entries import Entry, Side
from benchmarks.rounds import Round
from speech.checkpoint import read_json
from speech.context import POSITIONS_PER_SECOND

NAME = "encoder_linearity"
MIN_R2 = 0.98
SECONDS = range(1, 29)


def measure(bench: Bench) -> list[Entry]:
    """Measure 28 lengths in an order that changes with the round, and fit a line to the least of each length."""
    n_mels = int(read_json(bench.version.path / "preprocessor_config.json")["feature_size"])
    with bench.ours() as worker:

        def one_round(number: int) -> Round:
            positions = [POSITIONS_PER_SECOND * s for s in SECONDS]
            random.Random(number).shuffle(positions)  # noqa: S311 - an order, no secret
            warm = [positions[0], *positions]
            request = {"do": "encode", "positions": warm, "n_mels": n_mels, "threads": THREADS}
            seconds = worker.ask(request)["seconds"][1:]
            return {"seconds": {str(n): s for n, s in zip(positions, seconds, strict=True)}}

        orders = {f"order {number + 1}": partial(one_round, number) for number in range(bench.n_rounds)}
        rounds = [done[0] for done in bench.interleave(NAME, 1, orders).values()]
    positions = [POSITIONS_PER_SECOND * s for s in SECONDS]
    least = [min(one["seconds"][str(n)] for one in rounds) for n in positions]
    slope, intercept, r2 = fit_line(positions, least)
    second_s = slope * POSITIONS_PER_SECOND
    return [
        Entry(
            measure=NAME,
            title="Encoder's time is a straight line of the length",
            how="28 lengths from 1 to 28 s through the same CTranslate2 model, the least of all rounds for each, "
            f"fitted by least squares: R2 {r2:.4f}, intercept {1000 * intercept:.1f} ms, a second of audio costs "
            f"{1000 * second_s:.1f} ms.",
            value=r2,
            unit="R2",
            against="a straight line",
            target=f">= {MIN_R2:g}, intercept <= a second's cost",
            met=r2 >= MIN_R2 and intercept <= second_s,
            rounds=bench.n_rounds,
            ours=Side(name="a second of audio", value=1000 * second_s, rounds=[]),
            theirs=Side(name="intercept", value=1000 * intercept, rounds=[]),
            side_unit="ms",
            detail={"positions": positions, "seconds": least, "slope": slope, "intercept": intercept},
        )
    ]


def fit_line(x: list[int], y: list[float]) -> tuple[float, float, float]:
    """Return slope, intercept and R2 of the least-squares line."""
    slope, intercept = np.polyfit(x, y, 1)
    residuals = np.asarray(y) - (slope * np.asarray(x) + intercept)
    r2 = 1 - float(residuals @ residuals) / float(((np.asarray(y) - np.mean(y)) ** 2).sum())
    return float(slope), float(intercept), r2
