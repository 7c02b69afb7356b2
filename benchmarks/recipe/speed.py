"""What training on clips as short as they are saves: the same steps on the same windows, elastic and padded to 30 s.

Time is from the end of a step to the end of the next, so it holds everything that a user waits for: decoding audio,
features, both passes, the optimiser. It says nothing about how good the result is: `benchmarks.recipe.rows` does.
"""

import shutil
from dataclasses import dataclass

import torch

from benchmarks.recipe.clock import FIRST_STEPS, StepClock
from benchmarks.recipe.rows import Laboratory, Row, changed
from training.data.mix import mix
from training.finetune import fine_tune

ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """Seconds a step of each round, elastic and padded, and what a GPU's memory held at most."""

    elastic: tuple[float, ...]
    padded: tuple[float, ...]
    elastic_bytes: int | None
    padded_bytes: int | None

    @property
    def ratio(self) -> float:
        """Return how many times faster elastic steps are, of the fastest rounds."""
        return min(self.padded) / min(self.elastic)

    def with_full_share(self, share: float) -> float:
        """Return how many times faster a recipe is of which a share of the steps is 30 s long."""
        elastic, padded = min(self.elastic), min(self.padded)
        return padded / ((1 - share) * elastic + share * padded)


def measure(laboratory: Laboratory, steps: int, rounds: int = ROUNDS) -> Speed:
    """Train so many steps of each in turn, several rounds; nothing is kept."""
    took: dict[float, list[float]] = {0.0: [], 1.0: []}
    held: dict[float, int] = {}
    for turn in range(rounds):
        for share in sorted(took, reverse=bool(turn % 2)):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            took[share].append(_seconds_a_step(laboratory, steps, share))
            if torch.cuda.is_available():
                held[share] = torch.cuda.max_memory_allocated()
    return Speed(tuple(took[0.0]), tuple(took[1.0]), held.get(0.0), held.get(1.0))


def _seconds_a_step(laboratory: Laboratory, steps: int, full_context_share: float) -> float:
    folder = laboratory.folder / "speed"
    shutil.rmtree(folder, ignore_errors=True)
    row = Row("speed", {"max_steps": steps + FIRST_STEPS, "warmup_steps": 1, "full_context_share": full_context_share})
    config = changed(laboratory.config, row)
    clips = laboratory.clips(None)
    clock = StepClock()
    fine_tune(
        config,
        laboratory.base.path,
        mix(clips["train"], config.seed),
        clips["dev"][:1],
        laboratory.folder,
        folder,
        callbacks=[clock],
    )
    shutil.rmtree(folder)
    return clock.seconds_a_step
