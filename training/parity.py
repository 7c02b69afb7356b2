"""Whether the CTranslate2 export says what the checkpoint says that it was made from.

Both decode the same clips in float32, at the context that is served: what differs then is the conversion. What int8
costs is no question for here: the gate judges a version as it is served.

Where two words are as probable, the rounding of two libraries decides, and a model that is unsure of much hears other
words on a clip or two of thirty. So the share of clips with the same words, and the WER, are held against their limits
as everything else is: by what so few clips can tell. One word of thirty short clips is nearly a hundredth of all, and
shows nothing. A conversion that is broken changes nearly all.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from speech.context import ElasticContext
from speech.engine.tuning import Tuning
from speech.scores import difference_interval
from speech.text import normalize
from training.data.manifest import Utterance
from training.evaluate import Hypothesis, blocks_of, transcribe_utterances
from training.gate import Bounds
from training.shell import StepError

MAX_CLIPS = 64
MIN_SAME = 0.95
MAX_DIFFERENCE = 0.02
"""The export's WER may be so much higher; or by more, where the 95 % interval says that it may be no higher at all."""

MAX_HIGH = 0.2
"""The upper bound of the difference may be so high by words here and there. A loop exceeds it: of one in a few dozen
clips nobody can say that it is no chance, but it is many times as long as what was said."""


class Parity(BaseModel):
    """What the comparison found; kept in the version's metrics."""

    model_config = ConfigDict(frozen=True)

    clips: int
    same: float  # share of clips with the same normalised words
    difference: Bounds  # the export's WER minus the checkpoint's, 95 %, paired

    @property
    def holds(self) -> bool:
        """Whether the export may be published."""
        is_worse = self.difference.low > 0 and self.difference.value > MAX_DIFFERENCE
        return self.same_at_most >= MIN_SAME and not is_worse and self.difference.high <= MAX_HIGH

    @property
    def same_at_most(self) -> float:
        """The upper 95 % bound of `same`: Wilson's score interval (E. B. Wilson, JASA 22, 1927)."""
        z = 1.96
        middle = self.same + z * z / (2 * self.clips)
        half = z * math.sqrt(self.same * (1 - self.same) / self.clips + (z / (2 * self.clips)) ** 2)
        return (middle + half) / (1 + z * z / self.clips)


class ParityError(StepError):
    """The export and its checkpoint disagree: nothing was published."""

    def __init__(self, parity: Parity) -> None:
        super().__init__(
            f"the CTranslate2 export has the checkpoint's words on {parity.same:.0%} of {parity.clips} clips (so at "
            f"most on {parity.same_at_most:.0%} of all; at least {MIN_SAME:.0%}), and a WER that is higher by "
            f"{parity.difference} (if that is shown, at most {MAX_DIFFERENCE:g}; its upper bound, at most "
            f"{MAX_HIGH:g}): the conversion is broken, and nothing was published; please report it with the run's "
            "folder"
        )


def measure_parity(
    version: Path,
    context: ElasticContext,
    utterances: Sequence[Utterance],
    audio_root: Path,
    seed: int,
    advance: Callable[[int], None],
) -> Parity:
    """Decode clips with the checkpoint and with its export, greedily: what is sampled is never twice the same.

    Args:
        version: the folder with the checkpoint, and its export in `ctranslate2/`.
        context: as served.
        utterances: `MAX_CLIPS` of them are taken, evenly.
        audio_root: what relative audio paths start from.
        seed: of the bootstrap.
        advance: called with the number of clips just done, of twice as many as are taken.
    """
    from speech.engine.ctranslate2_engine import CTranslate2Engine  # the command line names the error above, and
    from speech.engine.torch_engine import TorchEngine  # torch takes seconds to import

    taken = take_evenly(utterances, MAX_CLIPS)
    checkpoint = TorchEngine.load(version, context, device="cpu")
    of_checkpoint = transcribe_utterances(checkpoint, taken, audio_root, advance, guard="keep")
    export = CTranslate2Engine.load(version / "ctranslate2", context, Tuning("float32"))
    of_export = transcribe_utterances(export, taken, audio_root, advance, guard="keep")
    return compare(of_checkpoint, of_export, seed)


def take_evenly(utterances: Sequence[Utterance], n: int) -> list[Utterance]:
    """Return at most `n` of them, spread over the whole."""
    if len(utterances) <= n:
        return list(utterances)
    return [utterances[i * len(utterances) // n] for i in range(n)]


def compare(of_checkpoint: Sequence[Hypothesis], of_export: Sequence[Hypothesis], seed: int) -> Parity:
    """Return what differs between two sets of hypotheses for the same utterances."""
    same = [
        normalize(one.hypothesis) == normalize(other.hypothesis)
        for one, other in zip(of_checkpoint, of_export, strict=True)
    ]
    interval = difference_interval(
        [h.errors for h in of_checkpoint], [h.errors for h in of_export], blocks_of(of_checkpoint)[0], seed=seed
    )
    return Parity(
        clips=len(same),
        same=sum(same) / len(same),
        difference=Bounds(value=interval.value, low=interval.low, high=interval.high),
    )
