"""Loss and error rates over the steps of a run, read from its TensorBoard logs, as pictures for the model card.

It draws what was logged and chooses nothing: which checkpoint a version became is `training.finetune`'s business.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Points (step, value) by TensorBoard's tag, such as ``train/loss``."""

PICTURES = {
    "loss.png": ("Loss", "cross-entropy a token", {"train/loss": "training", "eval/loss": "dev set"}),
    "wer.png": ("Errors on the dev set", "rate", {"eval/wer": "words (WER)", "eval/cer": "characters (CER)"}),
}
"""File → title, axis, and what is drawn: tag → its name."""


def read_curves(logs: Path) -> dict[str, list[tuple[int, float]]]:
    """Read all scalars of a run; of a step that was logged again after an interruption, the last.

    Args:
        logs: folder of TensorBoard's event files; need not exist.

    Returns:
        tag → points, by step.
    """
    points: dict[str, dict[int, float]] = {}
    for events in _event_files(logs):
        for tag in events.Tags()["scalars"]:
            points.setdefault(tag, {}).update({point.step: point.value for point in events.Scalars(tag)})
    return {tag: sorted(values.items()) for tag, values in points.items()}


def logged_seconds(logs: Path) -> float:
    """Return how long a run trained, evaluations in between included: of each start, from its first event to its last.

    Args:
        logs: folder of TensorBoard's event files; need not exist.
    """
    seconds = 0.0
    for events in _event_files(logs):
        times = [point.wall_time for tag in events.Tags()["scalars"] for point in events.Scalars(tag)]
        if times:
            seconds += max(times) - events.FirstEventTimestamp()
    return seconds


def draw_curves(curves: Curves, folder: Path) -> list[str]:
    """Draw the pictures for which there are points; the same points give the same file.

    Args:
        curves: from `read_curves`.
        folder: to write to; created if there is something to write.

    Returns:
        The names of the files.
    """
    # Takes a second to import, and only publishing needs it. Without pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    written = []
    for name, (title, axis, tags) in PICTURES.items():
        drawn = {
            label: finite
            for tag, label in tags.items()
            if (finite := [point for point in curves.get(tag, ()) if math.isfinite(point[1])])
        }
        if not drawn:
            continue
        figure = Figure(figsize=(7, 3.5), dpi=120, layout="constrained")
        axes = figure.subplots()
        for label, points in drawn.items():
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, marker="o" if len(points) < 40 else None, markersize=4, label=label)
        axes.set(title=title, xlabel="optimiser step", ylabel=axis)
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / name, metadata={"Software": None})
        written.append(name)
    return written


def _event_files(logs: Path) -> list[Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = [EventAccumulator(str(path), size_guidance={"scalars": 0}) for path in logs.rglob("events.out.tfevents.*")]
    for events in found:
        events.Reload()
    # A start that was stopped before it logged anything has no time, either.
    return sorted((e for e in found if e.Tags()["scalars"]), key=lambda events: events.FirstEventTimestamp())
