"""The tables of `python -m benchmarks training`, each difference with its 95 % interval."""

import math
from collections.abc import Iterable, Sequence

from benchmarks.recipe.rows import Heard
from benchmarks.recipe.speed import Speed
from speech.scores import Interval, corpus_rate, difference_interval
from training import provenance
from training.evaluate import POOLED, Hypothesis, blocks_of, by_language

HEAD = """# What the recipe's parts are worth

Written by `python -m benchmarks training` ({steps} steps a row, {device}).

Every row is a fine-tuning of whisper-base of its own, with one thing changed (`benchmarks/recipe/recipe.toml` says what
is not), on Italian and Russian Asterisk prompts, measured on {learned} held-out clips of other sentences and on {guard}
English ones. Word error rates; differences have 95 % bootstrap intervals over sentences. A single seed: what is inside
an interval says nothing.
"""


SPEED_HEAD = """# What short steps save

Written by `python -m benchmarks training --only speed` ({device}): whisper-base, batches of {batch} Italian and Russian
prompts. The same windows in the same batches, in turn, {rounds} rounds; the fastest round of each counts.

| | ms a step | times faster |
|---|--:|--:|
"""


PADDING_HEAD = """# Short against padded

Written by `python -m benchmarks training --only padding` ({device}): whisper-base is fine-tuned twice on the same
Italian and Russian prompts with the same seed, {steps} steps at a peak learning rate of 1e-5 (all else:
`benchmarks/recipe/recipe.toml`): once on windows as long as their clips, with {share:g} % of the steps at 30 s, and
once always at 30 s, as is usual. Word error rates of {learned} held-out clips, and of {guard} English ones, which
nobody learned; differences have 95 % bootstrap intervals over sentences.

| | seconds a step | served at | it | ru | en | both, less padded | en, less padded |
|---|--:|---|--:|--:|--:|--:|--:|
"""

MARGIN = 0.02
"""Of a word error rate: what training on short windows may cost at most, by the interval's upper end."""


def report(base: Heard, parts: Sequence[Sequence[Heard]], folds: Sequence[tuple[Heard, Heard]]) -> str:
    """Return docs/training/figures.md.

    Args:
        base: what the base heard in the held-out clips.
        parts: of each row, at each of its alphas and contexts; the recipe itself first.
        folds: the base and the fine-tuned on each fold.
    """
    plain = next(one for one in parts[0] if one.alpha == 1.0)
    head = HEAD.format(steps=plain.steps, device=_device(), learned=len(plain.learned), guard=len(plain.guard))
    lines = [*_parts(base, plain, parts), *(_folds(folds) if folds else ())]
    return "\n".join([head, *lines])


def speed_report(speed: Speed, *, batch_size: int, full_share: float) -> str:
    """Return docs/training/speed.md; `full_share` is the recipe's share of steps at 30 s."""
    head = SPEED_HEAD.format(device=_device(), batch=batch_size, rounds=len(speed.elastic))
    share = f"{100 * full_share:g} % of the steps at 30 s, computed from the two"
    rows = [
        f"| padded to 30 s | {1000 * min(speed.padded):.0f} | 1 |",
        f"| elastic | {1000 * min(speed.elastic):.0f} | {speed.ratio:.1f} |",
        f"| the recipe: {share} | | {speed.with_full_share(full_share):.1f} |",
    ]
    if speed.padded_bytes is not None and speed.elastic_bytes is not None:
        rows += ["", "Memory of the GPU at most: "]
        rows[-1] += f"{speed.elastic_bytes / 2**30:.1f} GiB elastic, {speed.padded_bytes / 2**30:.1f} GiB padded."
    return head + "\n".join(rows) + "\n"


def padding_report(base: Heard, short: Sequence[Heard], padded: Heard, *, full_share: float) -> str:
    """Return docs/training/padding.md.

    Args:
        base: at 30 s.
        short: what was trained on windows as long as their clips, at each context that it was measured at.
        padded: what was trained at 30 s, at 30 s.
        full_share: share of the steps of `short` at 30 s.
    """
    plain = short[0]
    head = PADDING_HEAD.format(
        device=_device(),
        steps=plain.steps,
        share=100 * full_share,
        learned=len(plain.learned),
        guard=len(plain.guard),
    )
    rows = [f"| the base | | 30 s | {_wers(base)} | {_wer(base.guard):.3f} | | |"]
    of_padded = f"{_wers(padded)} | {_wer(padded.guard):.3f}"
    rows.append(f"| {padded.row} | {padded.seconds_a_step:.2f} | 30 s | {of_padded} | | |")
    holds = []
    for one in short:
        at = f"a margin of {one.context.margin}" if one.context.elastic else "30 s"
        cost = _interval(padded.learned, one.learned)
        holds += [at] if cost.high <= MARGIN else []
        rows.append(
            f"| {one.row} | {one.seconds_a_step:.2f} | {at} | {_wers(one)} | {_wer(one.guard):.3f} | {_signed(cost)} "
            f"| {_difference(padded.guard, one.guard)} |"
        )
    shown = f"served at {', '.join(holds)}" if holds else "served at none of these"
    ratio = padded.seconds_a_step / plain.seconds_a_step
    timed = f"The fine-tuning is {ratio:.1f} times faster short." if math.isfinite(ratio) else "The times were lost."
    told = f"No worse by more than {MARGIN:g}, by the interval's upper end: {shown}. {timed}"
    return head + "\n".join([*rows, "", told]) + "\n"


def _parts(base: Heard, plain: Heard, rows: Iterable[Sequence[Heard]]) -> Iterable[str]:
    yield "## Parts\n"
    yield "| | it | ru | both, against the recipe | en, against the base |"
    yield "|---|--:|--:|--:|--:|"
    yield f"| the base, at 30 s | {_wers(base)} | {_difference(plain.learned, base.learned)} | {_wer(base.guard):.3f} |"
    for heard in rows:
        for one in heard:
            against = "" if one is plain else _difference(plain.learned, one.learned)
            yield f"| {_label(one, plain)} | {_wers(one)} | {against} | {_difference(base.guard, one.guard)} |"
    yield ""


def _label(one: Heard, plain: Heard) -> str:
    label = one.row
    if one.alpha != 1.0:
        label += f", α {one.alpha:g}"
    if one.context != plain.context:
        label += f", served with a margin of {one.context.margin}" if one.context.elastic else ", served at 30 s"
    return label


def _folds(folds: Sequence[tuple[Heard, Heard]]) -> Iterable[str]:
    yield "## Five folds\n"
    yield "Each fifth of the sentences held out once, the rest learned, by the recipe.\n"
    yield "| fold | clips | it, base | it | ru, base | ru | both: difference | en: difference |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    pooled: tuple[list[Hypothesis], list[Hypothesis]] = ([], [])
    for before, after in folds:
        yield _fold(after.row.removeprefix("fold "), before.learned, after.learned, before.guard, after.guard)
        pooled[0].extend(before.learned)
        pooled[1].extend(after.learned)
    yield _fold("all", *pooled, [], [])
    yield ""


def _fold(
    name: str,
    before: Sequence[Hypothesis],
    after: Sequence[Hypothesis],
    guard_before: Sequence[Hypothesis],
    guard_after: Sequence[Hypothesis],
) -> str:
    was, now = by_language(before), by_language(after)
    cells = [f"{_wer(was[code]):.3f} | {_wer(now[code]):.3f}" for code in ("it", "ru")]
    guard = _difference(guard_before, guard_after) if guard_before else ""
    return f"| {name} | {len(after)} | {' | '.join(cells)} | {_difference(before, after)} | {guard} |"


def _wers(heard: Heard) -> str:
    groups = by_language(heard.learned)
    return " | ".join(f"{_wer(group):.3f}" for code, group in groups.items() if code != POOLED)


def _wer(hypotheses: Sequence[Hypothesis]) -> float:
    return corpus_rate([one.words for one in hypotheses])


def _difference(base: Sequence[Hypothesis], candidate: Sequence[Hypothesis]) -> str:
    return _signed(_interval(base, candidate))


def _interval(base: Sequence[Hypothesis], candidate: Sequence[Hypothesis]) -> Interval:
    """Return candidate minus base, by clips of one id."""
    other = {one.id: one for one in candidate}
    paired = [other[one.id] for one in base]
    return difference_interval([one.words for one in base], [one.words for one in paired], blocks_of(base)[0])


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _device() -> str:
    device = provenance.device()
    versions = provenance.versions()
    return f"{device.get('name', device['type'])}, torch {versions['torch']}, transformers {versions['transformers']}"
