"""Which clips `evaluate` and `gate` measure on."""

from datetime import UTC, datetime

import pytest

from registry import Manifest, Version
from training.config import ConfigError
from training.data.manifest import AudioSlice, Utterance, fingerprint, load_audio, read_manifest, write_manifest
from training.testset import guards_of, read_clips, read_guard


@pytest.fixture
def version(tiny):
    """Return the tiny model as a version: its tokenizer knows en, it and ru."""
    about = {"created_at": datetime.now(UTC), "parent": None, "base": None, "context": {}, "normalizer_version": None}
    return Version("m", "v", tiny.checkpoint, Manifest(name="m", version="v", files={}, **about))


def clip(name, split=None, language="it"):
    """Return an utterance whose audio nobody opens."""
    audio = AudioSlice(path=f"{name}.wav", duration=1, sha256="0" * 64)
    return Utterance(id=name, audio=audio, text=f"testo {name}", language=language, split=split, source="test")


@pytest.fixture
def read(version, tmp_path):
    """Return the function that writes a manifest and reads clips from it."""

    def make(clips, **settings):
        write_manifest(tmp_path / "clips.jsonl", clips)
        wanted = {"config": None, "folder": None, "manifest": tmp_path / "clips.jsonl", "language": None}
        return read_clips(version, **{**wanted, "split": "test", "cache": tmp_path, **settings})

    return make


SPLIT = [clip("a", "train"), clip("b", "dev"), clip("c", "test"), clip("d", "test", "ru")]


def ids(utterances):
    """Return the utterances' names."""
    return [u.id for u in utterances]


@pytest.mark.parametrize(("split", "expected"), [("test", "cd"), ("dev", "b"), ("all", "abcd")])
def test_the_split_that_was_asked_for_is_taken(read, split, expected):
    """Test for judging, dev for choosing, all only if somebody says so; what was trained on is known beside."""
    found = read(SPLIT, split=split)
    assert ids(found.chosen) == list(expected)
    assert ids(found.train) == ["a"]
    assert found.fingerprint == fingerprint(SPLIT)


def test_a_manifest_without_splits_is_taken_whole(read):
    """Clips that nobody has split are all there to judge by; what was trained on is then not known."""
    found = read([clip("a"), clip("b")])
    assert (ids(found.chosen), found.train) == (["a", "b"], None)


def test_one_language_can_be_taken(read):
    """By code or by name; one without clips, and one that no model knows, are errors that say so."""
    assert ids(read(SPLIT, language="ru").chosen) == ["d"]
    with pytest.raises(ConfigError, match="no test clip in en"):
        read(SPLIT, language="en")
    with pytest.raises(ConfigError, match="xx"):
        read(SPLIT, language="xx")
    with pytest.raises(ConfigError, match="knows no language 'de'"):
        read([clip("a", language="de")])


def test_exactly_one_source(read, tmp_path):
    """None, or two, of recipe, folder and manifest are an error."""
    for settings in ({"manifest": None}, {"folder": tmp_path}):
        with pytest.raises(ConfigError, match="give exactly one of"):
            read(SPLIT, **settings)


def test_a_guard_is_read_with_its_own_audio(noise_clips, tmp_path):
    """A guard's paths are its manifest's; of one with splits, the test split is taken."""
    clips, folder = noise_clips
    audio = [u.audio.model_copy(update={"path": str(folder / u.audio.path)}) for u in clips]
    placed = [u.model_copy(update={"audio": a, "split": "test"}) for u, a in zip(clips, audio, strict=True)]
    write_manifest(tmp_path / "guard.jsonl", [*placed[:2], placed[2].model_copy(update={"split": "train"})])
    guard = read_guard(tmp_path / "guard.jsonl")
    assert ids(guard) == ["0", "1"]
    assert load_audio(guard[0], tmp_path / "elsewhere").size > 0
    assert len(read_manifest(tmp_path / "guard.jsonl")) == 3


def test_a_recipes_guards_are_judged_on_their_test_split():
    """Their dev split was chosen by, and judges nothing."""
    guards = guards_of([clip("a", "dev", "en"), clip("b", "test", "en"), clip("c", "test", "ru")])
    assert {language: ids(of) for language, of in guards.items()} == {"en": ["b"], "ru": ["c"]}
