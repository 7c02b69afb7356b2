"""What train and the held-out splits share, and so would make a score too good: audio, sentences, speakers.

Held out is what is in dev or test. It compares within one data set; other versions of a corpus are compared by giving
both as sources.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

from speech.text import normalize
from training.data.manifest import Utterance
from training.lint.report import Finding, finding
from training.lint.texts import by_language

MIN_WORDS_TO_COMPARE = 4  # shorter sentences are alike by chance
DOMINANT_SHARE = 0.3


def check_splits(utterances: Sequence[Utterance], drawn: Collection[str] = ()) -> Iterator[Finding]:
    """Yield what the splits lack, and what they share; `drawn`: languages whose test set no source gave."""
    if unsplit := [u.id for u in utterances if u.split is None]:
        yield finding("no_split", ids=unsplit)
    for language, group in by_language(utterances).items():
        for name in ("train", "dev", "test"):
            if not any(u.split == name for u in group) and not all(u.split is None for u in group):
                yield finding("empty_split", where=f"{language} {name}")
    leaks = _shared_audio(utterances)
    if leaks:
        yield finding("same_audio_across_splits", ids=leaks)
    yield from _shared_recordings(utterances, leaks)
    yield from _copies(utterances)
    for language, group in by_language(utterances).items():
        yield from _shared_sentences(language, group)
        yield from _similar_sentences(language, group)
        yield from _speakers(language, group, drawn=language in drawn)
    if nameless := [u.id for u in utterances if not u.licence]:
        yield finding("unknown_licence", ids=nameless)


def _held_out(utterance: Utterance) -> bool:
    return utterance.split in {"dev", "test"}


def _crossing(utterances: Iterable[Utterance], key: "dict[str, Hashable]") -> list[list[Utterance]]:
    """Return the groups of equal key that are both in train and held out, or both in dev and test."""
    groups: defaultdict[Hashable, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.split is not None and utterance.id in key:
            groups[key[utterance.id]].append(utterance)
    return [group for group in groups.values() if len({u.split for u in group}) > 1]


def _ids(groups: Iterable[Iterable[Utterance]]) -> list[str]:
    return sorted({u.id for group in groups for u in group if _held_out(u)})


def _overlaps(one: Utterance, other: Utterance) -> bool:
    return (
        one.audio.offset < other.audio.offset + other.audio.duration
        and other.audio.offset < one.audio.offset + one.audio.duration
    )


def _shared_audio(utterances: Sequence[Utterance]) -> list[str]:
    """Return the held-out clips of which another split has a stretch."""
    crossing = _crossing(utterances, {u.id: u.audio.sha256 for u in utterances})
    return sorted(
        u.id
        for group in crossing
        for u in group
        if _held_out(u) and any(other.split != u.split and _overlaps(u, other) for other in group)
    )


def _shared_recordings(utterances: Sequence[Utterance], leaks: Sequence[str]) -> Iterator[Finding]:
    crossing = _ids(_crossing(utterances, {u.id: u.audio.sha256 for u in utterances}))
    if only := sorted(set(crossing) - set(leaks)):
        yield finding("recording_across_splits", ids=only)


def _copies(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    seen: dict[Hashable, str] = {}
    copies = {}
    for u in utterances:
        first = seen.setdefault((u.audio.sha256, u.audio.offset, u.audio.duration, u.split), u.id)
        if first != u.id:
            copies[u.id] = f"as {first}"
    if copies:
        yield finding("duplicate_audio", ids=copies, details=copies.values())


def _shared_sentences(language: str, group: Sequence[Utterance]) -> Iterator[Finding]:
    sentence = {u.id: normalize(u.text) for u in group if not u.no_speech}
    spoken = {u.id: (sentence[u.id], u.speaker) for u in group if u.speaker is not None and u.id in sentence}
    same = _ids(_crossing(group, {**spoken}))
    if same:
        yield finding("same_sentence_and_speaker_across_splits", where=language, ids=same)
    if others := sorted(set(_ids(_crossing(group, {**sentence}))) - set(same)):
        yield finding("same_sentence_across_splits", where=language, ids=others)


def _similar_sentences(language: str, group: Sequence[Utterance]) -> Iterator[Finding]:
    """Find held-out sentences at a distance of one word from train, by what both are without a word.

    Two sentences are at most a substituted, a deleted or an inserted word apart only if they share such a remainder
    (the deletion neighbourhood of Mor and Fraenkel, CACM 25, 1982); so train is read once, however long it is.
    """
    held = {u.id: normalize(u.text).split() for u in group if _held_out(u)}
    held = {name: words for name, words in held.items() if len(words) >= MIN_WORDS_TO_COMPARE}
    wanted = {remainder for words in held.values() for remainder in _remainders(words)}
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for u in group:
        if u.split == "train":
            words = normalize(u.text).split()
            for remainder in _remainders(words) & wanted:
                found.setdefault(remainder, []).append(tuple(words))
    similar = {}
    for name, words in held.items():
        others = [other for remainder in _remainders(words) for other in found.get(remainder, ())]
        near = next((other for other in others if other != tuple(words) and _one_apart(words, other)), None)
        if near is not None:
            similar[name] = f"in train: {' '.join(near)}"
    if similar:
        yield finding("similar_sentence_across_splits", where=language, ids=similar, details=similar.values())


def _remainders(words: Sequence[str]) -> set[tuple[str, ...]]:
    whole = tuple(words)
    return {whole, *(whole[:i] + whole[i + 1 :] for i in range(len(whole)))}


def _one_apart(one: Sequence[str], other: Sequence[str]) -> bool:
    """Say whether two word sequences that share a remainder are one edit apart: "a b" and "b c" are two."""
    if len(one) != len(other):
        return True
    return sum(a != b for a, b in zip(one, other, strict=True)) == 1


def _speakers(language: str, group: Sequence[Utterance], *, drawn: bool) -> Iterator[Finding]:
    seconds: Counter[str] = Counter()
    for u in group:
        if u.speaker is not None and u.split == "train":
            seconds[u.speaker] += round(1000 * u.audio.duration)
    names = {u.speaker for u in group} - {None}
    if unknown := [u.id for u in group if u.speaker is None]:
        yield finding("unknown_speakers", where=language, ids=unknown)
    elif len(names) == 1:
        yield finding("single_speaker", where=language, more=str(next(iter(names))))
    if len(names) < 2:
        return
    crossing = _crossing(group, {u.id: u.speaker for u in group if u.speaker is not None})
    tested = [one for one in crossing if any(u.split == "test" for u in one)]
    code = "speakers_mixed" if drawn else "speaker_across_splits"  # who drew it kept apart what could be
    for found, of in ((code, tested), ("dev_speakers", [one for one in crossing if one not in tested])):
        if of:
            who = sorted({str(one[0].speaker) for one in of})
            more = f"{len(who)} of {len(names)} speakers: {', '.join(who[:5])}{', …' if len(who) > 5 else ''}"
            yield finding(found, where=language, ids=_ids(of), more=more)
    if seconds:
        name, most = seconds.most_common(1)[0]
        if most > DOMINANT_SHARE * seconds.total():
            yield finding("dominant_speaker", where=language, more=f"{name}: {most / seconds.total():.0%}")
