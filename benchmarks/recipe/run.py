"""`python -m benchmarks training`: which rows, how many at once, and the documents that come of them."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.recipe.report import padding_report, report, speed_report
from benchmarks.recipe.rows import CROSS_VALIDATION, PADDING, ROWS, Laboratory, base_row, run_rows
from benchmarks.recipe.speed import measure
from training.shell import Shell, StepError

PARTS = ("parts", "folds", "speed", "padding")
SPEED_STEPS = 20


def run(registry: Path, runs: Path, *, only: Sequence[str], steps: int, jobs: int, into: Path, shell: Shell) -> None:
    """Measure, and write `figures.md` (parts and folds), `speed.md` and `padding.md` into a folder.

    Raises:
        StepError: there is no such part.
        RegistryError: the base is not in the registry.
    """
    if unknown := sorted(set(only) - set(PARTS)):
        raise StepError(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    wanted = set(only or PARTS)
    started = time.monotonic()
    laboratory = Laboratory.set_up(registry, runs, steps)
    config = laboratory.config
    shell.say(f"fine-tuning {laboratory.base.ref}; what is kept: {laboratory.folder}")
    into.mkdir(parents=True, exist_ok=True)
    if "speed" in wanted:  # first, and alone
        speed = measure(laboratory, SPEED_STEPS)
        text = speed_report(speed, batch_size=config.batch_size, full_share=config.full_context_share)
        (into / "speed.md").write_text(text, encoding="utf-8")
        shell.say(f"elastic steps are {speed.ratio:.1f} times faster than padded ones: {into / 'speed.md'}")
    if "padding" in wanted:  # timed, too: one after the other
        base = base_row(laboratory)
        short, padded = run_rows(laboratory, PADDING, 1, shell.say)
        at_30_s = next(one for one in padded if not one.context.elastic)
        text = padding_report(base, short, at_30_s, full_share=config.full_context_share)
        (into / "padding.md").write_text(text, encoding="utf-8")
        shell.say(f"short and padded side by side: {into / 'padding.md'}")
    if wanted & {"parts", "folds"}:
        rows = ROWS if "parts" in wanted else ROWS[:1]
        folds = CROSS_VALIDATION if "folds" in wanted else ()
        base = base_row(laboratory)
        before = [base_row(laboratory, row.fold) for row in folds]
        heard = run_rows(laboratory, [*rows, *folds], jobs, shell.say)
        after = [of_fold[0] for of_fold in heard[len(rows) :]]
        text = report(base, heard[: len(rows)], list(zip(before, after, strict=True)))
        (into / "figures.md").write_text(text, encoding="utf-8")
        shell.say(f"tables: {into / 'figures.md'}")
    shell.say(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
