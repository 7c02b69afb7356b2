"""What of some clips was heard or read in others: the same sentence of a language, or the same stretch of a file."""

from collections import defaultdict
from collections.abc import Sequence

from training.data.manifest import Utterance
from training.data.splits import sentence_of


class Known:
    """The sentences and the audio of some clips."""

    def __init__(self, clips: Sequence[Utterance]) -> None:
        self._sentences = {(one.language, sentence_of(one)) for one in clips}
        self._stretches: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for one in clips:
            self._stretches[one.audio.sha256].append((one.audio.offset, one.audio.offset + one.audio.duration))

    def has_sentence(self, clip: Utterance) -> bool:
        """Say whether one of them says the same, but for case and punctuation."""
        return (clip.language, sentence_of(clip)) in self._sentences

    def has_audio(self, clip: Utterance) -> bool:
        """Say whether one of them has some of the same audio."""
        start, end = clip.audio.offset, clip.audio.offset + clip.audio.duration
        return any(start < e and s < end for s, e in self._stretches.get(clip.audio.sha256, ()))
