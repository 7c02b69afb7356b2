"""Batches across requests change nothing: the company that a window keeps is not heard in its answer."""

import numpy as np
import pytest

from speech.context import ElasticContext
from speech.engine import Window, load_engine
from training.data.manifest import load_audio

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]

CLIPS = {"en": 300, "it": 200}


@pytest.fixture(scope="module")
def windows(prompts, tmp_path_factory):
    """Return 300 English and 200 Italian clips, in an order that mixes languages and lengths."""
    chosen = []
    for language, count in CLIPS.items():
        utterances = prompts(language)[:count]
        assert len(utterances) == count
        chosen += [Window(load_audio(one, tmp_path_factory.getbasetemp()), language) for one in utterances]
    return [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))]


@pytest.mark.parametrize("elastic", [True, False], ids=["elastic", "30 s"])
def test_batched_is_unbatched(base, windows, elastic):
    """The same tokens for each of 500 clips, decoded alone and decoded with the others, greedily, as served."""
    engine = load_engine(base.path, ElasticContext(elastic, margin=32), device="cpu")
    together = engine.transcribe(windows)
    differing = [
        (one.text, other.text)
        for window, one in zip(windows, together, strict=True)
        if one.tokens != (other := engine.transcribe([window])[0]).tokens
    ]
    assert differing == []
