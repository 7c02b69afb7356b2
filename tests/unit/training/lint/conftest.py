"""Utterances made up for lint: nothing of them exists but what a test says."""

import hashlib
import math

import numpy as np
import pytest

from registry import Registry
from training.data.manifest import AudioSlice, Utterance
from training.lint.listen import Heard

WORDS = [
    "casa",
    "porta",
    "numero",
    "cliente",
    "ufficio",
    "telefono",
    "giorno",
    "sera",
    "lettera",
    "messaggio",
    "nome",
    "parola",
    "tempo",
    "strada",
    "treno",
    "scuola",
    "libro",
    "tavolo",
    "finestra",
    "cortile",
    "fiume",
    "montagna",
    "viaggio",
    "amico",
]


def make_utterance(name, text, **given):
    """Return an utterance with a file, a speaker and a licence of its own, unless told otherwise."""
    audio = {
        "path": f"{name}.wav",
        "duration": 0.1 + len(text) / 12,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        **given.pop("audio", {}),
    }
    return Utterance(
        **{
            "id": name,
            "text": text,
            "language": "it",
            "speaker": f"speaker of {name}",
            "split": "train",
            "source": "test",
            "licence": "CC0-1.0",
            "audio": AudioSlice(**audio),
            **given,
        }
    )


def make_clips(n, language="it", **given):
    """Return `n` different, well-written utterances, every fourth in dev, every fourth in test."""
    splits = ("train", "dev", "train", "test")
    return [
        make_utterance(
            f"{language}{i}",
            f"{' '.join(np.random.default_rng(i).choice(WORDS, 6, replace=False)).capitalize()}.",
            **{"language": language, "split": splits[i % 4], **given},
        )
        for i in range(n)
    ]


@pytest.fixture
def utterance():
    """Return the function that makes one utterance."""
    return make_utterance


@pytest.fixture
def clips():
    """Return the function that makes many utterances."""
    return make_clips


@pytest.fixture
def heard():
    """Return the function that makes what the base heard, with a probability a token."""

    def make(text, probability=0.8):
        return Heard(key="unused", text=text, avg_logprob=math.log(probability), no_speech_prob=0.0)

    return make


@pytest.fixture(scope="session")
def tiny_registry(tiny, tmp_path_factory):
    """Return a registry with the tests' Whisper of random weights as `tiny@production`: fast, and it hears nonsense."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    version = registry.publish("tiny", tiny.checkpoint, context={"elastic": True, "margin": 8})
    registry.move_alias("tiny", "production", version.id, expected=None, reason="test")
    return registry


@pytest.fixture(scope="session")
def tiny_version(tiny_registry):
    """Return that version."""
    return tiny_registry.resolve("tiny@production")
