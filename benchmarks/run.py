"""`make bench`: prepare, measure one after another, write results and document.

Whatever was measured is saved as it ends, so that an interrupted run goes on. What is measured is in `measures`.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine
from benchmarks.bench import Bench, key_of
from benchmarks.clips import held_out
from benchmarks.entries import Entry, merge, read_entries, write_entries
from benchmarks.environment import peers_python, tune
from benchmarks.measures import (
    beside_long_file,
    clip_latency,
    computed_floor,
    console,
    encoder_linearity,
    engine_throughput,
    frontend_share,
    http_throughput,
    long_file,
    memory,
    peers,
    start_to_ready,
)
from benchmarks.report import draw, write_report
from benchmarks.rounds import Rounds
from registry import NotFoundError, Registry, Version
from training.shell import Shell, StepError

MODEL = "whisper@production"
"""What is measured where nothing else is named: the demonstration's, which is run first if need be."""

MEASURES: dict[str, Callable[[Bench], list[Entry]]] = {
    "clip_latency": clip_latency.measure,
    "computed_floor": computed_floor.measure,
    "encoder_linearity": encoder_linearity.measure,
    "frontend_share": frontend_share.measure,
    "start_to_ready": start_to_ready.measure,
    "console": console.measure,
    "memory": memory.measure,
    "clip_latency_beside_long_file": beside_long_file.measure,
    "engine_throughput": engine_throughput.measure,
    "http_throughput": http_throughput.measure,
    "long_file": long_file.measure,
    "peers": peers.measure,
}
"""In the order in which they are run."""

ORDER = (
    "engine_throughput",
    "http_throughput",
    "http_latency_p95",
    "long_file",
    "clip_latency",
    "clip_latency_http",
    "clip_latency_beside_long_file",
    "frontend_share",
    "memory_idle",
    "memory_busy",
    "start_to_ready",
    "console",
    "encoder_linearity",
    "computed_floor",
    "peers",
)
"""Of the entries, in results and document."""


def run(
    runs: Path, registry: Path, *, model: str = MODEL, only: Sequence[str], full: bool, fresh: bool, shell: Shell
) -> list[Entry]:
    """Measure, and write benchmarks/results and docs/benchmarks.

    Args:
        runs: the project's folder for data and versions.
        registry: the registry's folder.
        model: the version to measure, which a run in `runs` published: its held-out clips are what is transcribed.
        only: names of measures; none for all. The others' entries stay as they were.
        full: all clips for all contenders, and more rounds.
        fresh: forget the rounds that were saved.
        shell: says how far it is.

    Raises:
        StepError: something that is needed is not there; the message says what to do.
    """
    if unknown := sorted(set(only) - set(MEASURES)):
        raise StepError(f"there is no measure {unknown[0]!r}; there are {', '.join(MEASURES)}")
    started = time.monotonic()
    folder = runs.resolve() / "bench"
    if fresh:
        for name in ("rounds.jsonl", "texts.jsonl"):
            (folder / name).unlink(missing_ok=True)
        for name in ("logs", "cache"):
            shutil.rmtree(folder / name, ignore_errors=True)
    bench = _prepare(runs.resolve(), registry.resolve(), model, folder, full, shell)
    entries: list[Entry] = []
    for name in only or MEASURES:
        begun = time.monotonic()
        shell.say(f"{name} ...")
        found = MEASURES[name](bench)
        entries += found
        for entry in found:
            shell.say(f"  {describe(entry)}")
        shell.say(f"  {name} took {time.monotonic() - begun:.0f} s")
    entries = merge(read_entries() if only else [], entries, ORDER)
    write_entries(entries)
    description = machine.describe(bench.version.ref, len(bench.clips), asdict(bench.tuning), full=full)
    machine.write_machine(description)
    write_report(entries, description)
    draw(bench.peers)
    shell.say(f"done in {(time.monotonic() - started) / 60:.1f} minutes; see docs/benchmarks.md")
    return entries


def describe(entry: Entry) -> str:
    """Return an entry as one line."""
    verdict = {True: "met", False: "NOT met", None: "no target"}[entry.met]
    sides = [f"{side.name} {side.value:.3g}" for side in (entry.ours, entry.theirs) if side is not None]
    figures = f" ({', '.join(sides)} {entry.side_unit})" if sides else ""
    target = f" (target {entry.target})" if entry.target else ""
    return f"{entry.measure}: {entry.value:.3g} {entry.unit}{target}: {verdict}{figures}"


def _prepare(runs: Path, registry: Path, model: str, folder: Path, full: bool, shell: Shell) -> Bench:
    version = _version(runs, registry, model, shell)
    shell.say(f"measuring {version.ref}")
    peers = peers_python(folder / "peers", shell)
    clips = held_out(version, runs, folder / "clips" / version.id)
    same = [version.ref, [clip.id for clip in clips]]
    return Bench(
        runs=runs,
        folder=folder,
        registry=registry,
        version=version,
        clips=clips,
        rounds=Rounds(
            folder / "rounds.jsonl",
            key_of([*same, full, machine.processor()], ["speech", "service", "benchmarks/peers"]),
        ),
        texts=Rounds(folder / "texts.jsonl", key_of(same, ["benchmarks/peers"])),
        shell=shell,
        full=full,
        peers=peers,
        tuning=tune(version, folder / "cache", shell),
    )


def _version(runs: Path, registry: Path, model: str, shell: Shell) -> Version:
    try:
        return Registry(registry).resolve(model)
    except NotFoundError:
        if model != MODEL:
            raise
        shell.say(f"there is no {MODEL} in {registry}: running the demonstration first")
    command = [sys.executable, "-m", "training", "demo", "--registry", str(registry), "--runs", str(runs)]
    # Through a pipe, for on a terminal the demonstration goes on serving until Ctrl-C.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as demo:
        assert demo.stdout is not None  # noqa: S101 - for the type checker
        for line in demo.stdout:
            shell.console.print(line, end="", markup=False, soft_wrap=True)
    if demo.returncode != 0:
        raise StepError("the demonstration failed, so there is no model to measure; its message is above")
    return Registry(registry).resolve(MODEL)
