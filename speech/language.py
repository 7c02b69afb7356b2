"""Which language a piece of audio is in, where nobody says so: what its first windows are found to speak.

One language a piece, as in openai/whisper: else a cough between two sentences is Welsh. But not simply the first
window's, which may be no more than that cough, or a "yes" that could be of any language.
"""

from collections import defaultdict

from speech.audio import SAMPLE_RATE
from speech.engine import DecodingResult
from speech.guard import is_spoken
from speech.windows import Slice

ENOUGH_S = 2.0
"""So much must be heard: of less, Whisper is often sure and wrong."""

SURE = 0.5
"""And so probable must the language be on average: faster-whisper's `language_detection_threshold`."""

MAX_WINDOWS = 4
"""After so many with speech, it is the likeliest: while it is not known, a window waits for those before."""

MAX_SILENT_WINDOWS = 8
"""After so many in which nobody speaks, no window waits any longer: hours of music would go one by one."""


class SpokenLanguage:
    """What is known of a piece's language, window after window."""

    def __init__(self, given: str | None = None) -> None:
        """Begin with the language that is given, if one is."""
        self.code = given  # None: not known yet
        self._seconds = 0.0
        self._n_spoken = self._n_silent = 0
        self._belief: dict[str, float] = defaultdict(float)  # by code: seconds, each times how probable it is

    def hear(self, place: Slice, result: DecodingResult) -> None:
        """Take the next window's answer; where nobody speaks, it says nothing."""
        if self.code is not None:
            return
        if not is_spoken(result):
            self._n_silent += 1
            return
        seconds = (place.end - place.start) / SAMPLE_RATE
        self._seconds += seconds
        self._n_spoken += 1
        for code, probability in (result.language_probabilities or {result.language: 1.0}).items():
            self._belief[code] += seconds * probability
        # Among those that it may be: probabilities are of all languages.
        is_sure = max(self._belief.values()) >= SURE * sum(self._belief.values())
        if (is_sure and self._seconds >= ENOUGH_S) or self._n_spoken == MAX_WINDOWS:
            self.code = self.likeliest

    @property
    def is_awaited(self) -> bool:
        """Whether the next window is to wait until it is known."""
        return self.code is None and self._n_silent < MAX_SILENT_WINDOWS

    @property
    def likeliest(self) -> str | None:
        """The language by what was heard; None where nothing was, and none is given."""
        return self.code or max(self._belief, key=lambda code: self._belief[code], default=None)

    @property
    def probabilities(self) -> dict[str, float] | None:
        """How probable each language is by what was heard, the likeliest first; None where nothing was."""
        ranked = sorted(self._belief.items(), key=lambda item: -item[1])
        return {code: belief / self._seconds for code, belief in ranked} or None
