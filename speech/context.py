"""Elastic context: how much of the encoder a window of audio pays for.

Whisper pads every clip to 30 s, 1,500 encoder positions of 20 ms. A model that was trained with varying context
answers as well from its own length and a margin. The context of a window depends on its own duration only, never
on the windows that happen to share its batch. Whether a model may be served so is said by its version's manifest;
this module only counts positions.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from speech.audio import SAMPLE_RATE
from speech.features import HOP_LENGTH, N_FRAMES

FRAMES_PER_POSITION = 2  # conv2 has a stride of 2
SAMPLES_PER_POSITION = FRAMES_PER_POSITION * HOP_LENGTH  # 320 samples
POSITIONS_PER_SECOND = SAMPLE_RATE // SAMPLES_PER_POSITION  # 50
MAX_POSITIONS = N_FRAMES // FRAMES_PER_POSITION  # 1,500

MEL_COUNTS = frozenset({80, 128})
"""An encoder output of exactly n_mels positions is taken for features by CTranslate2, and encoded twice."""

BUCKETS = (96, 160, 224, 320, 448, 640, 896, 1200, MAX_POSITIONS)
"""The contexts in use, each about 1.4 times the one before: few enough that windows share a batch, whose steps cost
nearly the same for eight rows as for two, and fine enough to waste little; none of `MEL_COUNTS`."""


@dataclass(frozen=True)
class ElasticContext:
    """The `context` of a version's manifest."""

    elastic: bool = False
    margin: int = 0
    """Positions (20 ms each) added to a window's own."""

    @classmethod
    def from_manifest(cls, context: Mapping[str, Any]) -> "ElasticContext":
        """Read the manifest's `context`; fields for humans (`evidence`) are passed over."""
        return cls(elastic=bool(context.get("elastic", False)), margin=int(context.get("margin", 0)))

    def to_manifest(self) -> dict[str, Any]:
        """Return the form that a manifest keeps."""
        return asdict(self)

    def positions(self, n_samples: int) -> int:
        """Return the encoder positions to spend on a window of `n_samples`: one of `BUCKETS`."""
        if not self.elastic:
            return MAX_POSITIONS
        return bucket(positions_of(n_samples) + self.margin)


def positions_of(n_samples: int) -> int:
    """Return the positions that `n_samples` of 16 kHz audio fill, rounded up."""
    return math.ceil(n_samples / SAMPLES_PER_POSITION)


def bucket(positions: int) -> int:
    """Return the smallest of `BUCKETS` that holds `positions`; 1,500 for anything longer."""
    return next((size for size in BUCKETS if size >= positions), MAX_POSITIONS)
