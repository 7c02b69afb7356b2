"""What a version has learned from, told without telling it: digests of sentences and of audio, beside its weights.

So that no comparison is held on clips that one side was trained on, whatever has become of its data since: how they are
divided depends on what else there is, and on the recipe. A version has what its parent had, and its own. The file stays
at home (`registry.copies`), for who knows a sentence can find out that it was learned.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry import Version
from speech.text import NORMALIZER_VERSION
from training.data.manifest import Utterance
from training.data.splits import sentence_of
from training.shell import StepError

LEARNED = "learned.json.gz"
DIGITS = 16  # of a digest in hexadecimal: that a clip is taken for one of a million others has a chance of 10^-13


class Learned(BaseModel):
    """Digests of what was learned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalizer_version: str = NORMALIZER_VERSION
    """Sentences of another are not compared: they may be the same, and have other digests."""
    sentences: frozenset[str] = frozenset()
    audio: dict[str, list[tuple[float, float]]] = {}
    """Stretches, in seconds, of files by their digests."""
    is_complete: bool = True
    """Whether all trainings since the model came from elsewhere are in it."""

    def knows(self, clip: Utterance) -> bool:
        """Say whether a clip's sentence, or some of its audio, was learned."""
        start, end = clip.audio.offset, clip.audio.offset + clip.audio.duration
        if any(start < e and s < end for s, e in self.audio.get(_digest(clip.audio.sha256), ())):
            return True
        return self.has_todays_rules and _sentence(clip) in self.sentences

    @property
    def has_todays_rules(self) -> bool:
        """Whether its sentences were normalised as sentences are now."""
        return self.normalizer_version == NORMALIZER_VERSION


def learned(clips: Iterable[Utterance], before: Learned) -> Learned:
    """Return what there is to know of clips that are learned, beside what was learned before."""
    same_rules = before.has_todays_rules
    sentences, audio = set(before.sentences if same_rules else ()), dict(before.audio)
    for clip in clips:
        sentences.add(_sentence(clip))
        stretch = (clip.audio.offset, clip.audio.offset + clip.audio.duration)
        name = _digest(clip.audio.sha256)
        audio[name] = sorted({*audio.get(name, ()), stretch})
    return Learned(sentences=frozenset(sentences), audio=audio, is_complete=before.is_complete and same_rules)


def write_learned(folder: Path, what: Learned) -> None:
    """Write it beside a version's weights, the same bytes for the same content."""
    content = what.model_dump(mode="json")
    content["sentences"].sort()
    (folder / LEARNED).write_bytes(gzip.compress(json.dumps(content, sort_keys=True).encode(), mtime=0))


def read_learned(version: Version) -> Learned | None:
    """Return what a version has learned; None where it does not say, as one from elsewhere."""
    try:
        return Learned.model_validate_json(gzip.decompress((version.path / LEARNED).read_bytes()))
    except FileNotFoundError:
        return None


def known_of(version: Version) -> Learned:
    """Return what is known of what a version has learned: all of it, of one that was imported and trained here since.

    One without the file that has a parent was trained before there was the file, or came back without it.
    """
    found = read_learned(version)
    if found is None:
        return Learned(is_complete=version.manifest.parent is None)
    return found if found.has_todays_rules else found.model_copy(update={"is_complete": False})


def unseen(what: str, clips: Sequence[Utterance], versions: Sequence[Version]) -> list[Utterance]:
    """Return the clips that none of the versions says to have learned.

    Args:
        what: they are, for the message.
        clips: to judge by.
        versions: that are judged.

    Raises:
        StepError: nothing is left in which anybody speaks a language that was spoken: who judges by the rest would
            take what is not looked at for what is good.
    """
    known = [known_of(version) for version in versions]
    kept = [clip for clip in clips if not any(found.knows(clip) for found in known)]
    if gone := sorted(_spoken(clips) - _spoken(kept)):
        refs = " or ".join(dict.fromkeys(version.ref for version in versions))
        raise StepError(
            f"each clip of {what} in {', '.join(gone)} was learned by {refs}, or what it came from: judge by others "
            '(a source of use = "test", other guards; for `gate`, --manifest or --folder)'
        )
    return kept


def _spoken(clips: Iterable[Utterance]) -> set[str]:
    return {clip.language for clip in clips if not clip.no_speech}


def _sentence(clip: Utterance) -> str:
    return _digest(f"{clip.language}\n{sentence_of(clip)}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
