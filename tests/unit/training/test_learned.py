"""What a version says that it has learned: known again by whoever compares it, and by nobody else."""

import gzip
import json

import pytest

from registry import Registry
from training.data.manifest import AudioSlice, Utterance
from training.learned import LEARNED, Learned, learned, read_learned, unseen, write_learned


def clip(text, *, name="a", language="it", start=0.0, seconds=3.0):
    """Make a clip of a file, from a second on."""
    audio = AudioSlice(path=f"{name}.wav", offset=start, duration=seconds, sha256=name * 64)
    return Utterance(id=f"{name}{start}", audio=audio, text=text, language=language, source="test", no_speech=not text)


@pytest.fixture
def version(tmp_path):
    """Return a function that publishes a version which has learned some clips, beside what another had."""
    store = Registry(tmp_path / "registry")

    def publish(clips, before=None):
        source = tmp_path / f"source{len(store.models() and store.version_ids('m'))}"
        source.mkdir()
        if clips is not None:
            write_learned(source, learned(clips, None if before is None else read_learned(before)))
        (source / "weights").write_text(source.name)
        return store.publish("m", source, context={})

    return publish


def test_a_sentence_is_known_again_however_it_is_written(version):
    """In its language, whoever says it."""
    made = version([clip("Uno, due!")])
    asked = [clip("uno due", name="b"), clip("uno due", name="b", language="es"), clip("uno", name="c")]
    assert unseen(asked, [made]) == asked[1:]


def test_a_stretch_of_audio_is_known_again_whatever_is_said_to_be_in_it(version):
    """Under another text; what lies beside it in the same recording is not."""
    made = version([clip("uno", start=10.0), clip("due", start=20.0)])
    asked = [clip("sei", start=12.0), clip("sette", start=13.0), clip("otto", start=21.0, seconds=0.5)]
    assert unseen(asked, [made]) == asked[1:2]


def test_a_child_has_what_its_parents_had(version):
    """Over any number of rounds; a version that does not say what it learned leaves nothing out."""
    first = version([clip("uno", name="a")])
    second = version([clip("due", name="b")], first)
    third = version([clip("tre", name="c")], second)
    other = version(None)
    asked = [clip(text, name=name) for text, name in (("uno", "d"), ("due", "e"), ("tre", "f"), ("quattro", "a"))]
    assert unseen(asked, [third]) == []
    assert unseen(asked, [first]) == asked[1:3]
    assert unseen(asked, [other]) == asked
    assert unseen(asked, [other, first]) == asked[1:3]
    assert read_learned(other) is None


def test_silence_is_no_sentence(version):
    """One clip in which nobody speaks does not stand for all others."""
    made = version([clip("", name="a")])
    assert unseen([clip("", name="a"), clip("", name="b")], [made]) == [clip("", name="b")]


def test_sentences_by_other_rules_are_not_compared():
    """Of a parent by an older normaliser the audio is known, and its sentences are not mistaken for others."""
    old = learned([clip("uno", name="a")]).model_copy(update={"normalizer_version": "0"})
    assert old.knows(clip("sei", name="a"))
    assert not old.knows(clip("uno", name="b"))
    child = learned([clip("due", name="b")], old)
    assert child.knows(clip("sei", name="a"))
    assert not child.knows(clip("uno", name="c"))
    assert child.knows(clip("due", name="c"))


def test_what_is_written_tells_no_sentence_and_no_path(version):
    """Digests only, the same bytes for the same clips in any order; it comes back as it was."""
    clips = [clip("parola segreta", name="a"), clip("altra", name="b", start=1.0)]
    content = (version(clips).path / LEARNED).read_bytes()
    assert content == (version(clips[::-1]).path / LEARNED).read_bytes()
    text = gzip.decompress(content).decode()
    assert "segreta" not in text
    assert ".wav" not in text
    assert clips[0].audio.sha256 not in text
    assert Learned.model_validate(json.loads(text)) == learned(clips)
