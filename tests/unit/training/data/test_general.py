"""Replay and guards: who is rehearsed, who is watched."""

import pytest

from training.data.general import divide, with_texts
from training.data.manifest import AudioSlice, Segment, Utterance


def clip(number, text=None, language="en", split=None):
    """Return an utterance."""
    audio = AudioSlice(path=f"{number}.wav", duration=1.0, sha256="0" * 64)
    text = f"sentence {number}" if text is None else text
    return Utterance(id=str(number), audio=audio, text=text, language=language, source="test", split=split)


CLIPS = [clip(number) for number in range(200)]


def ids(clips):
    """Return who they are."""
    return {one.id for one in clips}


def test_what_is_both_is_halved():
    """Clips named as replay and as guards go to one of the two, about half each, and none is lost."""
    replay, guards = divide(CLIPS, CLIPS, [], seed=1)
    assert not ids(replay) & ids(guards)
    assert ids(replay) | ids(guards) == ids(CLIPS)
    assert 70 < len(replay) < 130
    assert {one.split for one in replay} == {"train"}
    assert 30 < sum(one.split == "dev" for one in guards) < 70
    assert {one.split for one in guards} == {"dev", "test"}


def test_the_halves_do_not_depend_on_order():
    """The same data gives the same halves; another seed gives others."""
    assert divide(CLIPS[::-1], CLIPS, [], seed=1) == divide(CLIPS, CLIPS[::-1], [], seed=1)
    assert ids(divide(CLIPS, CLIPS, [], seed=2)[0]) != ids(divide(CLIPS, CLIPS, [], seed=1)[0])


def test_what_is_only_one_is_whole():
    """Sources that are only replay, or only guards, are taken whole."""
    replay, guards = divide(CLIPS[:50], CLIPS[50:], [], seed=1)
    assert ids(replay) == ids(CLIPS[:50])
    assert ids(guards) == ids(CLIPS[50:])


def test_a_sentence_is_on_one_side():
    """Two clips of one sentence are both rehearsed or both watched, and both in dev or both in test."""
    twins = [*CLIPS, *(clip(f"{number}b", f"Sentence {number}!") for number in range(200))]
    replay, guards = divide(twins, twins, [], seed=1)
    places = {one.id: one.split for one in (*replay, *guards)}
    assert all(places[str(number)] == places[f"{number}b"] for number in range(200))


def test_what_is_held_out_is_not_rehearsed():
    """Replay of a sentence that a guard or the run's own dev and test hold is left out; another language's is not."""
    replay, _ = divide(
        [clip(0), clip(1), clip(2), clip(3)],
        [clip("a", "Sentence 0")],
        [clip("b", "sentence 1."), clip("c", "sentence 2", "it")],
        seed=1,
    )
    assert ids(replay) == {"2", "3"}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_given_splits_are_kept(split):
    """A clip that its source gives to dev or test is watched there, and not rehearsed."""
    given = [clip(number, split=split) for number in range(10)]
    replay, guards = divide(given, given, [], seed=1)
    assert replay == []
    assert {one.split for one in guards} == {split}
    assert len(guards) == 10


def test_other_texts_take_the_place_of_ones_own():
    """What the base heard is learned instead of what was written, without its times; silence is not."""
    timed = clip(0).model_copy(update={"segments": (Segment(start=0, end=1, text="sentence 0"),)})
    (heard,) = with_texts([timed, clip(1)], {"0": " Sentence zero. ", "1": " "})
    assert (heard.text, heard.segments) == ("Sentence zero.", None)


def test_silences_are_no_sentence():
    """One that is held out leaves the others to be rehearsed, and of those that are both, about half each is."""
    silences = [
        clip(f"s{i}", "speech").model_copy(update={"text": "", "no_speech": True, "audio": sound(i)}) for i in range(60)
    ]
    held_out = silences[0].model_copy(update={"id": "held out", "audio": sound(1000)})
    replay, guards = divide(silences, silences, [held_out], seed=1)
    assert ids(replay) | ids(guards) == ids(silences)
    assert 15 < len(replay) < 45


def sound(number):
    """Return the whole of a file of its own."""
    return AudioSlice(path=f"{number}.wav", duration=1.0, sha256=f"{number:064x}")
