"""How long a step of a fine-tuning takes, with all that a user waits for."""

import math
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FIRST_STEPS = 3
"""Of each run, not counted: libraries choose their kernels, and caches fill."""


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Notes when each step ended, on the device."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Wait for the device, and look at the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds_a_step(self) -> float:
        """Return the mean over the steps after the first few; not a number if there were no more."""
        counted = len(self.ends) - FIRST_STEPS
        return (self.ends[-1] - self.ends[FIRST_STEPS - 1]) / counted if counted > 0 else math.nan
