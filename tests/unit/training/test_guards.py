"""What is measured beside the test clips: recordings stitched, sounds made, times and languages looked at."""

import wave

import numpy as np
import pytest

import training.guards
from speech.audio import SAMPLE_RATE
from speech.engine import DecodingResult, Word
from training.data.manifest import AudioSlice, Utterance
from training.guards import (
    DETECTION_CLIPS,
    FLOOR,
    MAX_EDGE_ERROR_S,
    SOUND_S,
    Measured,
    Sound,
    count_disordered,
    edge_errors,
    has_timestamps,
    letters_a_minute,
    make_sounds,
    measure_beside,
    recordings,
    steps,
    trim,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Return twelve clips, each three seconds of a tone between half a second of silence before and a second after."""
    folder = tmp_path_factory.mktemp("tones")
    utterances = []
    for i in range(12):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 20 * i) * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE)
        samples = np.concatenate([np.zeros(SAMPLE_RATE // 2), tone, np.zeros(SAMPLE_RATE)])
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        audio = AudioSlice(path=f"{i}.wav", duration=4.5, sha256=f"{i:064x}")
        utterances.append(Utterance(id=str(i), audio=audio, text=f"tono numero {i}", language="it", source="test"))
    return utterances, folder


def test_a_stitched_recording_knows_where_its_clips_are(clips):
    """Where a clip is said to be is its tone, to 20 ms, and beside it is the noise of a quiet room."""
    (recording,) = recordings(*clips, seed=1)
    assert recording.seconds > 12 * 3.4
    assert len(recording.clips) == len(recording.places) == 12
    for start, end in recording.places:
        assert end - start == pytest.approx(3.0, abs=0.021)
        inside = recording.audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        before = recording.audio[round((start - 0.3) * SAMPLE_RATE) : round(start * SAMPLE_RATE)]
        assert np.sqrt((inside**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.02)
        assert np.sqrt((before**2).mean()) == pytest.approx(FLOOR, rel=0.1)


def test_a_recording_can_be_stitched_again(clips):
    """The same seed gives the same samples and order, whatever order the clips arrive in; another seed another."""
    utterances, folder = clips
    orders = (utterances, 1), (utterances[::-1], 1), (utterances, 2)
    one, other, another = (next(recordings(clips, folder, seed=seed)) for clips, seed in orders)
    assert np.array_equal(one.audio, other.audio)
    assert [c.id for c in one.clips] != [c.id for c in another.clips]


def test_a_recording_is_as_long_as_wanted_or_is_none(clips):
    """It ends with the clip that reaches the length; what fits into one window says nothing, and is not made."""
    utterances, folder = clips
    (recording,) = recordings(utterances, folder, seed=1, seconds=31)
    assert 31 <= recording.seconds < 31 + 3 + 1.6
    assert list(recordings(utterances[:5], folder, seed=1)) == []


def test_more_clips_make_more_recordings(clips, monkeypatch):
    """Each clip in one of them, and none that is shorter than the first; or more data could not decide what is open."""
    utterances, folder = clips
    made = list(recordings(utterances, folder, seed=1, seconds=15))
    assert len(made) == 3
    assert all(15 <= one.seconds < 15 + 3 + 1.6 for one in made)
    heard = [clip.id for one in made for clip in one.clips]
    assert len(heard) == len(set(heard))
    monkeypatch.setattr(training.guards, "MAX_RECORDINGS", 2)
    assert [one.clips for one in recordings(utterances, folder, seed=1, seconds=15)] == [one.clips for one in made[:2]]


def test_silent_clips_are_not_trimmed_to_nothing():
    """Silence has no loud parts to begin at: it stays as it is."""
    assert trim(np.zeros(1000, np.float32)).size == 1000


def word(text, start, end):
    """Return a word with its times."""
    return Word(start=start, end=end, word=f" {text}", probability=1.0, tokens=(1,))


def test_times_are_compared_at_the_cuts():
    """A clip's first word tells where it begins and its last where it ends; an unheard one tells nothing."""
    parts = [["uno", "due"], ["l", "ultimo"], ["tre", "quattro"]]
    places = [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)]
    timed = [
        word("Uno,", 1.1, 1.5),
        word("due.", 1.5, 1.8),
        word("L'ultimo", 3.0, 3.95),
        word("sei", 5.0, 5.4),
        word("quattro", 8.0, 9.0),
    ]
    edges = edge_errors(parts, places, timed)
    assert edges[0] == pytest.approx((0.1, 0.2))
    assert edges[1] == pytest.approx((0.0, 0.05))
    assert edges[2] == (None, MAX_EDGE_ERROR_S)
    assert edge_errors(parts, places, []) == [(None, None)] * 3


def test_failure_7_times_must_rise():
    """Failure 7 of research: words that end before they begin, or begin before the one before, are counted."""
    good = [word("a", 0.0, 0.5), word("b", 0.5, 0.5), word("c", 0.5, 1.0)]
    assert count_disordered(good) == 0
    assert count_disordered([*good, word("d", 0.9, 1.2), word("e", 1.0, 0.9)]) == 1
    assert count_disordered([word("a", 2.0, 2.5), word("b", 1.0, 1.5)]) == 1


@pytest.mark.parametrize(
    ("times", "good"),
    [
        ((0.0, 2.0), True),
        ((0.0, 1.0, 1.0, 2.4), True),
        ((0.0,), False),
        ((), False),
        ((1.0, 0.5), False),
        ((0.0, 9.0), False),
    ],
)
def test_failure_7_timestamp_tokens_are_there_and_in_order(times, good):
    """Failure 7 of research: asked for timestamps, a model gives a begin and an end, which rise, within the clip."""
    begin = 50364
    tokens = tuple(token for time in times for token in (begin + round(time / 0.02), 7))
    answer = DecodingResult("", tokens, "it", 1.0, -0.1, 0.0, 1.0, 1500)
    assert has_timestamps(answer, begin, seconds=2.0) is good


def test_sounds_are_no_speech_and_the_same_each_time():
    """Ten seconds each, from silence to loud, none clipped beyond full scale; the same seed, the same samples."""
    made = make_sounds(7)
    assert {"silence", "white noise", "busy tone"} <= set(made)
    assert all(sound.size == SOUND_S * SAMPLE_RATE and np.abs(sound).max() <= 1 for sound in made.values())
    assert not made["silence"].any()
    assert all(np.array_equal(sound, make_sounds(7)[name]) for name, sound in made.items())
    assert not np.array_equal(made["white noise"], make_sounds(8)["white noise"])


def test_letters_are_counted_by_the_minute():
    """Six letters in twenty seconds are 18 a minute; punctuation, as of a row of dots, is none."""
    sounds = [
        Sound(name="a", seconds=10, served="", undetected="Grazie!"),
        Sound(name="b", seconds=10, served="…", undetected="…"),
    ]
    assert letters_a_minute(sounds, detector=False) == pytest.approx(18)
    assert letters_a_minute(sounds, detector=True) == 0


def test_everything_is_measured_through_the_engine(speech, steady):
    """Each part is there and true of an engine that hears the same everywhere; each step is told; JSON keeps it all."""
    utterances, folder = speech
    engine = steady("tono numero", "ru")
    guards = {"other": utterances[:2]}
    done = []
    measured = measure_beside(engine, utterances, guards, folder, 1, done.append)
    assert sum(done) == steps(utterances, guards)
    (recording,) = measured.long_form
    assert [part.reference for part in recording.parts] == [3] * len(utterances)
    assert sum(part.errors for part in recording.parts) >= len(utterances)
    assert (recording.disordered, recording.outside) == (0, 0)
    assert recording.n_words % 2 == 0 < recording.n_words
    assert [h.hypothesis for h in measured.guards["other"]] == ["tono numero"] * 2
    assert {(d.detected, d.timestamps) for d in measured.detections} == {("ru", True)}
    assert len(measured.detections) == DETECTION_CLIPS
    said = {sound.name: (sound.served, sound.undetected) for sound in measured.sounds}
    assert list(said) == list(make_sounds(1))
    assert said["silence"] == ("", "")  # what is silent is no window at all
    assert said["white noise"] == ("", "tono numero")  # and noise none where a detector listens
    assert measured.speed > 0
    assert Measured.model_validate_json(measured.model_dump_json()) == measured


def test_long_recordings_are_judged_as_clips_are(speech, steady, japanese_tokenizer):
    """In a language without blanks by characters, of which a comma is none."""
    utterances, folder = speech
    japanese = [one.model_copy(update={"language": "ja", "text": "今日は、雨。"}) for one in utterances]
    (recording,) = measure_beside(steady("今日は雨", "ja", japanese_tokenizer), japanese, {}, folder, 1).long_form
    assert [part.reference for part in recording.parts] == [4] * len(japanese)


def test_what_is_measured_is_what_is_served(speech, steady):
    """Test clips and recordings are decoded greedily, in their language, with the voice detector, as by default."""
    utterances, folder = speech
    engine = steady("tono")
    measure_beside(engine, utterances, {"other": utterances}, folder, 1)
    served = [w for w in engine.windows if w.options.without_timestamps]
    assert {w.language for w in served} == {"it"}
    assert {(w.options.beam_size, w.options.temperature) for w in served} == {(1, 0.0)}
