"""Who is for training and who for measuring: splits that no sentence crosses and no reordering changes.

It moves no clip from a split that its source gave it into another, and does not look at speakers: those that can be
kept apart have their splits already (`training.data.speakers`).
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from speech.text import normalize
from training.data.manifest import SplitName, Utterance
from training.data.report import Dropped

PRECEDENCE: tuple[SplitName, ...] = ("test", "dev", "train")
"""A sentence that sits in several given splits stays in the first of these."""


def split(
    utterances: Iterable[Utterance],
    *,
    seed: int,
    test_per_language: int | Mapping[str, int],
    dev_per_language: int | Mapping[str, int],
    never_test: Collection[str] = (),
) -> tuple[list[Utterance], list[Dropped]]:
    """Give every utterance a split; all clips of one sentence, by its words or its `sentence_id`, share theirs.

    Sentences are drawn in the order of a hash of seed, language and normalised sentence, so the
    same data gives the same splits in whatever order it arrives, and new data leaves the order of
    the old as it was. Clips that carry a split keep it; a language that has a test or dev set of
    its own gets no other. A set that is drawn has at least one clip in which somebody speaks, if
    there is any: silences alone have no error rate.

    Args:
        utterances: of any number of languages.
        seed: another seed, another draw.
        test_per_language: clips to draw for test, exactly; for each language, or by its code.
        dev_per_language: clips to draw for dev, exactly; for each language, or by its code. Where too few clips are
            without a split, clips that are given for training are drawn, too.
        never_test: ids of clips that no test set is drawn from, nor from others of their sentences.

    Returns:
        The utterances, by language and id, and those whose sentence sits in a given test or dev
        set (reason "leaked_sentence").

    Raises:
        ValueError: a language has too few clips.
    """
    by_language: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_language[utterance.language].append(utterance)
    kept: list[Utterance] = []
    dropped: list[Dropped] = []
    for language, spoken in sorted(by_language.items()):
        counts: dict[SplitName, int] = {
            "test": _count(test_per_language, language),
            "dev": _count(dev_per_language, language),
        }
        kept_here, dropped_here = _split_language(language, spoken, seed, counts, frozenset(never_test))
        kept += kept_here
        dropped += dropped_here
    return kept, dropped


def _split_language(
    language: str, utterances: list[Utterance], seed: int, counts: dict[SplitName, int], never_test: frozenset[str]
) -> tuple[list[Utterance], list[Dropped]]:
    sentence_of = sentences_of(utterances)
    sentences: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in sorted(utterances, key=lambda utterance: utterance.id):
        sentences[sentence_of[utterance.id]].append(utterance)
    given = {utterance.split for utterance in utterances}

    split_of: dict[str, SplitName] = {}
    for sentence, clips in sentences.items():
        held = {clip.split for clip in clips}
        for name in PRECEDENCE:
            if name in held:
                split_of[sentence] = name
                break
    free = sentences.keys() - split_of.keys()
    wanted = {name: count for name, count in counts.items() if name not in given}
    lent: list[str] = []  # what is given for training lends a dev set, where there is nothing else: it only chooses
    if "dev" in wanted and sum(len(sentences[sentence]) for sentence in free) < sum(wanted.values()):
        lent = in_order((sentence for sentence, name in split_of.items() if name == "train"), seed, language, "dev")
    n_free = sum(len(sentences[sentence]) for sentence in [*free, *lent])
    if n_free < sum(wanted.values()):
        needed = " and ".join(f"{count} for {name}" for name, count in wanted.items())
        raise ValueError(f"{language}: {n_free} clips are there to draw from, needed are {needed}")
    closed = {sentence for sentence in free if any(clip.id in never_test for clip in sentences[sentence])}
    for name, count in wanted.items():
        drawn = draw(
            in_order(free - split_of.keys(), seed, language, name) + (lent if name == "dev" else []),
            sentences,
            count,
            closed if name == "test" else set(),
        )
        missing = count - sum(len(sentences[sentence]) for sentence in drawn)
        if missing and name == "test" and closed:
            raise ValueError(
                f"{language}: {count} clips are needed for test, and {count - missing} are there that are no "
                "corrections, which are never for test, being what the model gets wrong: bring a test set, as a "
                'source with use = "test"'
            )
        if missing:
            raise ValueError(
                f"{language}: {count} clips are needed for {name}, but whole sentences give "
                f"{count - missing}; ask for another number"
            )
        split_of |= dict.fromkeys(drawn, name)

    kept: list[Utterance] = []
    dropped: list[Dropped] = []
    for utterance in sorted(utterances, key=lambda utterance: utterance.id):
        name = split_of.get(sentence_of[utterance.id], "train")
        leaks = utterance.split != name and name in given and name != "train"
        if leaks:
            detail = f"its sentence is in the given {name} set: {utterance.text!r}"
            dropped.append(_left_out(utterance, "leaked_sentence", detail))
        else:
            kept.append(utterance.model_copy(update={"split": name}))
    return kept, dropped


def limit_dev(
    utterances: Sequence[Utterance], per_language: int, *, seed: int
) -> tuple[list[Utterance], list[Dropped]]:
    """Leave out what a dev set has more than is wanted of a language: it is heard at every evaluation.

    Which clips stay depends on their ids and the seed, so most stay when more come.

    Returns:
        The others, in their order, and those that are left out (reason "more_dev_than_wanted").
    """
    dev: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.split == "dev":
            dev[utterance.language].append(utterance)
    spare = {
        utterance.id
        for clips in dev.values()
        for utterance in sorted(clips, key=lambda u: hashlib.sha256(f"{seed}:{u.id}".encode()).digest())[per_language:]
    }
    detail = f"dev_clips: {per_language} a language are enough to choose by"
    return (
        [utterance for utterance in utterances if utterance.id not in spare],
        [_left_out(utterance, "more_dev_than_wanted", detail) for utterance in utterances if utterance.id in spare],
    )


def _left_out(utterance: Utterance, reason: str, detail: str) -> Dropped:
    return Dropped(id=utterance.id, source=utterance.source, reason=reason, detail=detail, by_source_rule=True)


def _count(wanted: int | Mapping[str, int], language: str) -> int:
    return wanted if isinstance(wanted, int) else wanted[language]


def in_order(sentences: Iterable[str], seed: int, language: str, name: SplitName) -> list[str]:
    """Return sentences in the order in which they are drawn for a split.

    Dev has an order of its own. What no test may have is passed over at the front of test's order, and would be all
    that a draw for dev finds there.
    """
    own = "dev:" if name == "dev" else ""
    return sorted(
        sentences, key=lambda sentence: hashlib.sha256(f"{own}{seed}:{language}:{sentence}".encode()).digest()
    )


def draw(
    order: list[str], sentences: Mapping[str, Sequence[Utterance]], count: int, closed: Collection[str]
) -> list[str]:
    """Return the first sentences that are so many clips together, leaving out the closed ones and those too large.

    One in which somebody speaks is taken before all others.
    """
    order = [sentence for sentence in order if sentence not in closed and len(sentences[sentence]) <= count]
    spoken = next((one for one in order if not all(clip.no_speech for clip in sentences[one])), None)
    drawn = []
    for sentence in sorted(order, key=lambda sentence: sentence != spoken):
        n_clips = len(sentences[sentence])
        if n_clips <= count:
            drawn.append(sentence)
            count -= n_clips
    return drawn


def sentence_of(utterance: Utterance) -> str:
    """Return what an utterance says, as sentences are compared.

    One without words says what no other does: it is known by its audio, or all silences would be one sentence.
    """
    return normalize(utterance.text) or f"{utterance.audio.sha256}:{utterance.audio.offset}"


def sentences_of(utterances: list[Utterance]) -> dict[str, str]:
    """Return each utterance's sentence: the first, by the alphabet, of the texts that its source says are the same."""
    texts = {utterance.id: sentence_of(utterance) for utterance in utterances}
    linked: dict[str, str] = {}

    def first(text: str) -> str:
        while linked.get(text, text) != text:
            text = linked[text]
        return text

    by_id: dict[tuple[str, str], str] = {}
    for utterance in utterances:
        if utterance.sentence_id is not None:
            text = texts[utterance.id]
            one, other = first(text), first(by_id.setdefault((utterance.source, utterance.sentence_id), text))
            linked[max(one, other)] = min(one, other)
    return {name: first(text) for name, text in texts.items()}
