"""Which weights of a run become its result: the best or the last evaluated ones, one or a mean; and when to stop.

"Best" is by the WER of what the model generates on dev. The loss is no guide: it rises while words get better, and the
other way round. Kept apart from Trainer's checkpoints, which it deletes by rules of its own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.checkpoints import saving

Weights = dict[str, Tensor]


class Snapshot(NamedTuple):
    """Weights that were evaluated, and how they did."""

    wer: float
    step: int
    path: Path


class SelectionCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps the weights that may become the result, and ends a run that no longer gets better."""

    def __init__(
        self,
        folder: Path,
        weights_of: Callable[[Any], Weights],
        *,
        select: Literal["best", "last"],
        count: int,
        patience: int | None,
        min_delta: float,
    ) -> None:
        self._folder = folder
        self._weights_of = weights_of
        self._select = select
        self._count = count
        self._patience = patience
        self._min_delta = min_delta

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Forget what an interrupted run had kept after the checkpoint that this one goes on from."""
        for snapshot in snapshots(self._folder):
            if snapshot.step > state.global_step and state.is_world_process_zero:
                snapshot.path.unlink()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        model: Any = None,
        **_: Any,
    ) -> None:
        """Keep the weights if they are among the chosen so far; stop if the patience is spent."""
        if state.is_world_process_zero:
            write_snapshot(self._folder, state.global_step, metrics["eval_wer"], self._weights_of(model))
            kept = self.chosen()
            for snapshot in snapshots(self._folder):
                if snapshot not in kept:
                    snapshot.path.unlink()
        wers = [entry["eval_wer"] for entry in state.log_history if "eval_wer" in entry]
        if self._patience is not None and since_improvement(wers, self._min_delta) >= self._patience:
            control.should_training_stop = True

    def chosen(self) -> list[Snapshot]:
        """Return the best or the last snapshots, the first of them first; of equals, the later is better."""
        by_rank = sorted(
            snapshots(self._folder), key=lambda one: (one.wer if self._select == "best" else 0.0, -one.step)
        )
        return by_rank[: self._count]


def write_snapshot(folder: Path, step: int, wer: float, weights: Weights) -> None:
    """Write weights in one step: a run that is killed meanwhile leaves no half of them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step}.safetensors"
    temporary = path.with_suffix(".tmp")
    with saving(f"the weights of step {step}", folder, "the same command goes on from the last checkpoint"):
        save_file(weights, temporary, metadata={"wer": repr(wer)})
        temporary.replace(path)


def snapshots(folder: Path) -> list[Snapshot]:
    """Return what lies in a folder, in no order."""
    found = []
    for path in folder.glob("step-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found.append(Snapshot(float(file.metadata()["wer"]), int(path.stem.removeprefix("step-")), path))
    return found


def mean_weights(paths: Sequence[Path]) -> Weights:
    """Return the mean of several snapshots, summed up in float64, in float32."""
    total: Weights = {}
    for path in paths:
        for name, tensor in load_file(path).items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(paths)).to(torch.float32) for name, tensor in total.items()}


def since_improvement(wers: Sequence[float], min_delta: float) -> int:
    """Return how many evaluations have passed since the WER last fell by more than `min_delta` below the lowest."""
    best, since = float("inf"), 0
    for wer in wers:
        if wer < best - min_delta:
            best, since = wer, 0
        else:
            since += 1
    return since
