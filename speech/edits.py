"""How far two sequences are apart. Rates, intervals and what is called WER are `speech.scores`', which needs jiwer."""

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Return how many insertions, deletions and substitutions make `other` of `one` (Levenshtein's distance).

    A row of the table at a time, so that transcripts of hours (ten thousand words each) take less than a second.
    """
    ids: dict[Hashable, int] = {}
    columns = np.array([ids.setdefault(item, len(ids)) for item in other], dtype=np.int64)
    places = np.arange(len(other) + 1)
    row = places  # from nothing to each beginning of `other`
    for i, item in enumerate(one, 1):
        kept_or_replaced = row[:-1] + (columns != ids.get(item, -1))
        deleted_or_better = np.concatenate([[i], np.minimum(row[1:] + 1, kept_or_replaced)])
        # An insertion costs one more than the place to the left, which may itself be one.
        row = np.minimum.accumulate(deleted_or_better - places) + places
    return int(row[-1])
