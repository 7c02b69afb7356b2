"""docs/benchmarks.md from the last results, and from nothing else."""

import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.entries import Entry, Side, read_entries
from benchmarks.machine import read_machine
from benchmarks.workers import ROOT
from training.shell import StepError

DOCUMENT = ROOT / "docs" / "benchmarks.md"

HEAD = """\
# Benchmarks

<!-- Generated; do not edit. -->
Written by `python -m benchmarks report` from [`latest.json`](../benchmarks/results/latest.json), which `make bench`
measures. Every contender runs the same fine-tuned weights on the same clips and two threads, greedily, with the
language given and without timestamps. Rounds are interleaved and each figure is a median, so that a slow minute of the
machine is everyone's; audio for engines is decoded beforehand.
"""


def report(path: Path = DOCUMENT) -> None:
    """Write the document from the last results.

    Raises:
        StepError: there are none.
    """
    entries = read_entries()
    if not entries:
        raise StepError("there are no results yet: python -m benchmarks run")
    write_report(entries, read_machine(), path)


def write_report(entries: Sequence[Entry], machine: Mapping[str, Any], path: Path = DOCUMENT) -> None:
    """Write the document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(entries, machine), encoding="utf-8")


def draw(python: Path) -> None:
    """Draw the plots from the last results; matplotlib lives in the peers' environment.

    Raises:
        StepError: it could not.
    """
    done = subprocess.run([str(python), "-m", "benchmarks.plots"], cwd=ROOT, check=False)
    if done.returncode != 0:
        raise StepError("the plots could not be drawn; the message is above")


def markdown(entries: Sequence[Entry], machine: Mapping[str, Any]) -> str:
    """Return the whole document."""
    by_name = {entry.measure: entry for entry in entries}
    parts = [HEAD, "## Results\n", _summary(entries), "## Machine\n", _machine(machine), "## Measures\n"]
    for entry in entries:
        parts += [f"### {entry.title}\n", _wrapped(f"`{entry.measure}`. {entry.how}"), _sides(entry)]
        if table := DETAILS.get(entry.measure):
            parts.append(table(entry.detail))
    parts = [part for part in parts if part]
    if "computed_floor" in by_name:
        parts.append("The formulae are in [`benchmarks/floor.py`](../benchmarks/floor.py).\n")
    return "\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column aligned to the left, the others to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float) -> str:
    """Return a figure with three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def _summary(entries: Sequence[Entry]) -> str:
    met = {True: "yes", False: "**no**", None: "–"}
    rows = [
        [
            entry.title,
            _side(entry.ours, entry.side_unit),
            _side(entry.theirs, entry.side_unit),
            entry.against,
            f"{number(entry.value)} {entry.unit}",
            entry.target or "–",
            met[entry.met],
        ]
        for entry in entries
    ]
    return table(["what", "ours", "theirs", "against", "result", "target", "met"], rows)


def _side(side: Side | None, unit: str) -> str:
    return "–" if side is None else f"{number(side.value)} {unit}"


def _sides(entry: Entry) -> str:
    lines = []
    for who, side in (("ours", entry.ours), ("theirs", entry.theirs)):
        if side is not None and side.rounds:
            values = ", ".join(map(number, side.rounds))
            lines.append(f"- {who} ({side.name}): {number(side.value)} {entry.side_unit}; rounds: {values}")
    if (wer := entry.wer) is not None:
        interval = f" [{wer.low:+.3f}, {wer.high:+.3f}]" if wer.clips > 1 else ""
        lines.append(
            f"- WER: ours {wer.ours:.3f}, theirs {wer.theirs:.3f}, difference {wer.difference:+.3f}{interval} over "
            f"{wer.clips} {'clips' if wer.clips > 1 else 'file'}"
        )
    return "\n".join(lines) + "\n" if lines else ""


def _machine(machine: Mapping[str, Any]) -> str:
    def listed(versions: Mapping[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in versions.items())

    if not machine:
        return ""
    rows = [
        ["processor", f"{machine['processor']}, {machine['cores']} cores, {', '.join(machine['flags'])}"],
        ["memory", f"{machine['memory_gib']} GiB"],
        ["system", f"{machine['system']}, Python {machine['python']}"],
        ["ours", listed(machine["packages"])],
        ["peers", listed(machine["peers"])],
        ["model", f"{machine['model']}, {machine['held_out_clips']} held-out clips"],
        ["our engine, tuned", ", ".join(f"{name} {value}" for name, value in machine["tuning"].items())],
        [
            "measured",
            f"{machine['date']}, commit {machine['commit']}{', all clips for all' if machine['full'] else ''}",
        ],
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]) + "\n"


def _throughput(detail: Mapping[str, Any]) -> str:
    set_ups = table(["set-up", "s of audio / s"], [[name, number(v)] for name, v in detail["set_ups"].items()])
    lengths = table(
        ["length", "clips", "ours", "theirs", "ratio"],
        [
            [
                f"{r['low']:g} to {r['high']:g} s",
                str(r["clips"]),
                number(r["ours"]),
                number(r["theirs"]),
                f"{r['ours'] / r['theirs']:.1f}",
            ]
            for r in detail["by_length"]
        ],
    )
    return f"{set_ups}\n{lengths}\n![Throughput against clip length](benchmarks/throughput.svg)\n"


def _http(detail: Mapping[str, Any]) -> str:
    rows = [
        [who, str(step["clients"]), number(step["speed"]), number(step["p50_s"]), number(step["p95_s"])]
        for who, steps in detail["ladder"].items()
        for step in steps
    ]
    ladder = table(["", "clients", "requests / s", "median, s", "95 %, s"], rows)
    return f"{ladder}\n![Latency against load](benchmarks/latency.svg)\n"


def _frontend(detail: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            *(f"{1000 * row[key]:.0f} ms" for key in ("decode_s", "features_s", "model_s")),
            f"{100 * row['share']:.1f} %",
        ]
        for name, row in detail["formats"].items()
    ]
    return table(["format", "decoding and resampling", "spectrogram", "model", "share"], rows)


def _peers(detail: Mapping[str, Any]) -> str:
    rows = [
        [row["name"], f"{row['seconds']:.1f}", number(row["rtfx"]), f"{row['wer']:.3f}", f"{row['peak_mib']:.0f}"]
        for row in sorted(detail["rows"], key=lambda row: row["seconds"])
    ]
    return table(["contender", "seconds", "s of audio / s", "WER", "peak memory, MiB"], rows)


def _floor(detail: Mapping[str, Any]) -> str:
    return (
        f"Encoder and cross keys and values: {detail['encoder_gflop']:.2f} GFLOP; each token "
        f"{1000 * detail['token_gflop']:.0f} MFLOP and {detail['token_megabytes']:.0f} MB read.\n"
    )


def _encoder(_: Mapping[str, Any]) -> str:
    return "![Encoder time against length](benchmarks/encoder.svg)\n"


DETAILS = {
    "engine_throughput": _throughput,
    "http_throughput": _http,
    "frontend_share": _frontend,
    "peers": _peers,
    "computed_floor": _floor,
    "encoder_linearity": _encoder,
}
