"""Who is held out where a language has several speakers: nobody is heard in two splits, so scores tell of new voices.

It draws speakers and gives their clips a split, as if their source had, for test first. Where speakers are too few, or
keeping them apart would cost too many clips, it leaves dev, or both, to `training.data.splits`, which draws sentences,
whoever says them.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.data.manifest import SplitName, Utterance
from training.data.report import Dropped
from training.data.splits import draw, in_order, sentences_of

MAX_LEFT_OUT = 0.2
"""Share of a language's clips that may be lost: what held-out speakers say beyond the clips that are wanted of them."""


def hold_out_speakers(
    utterances: Iterable[Utterance],
    *,
    seed: int,
    test_per_language: Mapping[str, int],
    dev_per_language: Mapping[str, int],
    never_test: Collection[str] = (),
) -> tuple[list[Utterance], list[Dropped]]:
    """Give test and dev, where a language has none of its own, to speakers of whom nothing is learned.

    What is drawn of them is exactly what is wanted, and says nothing that the others say; the rest of what they say is
    left out. Clips without a speaker are learned from, and so are those of a speaker who has a given split. Languages
    are drawn apart: who speaks two may be held out in one and learned from in the other.

    Args:
        utterances: of any number of languages.
        seed: another seed, another draw.
        test_per_language: clips to draw for test, by the language's code.
        dev_per_language: clips to draw for dev, by the language's code.
        never_test: ids of clips that are not for test, nor others of their sentences.

    Returns:
        The utterances in their order, those of held-out speakers with a split, and those that are left out (reason
        "held_out_surplus").
    """
    utterances = list(utterances)
    by_language: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_language[utterance.language].append(utterance)
    split_of: dict[str, SplitName | None] = {}
    for language, spoken in by_language.items():
        wanted: dict[SplitName, int] = {"test": test_per_language[language], "dev": dev_per_language[language]}
        split_of |= _hold_out(language, spoken, seed, wanted, frozenset(never_test))
    kept, dropped = [], []
    for utterance in utterances:
        if utterance.id not in split_of:
            kept.append(utterance)
        elif (name := split_of[utterance.id]) is not None:
            kept.append(utterance.model_copy(update={"split": name}))
        else:
            detail = f"{utterance.speaker} is held out, and enough clips of theirs are: nothing else is learned of them"
            dropped.append(
                Dropped(
                    id=utterance.id,
                    source=utterance.source,
                    reason="held_out_surplus",
                    detail=detail,
                    by_source_rule=True,
                )
            )
    return kept, dropped


@dataclass
class _Pool:
    """What may be drawn from: the clips of each speaker who is not held out yet, and how often others say the same."""

    seed: int
    language: str
    by_speaker: dict[str, list[Utterance]]
    corrected: frozenset[str]
    """Speakers of corrections: they are held out only if the others do not suffice."""
    sentence_of: dict[str, str]
    others: Counter[str]
    """Sentence → clips of it by those who are not held out, or have no name."""


def _hold_out(
    language: str,
    utterances: Sequence[Utterance],
    seed: int,
    wanted: Mapping[SplitName, int],
    never_test: frozenset[str],
) -> dict[str, SplitName | None]:
    """Return the split of each clip of a held-out speaker, None if it is left out; nothing if nobody is held out."""
    given = {utterance.split for utterance in utterances}
    missing = {name: count for name, count in wanted.items() if count and name not in given}
    if not missing:
        return {}
    drawn_from: set[SplitName | None] = {None}
    free = [utterance for utterance in utterances if utterance.split is None]
    if "test" not in missing and len(free) < sum(missing.values()):  # as `split` lends training clips to dev
        drawn_from = {None, "train"}
        free = [utterance for utterance in utterances if utterance.split in drawn_from]
    elsewhere = {utterance.speaker for utterance in utterances if utterance.split not in drawn_from}
    by_speaker: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in free:
        if utterance.speaker is not None and utterance.speaker not in elsewhere:
            by_speaker[utterance.speaker].append(utterance)
    sentence_of = sentences_of(list(utterances))
    corrected = frozenset(who for who, clips in by_speaker.items() if any(clip.id in never_test for clip in clips))
    pool = _Pool(seed, language, dict(by_speaker), corrected, sentence_of, Counter(sentence_of.values()))
    spare = round(MAX_LEFT_OUT * len(free))
    split_of: dict[str, SplitName | None] = {}
    for name, count in missing.items():
        closed = {sentence_of[clip] for clip in never_test if clip in sentence_of} if name == "test" else set()
        speakers, drawn = _draw_speakers(pool, name, count, closed, spare)
        if not drawn or len(speakers) == len(pool.by_speaker):  # somebody is to be learned from
            break
        for speaker in speakers:
            clips = pool.by_speaker.pop(speaker)
            split_of |= {clip.id: name if clip.id in drawn else None for clip in clips}
            spare -= sum(clip.id not in drawn for clip in clips)
    return split_of


def _draw_speakers(
    pool: _Pool, name: SplitName, count: int, closed: Collection[str], spare: int
) -> tuple[list[str], set[str]]:
    """Return speakers, and the ids of so many clips of theirs that say what nobody else says; no ids if it fails.

    Who says too much is passed over, so that the order is that of a hash alone: it stays as it is when clips come.
    """

    def order(speaker: str) -> tuple[bool, bytes]:
        drawn_by = f"{name}:{pool.seed}:{pool.language}:{speaker}"
        return speaker in pool.corrected, hashlib.sha256(drawn_by.encode()).digest()

    speakers: list[str] = []
    theirs: defaultdict[str, list[Utterance]] = defaultdict(list)
    n_theirs = n_alone = 0
    for speaker in sorted(pool.by_speaker, key=order):
        clips = pool.by_speaker[speaker]
        if all(pool.sentence_of[clip.id] in closed for clip in clips) or n_theirs + len(clips) - count > spare:
            continue
        speakers.append(speaker)
        n_theirs += len(clips)
        for clip in clips:
            sentence = pool.sentence_of[clip.id]
            theirs[sentence].append(clip)
            pool.others[sentence] -= 1
            if pool.others[sentence] == 0 and sentence not in closed:
                n_alone += len(theirs[sentence])
        if n_alone < count:
            continue
        alone = {one: clips for one, clips in theirs.items() if pool.others[one] == 0 and one not in closed}
        ordered = in_order(alone, pool.seed, pool.language, name)
        drawn = [clip for sentence in draw(ordered, alone, count, ()) for clip in alone[sentence]]
        if len(drawn) == count and not all(clip.no_speech for clip in drawn):  # silences have no error rate
            return speakers, {clip.id for clip in drawn}
    return speakers, set()
