"""General speech beside what is to be learned: replay, which is rehearsed, and guards, which are only watched.

Halves what is named as both, and keeps every sentence on one side: of replay and guards, and of replay and the held-out
sets. Reads nothing: `training.prepare` does.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from training.data.manifest import SplitName, Utterance
from training.data.splits import sentence_of


def divide(
    replay: Iterable[Utterance], guards: Iterable[Utterance], held_out: Iterable[Utterance], *, seed: int
) -> tuple[list[Utterance], list[Utterance]]:
    """Return what is rehearsed and what is watched, each by language and id.

    A clip that is in both goes to one, by a hash of seed, language and sentence, as in `splits.split`: about half each.
    What is watched is halved again: "dev" chooses, "test" is for the gate. Clips that carry a split of dev or test keep
    it and are not rehearsed. Replay whose sentence is watched or held out is left out.

    Args:
        replay: may share clips with `guards`.
        guards: of any number of languages.
        held_out: dev and test utterances of what is to be learned.
        seed: another seed, another draw.
    """
    rehearsed = {clip.id: clip for clip in replay}
    watched: dict[str, Utterance] = {}
    for clip in guards:
        given = clip.split if clip.split in {"dev", "test"} else None
        first, second = _coins(clip, seed)
        if given is None and clip.id in rehearsed and first:
            continue
        drawn: SplitName = "dev" if second else "test"
        watched[clip.id] = clip.model_copy(update={"split": given or drawn})
    closed = {_sentence(clip) for clip in (*watched.values(), *held_out)}
    kept = [
        clip.model_copy(update={"split": "train"})
        for clip in rehearsed.values()
        if _sentence(clip) not in closed and clip.split not in {"dev", "test"}
    ]
    return sorted(kept, key=_place), sorted(watched.values(), key=_place)


def with_texts(utterances: Sequence[Utterance], texts: Mapping[str, str]) -> list[Utterance]:
    """Return the utterances with other texts, by id, and without segments; those with an empty one are left out."""
    return [
        utterance.model_copy(update={"text": text, "segments": None})
        for utterance in utterances
        if (text := texts[utterance.id].strip())
    ]


def _sentence(clip: Utterance) -> tuple[str, str]:
    return clip.language, sentence_of(clip)


def _coins(clip: Utterance, seed: int) -> tuple[bool, bool]:
    digest = hashlib.sha256(f"{seed}:{clip.language}:{sentence_of(clip)}".encode()).digest()
    return bool(digest[0] & 1), bool(digest[0] & 2)


def _place(clip: Utterance) -> tuple[str, str]:
    return clip.language, clip.id
