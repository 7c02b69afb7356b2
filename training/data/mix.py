"""How a source's weight turns into how often its clips are seen.

A weight is how many times a clip of the source comes in one pass over the training set: with 1 once, with 3 three
times, with 0.25 a quarter of the clips once, with 2.5 each clip twice and half of them a third time. So a source's
share of what is seen is weight × clips over the sum of that for all sources. Dev and test sets are never weighted.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from training.data.manifest import Utterance


def mix(utterances: Iterable[Utterance], seed: int) -> list[Utterance]:
    """Return the utterances of one pass, each as often as its weight says, in the order given.

    Which clips of a source come once more is drawn by a hash of seed and id: the same data gives the same choice in
    whatever order it arrives, and a higher weight keeps what a lower one had chosen. Of a source with a weight above 0
    at least one clip is kept.

    Args:
        utterances: to train on; clips of one source have one weight.
        seed: another seed, another choice.
    """
    utterances = list(utterances)
    groups: defaultdict[tuple[str, float], list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[utterance.source, utterance.weight].append(utterance)
    times: dict[str, int] = {}
    for (_, weight), group in groups.items():
        whole = int(weight)
        once_more = round((weight - whole) * len(group))
        if whole == 0:
            once_more = max(1, once_more)
        drawn = sorted(group, key=lambda u: hashlib.sha256(f"{seed}:{u.id}".encode()).digest())
        times |= {u.id: whole + (rank < once_more) for rank, u in enumerate(drawn)}
    return [utterance for utterance in utterances for _ in range(times[utterance.id])]
