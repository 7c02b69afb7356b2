"""A version's smoke clip: a few seconds of speech, and the tokens that its engine makes of them.

Training chooses it and seals it into the version; the service decodes it before a version answers anybody. It tells a
model that works from one that does not, and says nothing of how good it is: that is the gate's business.
"""

import json
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE, decode_audio
from speech.edits import edit_distance
from speech.engine import Engine, EngineError, Window

SMOKE = "smoke"
"""Of a version's folder."""

CLIP, EXPECTED = "clip.wav", "expected.json"

TOLERANCE = 0.2
"""The share of tokens that may differ. The clip is one of which the checkpoint in float32 and its export in int8 made
the same tokens, so that another processor's rounding moves a word at most, and broken weights move all of them."""


class SmokeError(Exception):
    """An engine does not say what it should to its smoke clip."""


@dataclass(frozen=True)
class SmokeClip:
    """Speech, and what is to come out."""

    audio: NDArray[np.float32]  # 16 kHz mono, shape (n_samples,), at most 30 s
    language: str
    tokens: tuple[int, ...]  # text tokens, decoded greedily without timestamps

    def check(self, engine: Engine) -> None:
        """Decode the clip.

        Raises:
            SmokeError: too many tokens differ.
            EngineError: it cannot be decoded.
        """
        said = decode(engine, self.audio, self.language)
        edits, expected = edit_distance(self.tokens, said), len(self.tokens)
        if edits > TOLERANCE * expected:
            raise SmokeError(f"of the {expected} tokens of its smoke clip, {edits} are wrong; {TOLERANCE:.0%} may be")


def decode(engine: Engine, audio: NDArray[np.float32], language: str) -> tuple[int, ...]:
    """Return the tokens that an engine makes of a clip.

    Raises:
        EngineError: it cannot be decoded.
    """
    (result,) = engine.transcribe([Window(audio, language)])
    if isinstance(result, EngineError):
        raise result
    return result.tokens


def quantize(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round samples to the 16 bits that a clip is kept in."""
    return (np.clip(np.round(audio * 32768.0), -32768, 32767) / 32768.0).astype(np.float32)


def write_smoke_clip(version: Path, clip: SmokeClip) -> None:
    """Put a clip into a version's folder that is not sealed yet."""
    folder = version / SMOKE
    folder.mkdir(parents=True)
    with wave.open(str(folder / CLIP), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((quantize(clip.audio) * 32768.0).astype("<i2").tobytes())
    expected = {"language": clip.language, "tokens": clip.tokens}
    (folder / EXPECTED).write_text(json.dumps(expected) + "\n", encoding="utf-8")


def read_smoke_clip(version: Path) -> SmokeClip | None:
    """Read a version's clip; None if it has none, as what was imported."""
    folder = version / SMOKE
    if not folder.is_dir():
        return None
    expected = json.loads((folder / EXPECTED).read_bytes())
    return SmokeClip(decode_audio(folder / CLIP), expected["language"], tuple(expected["tokens"]))
