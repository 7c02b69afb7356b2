"""What a version says that it has learned: known again by whoever compares it, and by nobody else."""

import gzip
import json

import pytest

from registry import Registry
from training.data.manifest import AudioSlice, Utterance
from training.learned import LEARNED, Learned, known_of, learned, read_learned, unseen, write_learned
from training.shell import StepError


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
            write_learned(source, learned(clips, Learned() if before is None else known_of(before)))
        (source / "weights").write_text(source.name)
        return store.publish("m", source, parent=None if before is None else before.ref, context={})

    return publish


def kept(clips, versions):
    """Return what is unseen, beside a clip of each language that nobody can have learned."""
    others = [clip(f"mai detto {language}", name="0", language=language) for language in ("it", "es")]
    return unseen("the test set", [*clips, *others], versions)[: -len(others)]


def test_a_sentence_is_known_again_however_it_is_written(version):
    """In its language, whoever says it."""
    made = version([clip("Uno, due!")])
    asked = [clip("uno due", name="b"), clip("uno due", name="b", language="es"), clip("uno", name="c")]
    assert kept(asked, [made]) == asked[1:]


def test_a_stretch_of_audio_is_known_again_whatever_is_said_to_be_in_it(version):
    """Under another text; what lies beside it in the same recording is not."""
    made = version([clip("uno", start=10.0), clip("due", start=20.0)])
    asked = [clip("sei", start=12.0), clip("sette", start=13.0), clip("otto", start=21.0, seconds=0.5)]
    assert kept(asked, [made]) == asked[1:2]


def test_a_child_has_what_its_parents_had(version):
    """Over any number of rounds; a version that does not say what it learned leaves nothing out."""
    first = version([clip("uno", name="a")])
    second = version([clip("due", name="b")], first)
    third = version([clip("tre", name="c")], second)
    other = version(None)
    asked = [clip(text, name=name) for text, name in (("uno", "d"), ("due", "e"), ("tre", "f"), ("quattro", "a"))]
    assert kept(asked, [third]) == []
    assert kept(asked, [first]) == asked[1:3]
    assert kept(asked, [other]) == asked
    assert kept(asked, [other, first]) == asked[1:3]
    assert read_learned(other) is None


def test_silence_is_no_sentence(version):
    """One clip in which nobody speaks does not stand for all others."""
    made = version([clip("", name="a")])
    assert kept([clip("", name="a"), clip("", name="b")], [made]) == [clip("", name="b")]


def test_sentences_by_other_rules_are_not_compared(version):
    """Of a parent by an older normaliser the audio is known, and its sentences are not mistaken for others."""
    old = learned([clip("uno", name="a")], Learned()).model_copy(update={"normalizer_version": "0"})
    assert old.knows(clip("sei", name="a"))
    assert not old.knows(clip("uno", name="b"))
    child = learned([clip("due", name="b")], old)
    assert child.knows(clip("sei", name="a"))
    assert not child.knows(clip("uno", name="c"))
    assert child.knows(clip("due", name="c"))
    assert not child.is_complete
    published = version([clip("uno", name="a")])
    write_learned(published.path, old)
    assert not known_of(published).is_complete


def test_what_is_written_tells_no_sentence_and_no_path(version):
    """Digests only, the same bytes for the same clips in any order; it comes back as it was."""
    clips = [clip("parola segreta", name="a"), clip("altra", name="b", start=1.0)]
    content = (version(clips).path / LEARNED).read_bytes()
    assert content == (version(clips[::-1]).path / LEARNED).read_bytes()
    text = gzip.decompress(content).decode()
    assert "segreta" not in text
    assert ".wav" not in text
    assert clips[0].audio.sha256 not in text
    assert Learned.model_validate(json.loads(text)) == learned(clips, Learned())


def test_a_language_of_which_nothing_is_left_is_an_error(version):
    """Its silences are not what it is judged by; a language that was never spoken is not missed."""
    made = version([clip("uno", name="a", language="ru")])
    asked = [clip("uno", name="b", language="ru"), clip("", name="c", language="ru"), clip("due", name="d")]
    with pytest.raises(StepError, match="each clip of the guard x in ru was learned by m@"):
        unseen("the guard x", asked, [made])
    assert unseen("the guard x", asked[1:], [made]) == asked[1:]


def test_what_is_not_known_is_told_apart_from_nothing(version):
    """Imported: all is known. Trained here before versions said so, or fetched without the file: not all, for good."""
    imported = version(None)
    silent = version(None, imported)
    assert known_of(imported).is_complete
    assert not known_of(silent).is_complete
    assert not known_of(version([clip("uno")], silent)).is_complete
    assert known_of(version([clip("uno")], imported)).is_complete
