"""Short clips through the engine: seconds of audio a second, ours in batches, theirs clip by clip as it offers."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from statistics import median

from benchmarks.bench import FASTER_WHISPER, Bench, files, medians
from benchmarks.clips import Clip
from benchmarks.entries import Entry, Side
from benchmarks.rounds import Round
from benchmarks.workers import Worker

NAME = "engine_throughput"
TARGET, MAX_WORSE = 10.0, 0.02
OURS = {"default engine": None, "one worker a core": {"workers": 2, "threads": 1}}
THEIRS = {"1 worker of 2 threads": (2, 1), "2 workers of 1 thread": (1, 2)}
BOUNDS_S = (0.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Of the lengths that the plot tells apart."""


def measure(bench: Bench) -> list[Entry]:
    """Measure both of our set-ups and both of theirs; compare the best with the best."""
    clips = bench.short_clips
    seconds = sum(clip.seconds for clip in clips)
    wer = bench.word_errors()

    def one_round(worker: Worker) -> Callable[[], Round]:
        return lambda: _speed(worker, clips, seconds)

    with ExitStack() as stack:
        set_ups = {**OURS, "as tuned here": asdict(bench.tuning)}
        ours = {name: one_round(stack.enter_context(bench.ours(tuning))) for name, tuning in set_ups.items()}
        theirs = {
            name: one_round(stack.enter_context(bench.faster_whisper(threads, workers)))
            for name, (threads, workers) in THEIRS.items()
        }
        first = bench.interleave(NAME, 1, {**ours, **theirs})
        # Their slower set-up is not worth a minute a round: the first round says which it is.
        best = max(theirs, key=lambda name: first[name][0]["speed"])
        speeds = bench.interleave(NAME, bench.n_rounds, {**ours, best: theirs[best]})
    own = max(ours, key=lambda name: medians(speeds[name], "speed"))
    ratio = medians(speeds[own], "speed") / medians(speeds[best], "speed")
    sides = {name: [r["speed"] for r in speeds.get(name, first[name])] for name in (*ours, *theirs)}
    return [
        Entry(
            measure=NAME,
            title="Throughput of the engine, short clips",
            how=f"{len(clips)} held-out clips of all lengths ({seconds:.0f} s), decoded beforehand; greedy, language "
            "given, no timestamps, no other temperature; ours cuts at pauses and decodes again at 30 s what looks "
            f"wrong, as it serves. The best set-up of each: ours the {own}, theirs {best} (the slower "
            f"one ran one round). Word errors over all {wer.clips} held-out clips.",
            value=ratio,
            unit="x",
            against=FASTER_WHISPER,
            target=f">= {TARGET:g}, WER difference's upper end <= {MAX_WORSE:g}",
            met=ratio >= TARGET and wer.high <= MAX_WORSE,
            rounds=bench.n_rounds,
            wer=wer,
            ours=Side(name=own, value=medians(speeds[own], "speed"), rounds=sides[own]),
            theirs=Side(name=best, value=medians(speeds[best], "speed"), rounds=sides[best]),
            side_unit="s of audio / s",
            detail={
                "set_ups": {name: median(values) for name, values in sides.items()},
                "by_length": _by_length(bench),
            },
        )
    ]


def _speed(worker: Worker, clips: list[Clip], seconds: float) -> Round:
    elapsed = worker.transcribe(files(clips))["seconds"]
    return {"seconds": elapsed, "speed": seconds / elapsed}


def _by_length(bench: Bench) -> list[dict[str, float]]:
    """Return both speeds for clips of like length: ours in one call, theirs from its untimed pass."""
    passed = bench.texts.get("texts", FASTER_WHISPER, 0)
    assert passed is not None  # noqa: S101 - word_errors made it
    rows = []
    with bench.ours() as worker:
        for low, high in pairwise(BOUNDS_S):
            indices = [i for i, clip in enumerate(bench.clips) if low <= clip.seconds < high]
            if not indices:
                continue
            clips = [bench.clips[i] for i in indices]
            seconds = sum(clip.seconds for clip in clips)

            def one_round(clips: list[Clip] = clips, seconds: float = seconds) -> Round:
                return _speed(worker, clips, seconds)

            rounds = bench.interleave(f"{NAME}, {low:g} to {high:g} s", 3, {"ours": one_round})["ours"]
            theirs = seconds / sum(passed["each"][i] for i in indices)
            rows.append(
                {"low": low, "high": high, "clips": len(clips), "ours": medians(rounds, "speed"), "theirs": theirs}
            )
    return rows
