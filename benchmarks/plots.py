"""The plots of docs/benchmarks.md, from the last results. Runs in the peers' environment, which has matplotlib."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
FOLDER = ROOT / "docs" / "benchmarks"
COLOURS = {"ours": "#1f77b4", "theirs": "#d62728"}
NAMES = {"ours": "whisperloop", "theirs": "faster-whisper"}


def draw(entries: list[dict[str, Any]], folder: Path) -> None:
    """Draw what the entries have points for."""
    details = {entry["measure"]: entry["detail"] for entry in entries}
    folder.mkdir(parents=True, exist_ok=True)
    if "engine_throughput" in details:
        _throughput(details["engine_throughput"]["by_length"], folder / "throughput.svg")
    if "http_throughput" in details:
        _latency(details["http_throughput"]["ladder"], folder / "latency.svg")
    if "encoder_linearity" in details:
        _encoder(details["encoder_linearity"], folder / "encoder.svg")


def _throughput(rows: list[dict[str, float]], path: Path) -> None:
    axes = _axes("Throughput of the engine", "length of the clips, s", "seconds of audio a second")
    for shift, who in ((-0.2, "ours"), (0.2, "theirs")):
        axes.bar(
            [i + shift for i in range(len(rows))], [row[who] for row in rows], 0.4, color=COLOURS[who], label=NAMES[who]
        )
    axes.set_xticks(range(len(rows)), [f"{row['low']:g}–{row['high']:g}" for row in rows])
    _save(axes, path)


def _latency(ladder: dict[str, list[dict[str, float]]], path: Path) -> None:
    axes = _axes("Latency over HTTP", "clients at once", "seconds")
    for who, steps in ladder.items():
        clients = [step["clients"] for step in steps]
        axes.plot(clients, [step["p50_s"] for step in steps], "o-", color=COLOURS[who], label=f"{NAMES[who]}, median")
        axes.plot(clients, [step["p95_s"] for step in steps], "o:", color=COLOURS[who], label=f"{NAMES[who]}, 95 %")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({step["clients"] for steps in ladder.values() for step in steps})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    _save(axes, path)


def _encoder(detail: dict[str, Any], path: Path) -> None:
    axes = _axes("Encoder, int8", "positions (50 a second)", "milliseconds")
    positions = detail["positions"]
    axes.plot(positions, [1000 * s for s in detail["seconds"]], "o", color=COLOURS["ours"], label="measured")
    line = [1000 * (detail["slope"] * n + detail["intercept"]) for n in positions]
    axes.plot(positions, line, "-", color="#888888", label="straight line")
    _save(axes, path)


def _axes(title: str, x: str, y: str) -> Any:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(visible=True, alpha=0.3)
    figure.patch.set_facecolor("white")
    return axes


def _save(axes: Any, path: Path) -> None:
    axes.legend()
    axes.figure.savefig(path, metadata={"Date": None})  # the same results make the same file
    plt.close(axes.figure)


if __name__ == "__main__":
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "whisperloop"
    draw(json.loads(RESULTS.read_text(encoding="utf-8")), FOLDER)
