"""Choosing a version's smoke clip: what the checkpoint and its export both are sure of, to the token."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech.context import ElasticContext
from speech.engine import Engine, EngineError, Window
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.torch_engine import TorchEngine
from speech.smoke import SmokeClip, quantize
from training.data.manifest import CORRECTIONS, Utterance, load_audio
from training.parity import take_evenly

MAX_CLIPS = 16  # to choose from: the first few are nearly always enough
MIN_S, MAX_S = 1.5, 8.0  # long enough for a sentence; each start and each swap of the service decodes it
MIN_TOKENS = 5


def choose_smoke_clip(
    version: Path,
    context: ElasticContext,
    utterances: Sequence[Utterance],
    audio_root: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> SmokeClip | None:
    """Return the clip of which the checkpoint (float32) and the export (int8) make the same tokens, and are surest.

    Args:
        version: the folder with the checkpoint, and its export in `ctranslate2/`.
        context: as served.
        utterances: to choose from; their audio becomes a part of the version.
        audio_root: what relative audio paths start from.
        advance: called with the number of clips just done, of `candidates(utterances)`.
    """
    taken = candidates(utterances)
    return surest(
        TorchEngine.load(version, context, device="cpu"),
        CTranslate2Engine.load(version / "ctranslate2", context),
        [(quantize(load_audio(utterance, audio_root)), utterance.language) for utterance in taken],
        advance,
    )


def candidates(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Return the utterances that are tried: `MAX_CLIPS` of fitting length, spread over the whole; no corrections.

    A version cannot be changed: no clip may be in it that its speaker may want deleted some day.
    """
    fitting = [u for u in utterances if MIN_S <= u.audio.duration <= MAX_S and u.source != CORRECTIONS]
    return take_evenly(fitting, MAX_CLIPS)


def surest(
    checkpoint: Engine,
    export: Engine,
    clips: Sequence[tuple[NDArray[np.float32], str]],
    advance: Callable[[int], None] = lambda _: None,
) -> SmokeClip | None:
    """Return the clip on which two engines agree to the token, and which the second believes most; None if none is.

    Args:
        checkpoint: one engine.
        export: the other.
        clips: audio and language.
        advance: called with the number of clips just done.
    """
    best: tuple[float, SmokeClip] | None = None
    for audio, language in clips:
        window = Window(audio, language)
        (wanted,), (said,) = checkpoint.transcribe([window]), export.transcribe([window])
        advance(1)
        if isinstance(wanted, EngineError) or isinstance(said, EngineError):
            continue
        agreed = wanted.tokens == said.tokens and len(said.tokens) >= MIN_TOKENS
        if agreed and (best is None or said.avg_logprob > best[0]):
            best = said.avg_logprob, SmokeClip(audio, language, said.tokens)
    return None if best is None else best[1]
