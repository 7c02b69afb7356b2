"""The gate on the real model: a worse one is refused each time, and the measuring of a real one is sane."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from registry import Registry
from speech.convert import export_ctranslate2
from training.contest import PAGE, TestSet, hold, keep, promote
from training.guards import letters_a_minute, make_sounds, recordings, transcribe_long, transcribe_sound
from training.measure import load
from training.rules import Rules
from training.shell import Shell

SEEDS = range(10)
NOISE = 0.25  # of each feed-forward array's own standard deviation: words become wrong, and not all of them


@pytest.fixture(scope="module")
def clips(italian):
    """Return twelve short Italian clips."""
    return [u for u in italian if 1.5 <= u.audio.duration <= 3][:12]


@pytest.fixture(scope="module")
def published(base, tmp_path_factory):
    """Return a registry whose production is whisper-base, and the function that publishes a noised one."""
    root = tmp_path_factory.mktemp("gate")
    store = Registry(root / "registry")
    arrays = load_file(base.path / "model.safetensors")

    def publish(name, seed, noise):
        staged = root / f"{name}-{seed}"
        shutil.copytree(
            base.path, staged, ignore=shutil.ignore_patterns("ctranslate2", "*.safetensors", "manifest.json")
        )
        generator = np.random.default_rng(seed)
        noised = {
            key: (a + noise * a.std() * generator.standard_normal(a.shape) if ".fc" in key else a).astype(np.float32)
            for key, a in arrays.items()
        }
        save_file(noised, staged / "model.safetensors")
        export_ctranslate2(staged, staged / "ctranslate2")
        version = store.publish("m", staged, context={"elastic": False, "margin": 0})
        shutil.rmtree(staged)
        return version

    good = publish("good", 0, 0.0)
    store.move_alias("m", "production", good.id, expected=None, reason="first")
    return store, good, publish


def contest(candidate, against, clips, cache):
    """Hold a contest on the clips."""
    shell = Shell()
    data = TestSet(clips, Path(), {}, [])
    settings = {"cache": cache, "seed": 1, "rules": Rules(), "say": shell.say, "progress": shell.progress}
    return hold(candidate, against, None, data, **settings), data


@pytest.mark.full
def test_a_noised_candidate_is_refused_ten_times_of_ten(published, clips, tmp_path):
    """Whisper-base with noise on its weights, ten different ones, is refused each time, and production stays."""
    store, good, publish = published
    decisions = []
    for seed in SEEDS:
        noised = publish("noised", seed + 1, NOISE)
        held, data = contest(noised, good, clips, tmp_path)
        keep(held, store, data, tmp_path / str(seed))
        decisions.append(held.verdict.decision)
        with pytest.raises(ValueError, match="did not let it through"):
            promote(held, store, "none")
        shutil.rmtree(noised.path)  # 300 MB each
    assert decisions == ["refuse"] * len(SEEDS)
    assert store.alias("m", "production").version == good.id
    assert (tmp_path / "0" / PAGE).read_text(encoding="utf-8").count("<audio") == len(clips)


def test_a_version_is_not_better_than_itself(published, clips, tmp_path):
    """The same weights published again are refused: no gain is ruled out to the last word."""
    _, good, _ = published
    held, _ = contest(good, good, clips, tmp_path)
    assert held.verdict.decision == "refuse"
    assert held.verdict.comparisons["it"].difference.value == 0
    assert held.verdict.comparisons["it"].matched_pairs.p == 1


def test_failure_8_a_long_recording_is_heard_in_whole(base, italian):
    """Failure 8 of research, truncated long-form: of 40 s in a row, each clip is heard, at its own time."""
    engine = load(base)
    recording = next(recordings([u for u in italian if 2 <= u.audio.duration <= 6], Path(), seed=1, seconds=40))
    measured = transcribe_long(engine, recording)
    assert (measured.disordered, measured.outside) == (0, 0)
    assert sum(p.errors for p in measured.parts) <= 0.4 * sum(p.reference for p in measured.parts)
    edges = [e for p in measured.parts for e in (p.start_error_s, p.end_error_s) if e is not None]
    assert len(edges) > len(measured.parts) / 2
    assert np.median(edges) < 0.3
    assert measured.parts[-1].errors < measured.parts[-1].reference


def test_failure_9_nothing_is_made_of_silence_and_noise(base):
    """Failure 9 of research, hallucination: the base, as it is served, makes nothing of what is no speech."""
    engine = load(base)
    sounds = make_sounds(1)
    heard = [transcribe_sound(engine, name, sounds[name], "it") for name in ("silence", "white noise", "dialling")]
    assert letters_a_minute(heard, detector=True) == 0
