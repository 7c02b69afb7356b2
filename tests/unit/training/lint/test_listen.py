"""Listening once: the cache, on a model of random weights whose calls are counted."""

import pytest

from training.lint import listen as module
from training.lint.lint import no_progress
from training.lint.listen import audio_key, choose, listen


@pytest.fixture
def decoded(monkeypatch):
    """Return the list of how many clips each call of the decoder got."""
    calls = []
    original = module.transcribe_many

    def counted(engine, audios, options):
        calls.append(len(audios))
        return original(engine, audios, options)

    monkeypatch.setattr(module, "transcribe_many", counted)
    return calls


@pytest.fixture
def spoken(noise_clips):
    """Return the noise clips with a key each, and their folder."""
    clips, folder = noise_clips
    return [
        u.model_copy(update={"audio": u.audio.model_copy(update={"sha256": f"{int(u.id):064x}"})}) for u in clips
    ], folder


def test_nothing_is_listened_to_twice(tiny_version, decoded, spoken, tmp_path):
    """A second lint, with other transcripts and in another order, decodes nothing and gets the same answers."""
    clips, folder = spoken
    first = listen(tiny_version, clips, folder, tmp_path, no_progress)
    assert sum(decoded) == 12
    corrected = [u.model_copy(update={"text": "altro"}) for u in reversed(clips)]
    assert listen(tiny_version, corrected, folder, tmp_path, no_progress) == first
    assert sum(decoded) == 12


def test_an_interrupted_lint_goes_on(tiny_version, decoded, spoken, tmp_path, monkeypatch):
    """What was heard before Ctrl-C, or before a crash tore the last line, is not heard again."""
    clips, folder = spoken
    monkeypatch.setattr(module, "CLIPS_AT_ONCE", 4)
    counted = module.transcribe_many

    def interrupted(*arguments):
        if len(decoded) == 2:
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as until:
        until.setattr(module, "transcribe_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            listen(tiny_version, clips, folder, tmp_path, no_progress)
    (cache,) = tmp_path.iterdir()
    assert len(cache.read_bytes().splitlines()) == 8
    cache.write_bytes(cache.read_bytes()[:-10])
    heard = listen(tiny_version, clips, folder, tmp_path, no_progress)
    assert decoded == [4, 4, 4, 1]
    assert set(heard) == {u.id for u in clips}
    assert len({one.key for one in heard.values()}) == 12


def test_another_stretch_or_language_is_another_clip(utterance):
    """The key is what the answer depends on, and the transcript is not."""
    clip = utterance("a", "Uno.")
    others = [
        utterance("a", "Uno.", language="ru"),
        utterance("a", "Uno.", audio={"offset": 1.0}),
        utterance("a", "Uno.", audio={"duration": 1.0}),
        utterance("b", "Uno."),
    ]
    assert len({audio_key(u) for u in [clip, *others]}) == 5
    assert audio_key(clip.model_copy(update={"text": "Due."})) == audio_key(clip)


def test_held_out_clips_are_listened_to_first(clips):
    """With little time, what the gate judges by is checked; the choice is the same in any order."""
    data = clips(40)
    chosen = choose(data, 25)
    assert len(chosen) == 25
    assert {u.id for u in data if u.split != "train"} <= {u.id for u in chosen}
    assert {u.id for u in choose(data[::-1], 25)} == {u.id for u in chosen}
