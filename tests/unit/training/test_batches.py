"""Batches: tokens with one start, features of an elastic context."""

import numpy as np
import pytest

from speech.context import MAX_POSITIONS, SAMPLES_PER_POSITION
from speech.features import log_mel_spectrogram, pad_or_trim
from training.batches import ElasticCollator, Example
from training.targets import IGNORED, text_target


def example(tokenizer, index, seconds, text="ciao a tutti", margin=None):
    """Return an utterance of noise."""
    audio = np.random.default_rng(index).normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)
    target = text_target(tokenizer, text, "it")
    return Example(index=index, audio=audio, target=target, blanks=[], margin=margin)


@pytest.fixture
def collator(tokenizer):
    """Return the function that makes a collator with the settings that a test names."""

    def make(margins=(0, 10, 25), full_context_share=0.0, seed=3):
        return ElasticCollator(80, tokenizer.eot, margins, full_context_share, seed)

    return make


def test_exactly_one_start_token(tokenizer, collator):
    """The decoder sees start, language, task, no timestamps, text; labels are the same moved by one, then the end."""
    batch = collator()([example(tokenizer, 0, 1.0)])
    expected = tokenizer.labels("ciao a tutti", "it")
    assert batch["decoder_input_ids"][0].tolist() == expected[:-1]
    assert batch["labels"][0].tolist() == expected[1:]
    assert batch["decoder_input_ids"][0].tolist().count(tokenizer.sot) == 1
    assert tokenizer.sot not in batch["labels"][0].tolist()


def test_padding_is_not_learned(tokenizer, collator):
    """Shorter texts are padded with the end token for the decoder, and with the ignored label for the loss."""
    batch = collator()([example(tokenizer, 0, 1.0, "ciao"), example(tokenizer, 1, 1.0, "ciao a tutti voi")])
    length = len(tokenizer.labels("ciao", "it")) - 1
    assert set(batch["labels"][0, length:].tolist()) == {IGNORED}
    assert set(batch["decoder_input_ids"][0, length:].tolist()) == {tokenizer.eot}
    assert batch["labels"][0, length - 1] == tokenizer.eot
    assert IGNORED not in batch["labels"][1].tolist()


def test_the_context_is_the_longest_clip_and_a_margin(tokenizer, collator):
    """Every margin occurs, none is exceeded, and nothing is padded to 30 s unasked."""
    seen = set()
    for index in range(40):
        batch = collator()([example(tokenizer, index, 0.5), example(tokenizer, index + 100, 1.0)])
        frames = batch["input_features"].shape[-1]
        assert frames % 2 == 0
        seen.add(frames // 2 - 50)
    assert seen == {0, 10, 25}


def test_a_share_is_padded_to_thirty_seconds(tokenizer, collator):
    """About the share that was asked for takes 1,500 positions."""
    make = collator(full_context_share=0.3)
    full = [make([example(tokenizer, i, 0.2)])["input_features"].shape[-1] == 2 * MAX_POSITIONS for i in range(60)]
    assert 6 <= sum(full) <= 30


def test_evaluation_has_its_own_margin(tokenizer, collator):
    """A fixed margin is neither drawn nor padded to 30 s, whatever the share."""
    make = collator(margins=(0,), full_context_share=1.0)
    batch = make([example(tokenizer, 0, 1.0, margin=17), example(tokenizer, 1, 0.5, margin=17)])
    assert batch["input_features"].shape[-1] == 2 * (50 + 17)


def test_no_context_is_longer_than_thirty_seconds(tokenizer, collator):
    """A clip of 30 s gets no margin: there is no room for one."""
    batch = collator(margins=(100,))([example(tokenizer, 0, 30.0)])
    assert batch["input_features"].shape == (1, 80, 3000)


def test_the_same_examples_get_the_same_margin(tokenizer, collator):
    """A resumed run pads as the interrupted one did, in whatever process the batch is made."""
    examples = [example(tokenizer, i, 0.4) for i in range(3)]
    shapes = {collator()(examples)["input_features"].shape for _ in range(5)}
    assert len(shapes) == 1


def test_features_are_those_of_serving(tokenizer, collator):
    """Audio is padded with silence before the features are made, as the engines do it."""
    one = example(tokenizer, 0, 0.7)
    batch = collator(margins=(10,))([one])
    n_samples = (35 + 10) * SAMPLES_PER_POSITION
    np.testing.assert_array_equal(
        batch["input_features"][0].numpy(), log_mel_spectrogram(pad_or_trim(one["audio"], n_samples))
    )
