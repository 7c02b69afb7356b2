"""The promises of transcribing audio of any length: nothing lost, nothing cut in a word, silence left out."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech.context import MAX_POSITIONS, ElasticContext
from speech.engine import DecodingResult, EngineError, Window
from speech.features import N_SAMPLES
from speech.tokens import UnknownLanguageError
from speech.transcribe import (
    FRAME,
    KEPT,
    SILENCE,
    Slice,
    assemble,
    at_full_context,
    cut,
    is_silent,
    looks_wrong,
    transcribe,
    transcribe_many,
    windows,
)

RATE = 16_000


def tone(seconds, level=0.3):
    """Make something that is loud throughout."""
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def with_pauses(seconds, *pauses):
    """Make a tone with silences, given as (start, end) in seconds."""
    audio = tone(seconds)
    for start, end in pauses:
        audio[round(start * RATE) : round(end * RATE)] = 0
    return audio


def result(text="ciao", **changes):
    """Make what an engine says of a window."""
    said = DecodingResult(
        text=text,
        tokens=(1, 2),
        language="it",
        language_probability=1.0,
        avg_logprob=-0.2,
        no_speech_prob=0.01,
        compression_ratio=1.1,
        positions=64,
    )
    return dataclasses.replace(said, **changes)


class ScriptedEngine:
    """Answers with what it was told to, and remembers what it was asked."""

    description = "a script"
    context = ElasticContext()

    def __init__(self, tokenizer, answers):
        self.tokenizer = tokenizer
        self.answers = answers
        self.asked = []

    def transcribe(self, windows, options=None):
        """Return the next answers."""
        assert options is None
        self.asked += windows
        now, self.answers = self.answers[: len(windows)], self.answers[len(windows) :]
        return now


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 100 * RATE), st.integers(0, 2**32))
def test_slices_cover_every_sample_once(n_samples, seed):
    """The slices follow each other without gap or overlap, and none is longer than 30 s."""
    generator = np.random.default_rng(seed)
    envelope = np.repeat(generator.random(n_samples // RATE + 1) < 0.7, RATE)[:n_samples]
    slices = cut((0.1 * envelope * generator.random(n_samples)).astype(np.float32))
    assert slices[0].start == 0
    assert slices[-1].end == n_samples
    assert [s.end for s in slices[:-1]] == [s.start for s in slices[1:]]
    assert all(0 < s.end - s.start <= N_SAMPLES for s in slices)


def test_no_audio_has_no_slices():
    """Nothing is cut into nothing."""
    assert cut(np.zeros(0, np.float32)) == cut(np.zeros(0, np.float32), elastic=True) == []


@pytest.mark.parametrize("n_samples", [1, 100, N_SAMPLES])
def test_what_fits_is_one_slice(n_samples):
    """Up to 30 s nothing is cut."""
    assert cut(tone(31)[:n_samples])[0].end == n_samples


def test_a_sample_more_makes_two_slices():
    """Whisper's window is never exceeded."""
    assert len(cut(tone(31)[: N_SAMPLES + 1])) == 2


@pytest.mark.parametrize("pause", [24.5, 26.0, 28.0, 29.5])
def test_it_cuts_in_the_pause(pause):
    """The quiet place of the last six seconds is found, wherever it lies."""
    first, second = cut(with_pauses(40, (pause, pause + 0.2)))
    assert pause < first.end / RATE < pause + 0.2
    assert second.end == 40 * RATE


def test_it_cuts_between_words_not_inside():
    """A gap of one frame inside a word is shorter than the pause between two words."""
    gaps = [(25.0, 25.02), (27.0, 27.2), (28.5, 28.52)]
    first, _ = cut(with_pauses(40, *gaps))
    assert 27.0 < first.end / RATE < 27.2


@pytest.mark.parametrize("level", [0.5, 0.7, 0.9])
def test_it_cuts_where_the_voice_only_drops(level):
    """Without any pause the quietest quarter of a second is taken, and not the window's own edge."""
    audio = tone(40)
    audio[27 * RATE : round(27.25 * RATE)] *= level
    first, _ = cut(audio)
    assert 27.0 < first.end / RATE < 27.25


def test_every_slice_of_long_audio_ends_in_a_pause():
    """The next window begins where the last one ended, and looks for its own pause."""
    pauses = [(t, t + 0.3) for t in (10.0, 27.0, 40.0, 54.0, 70.0, 81.5)]
    ends = [s.end / RATE for s in cut(with_pauses(100, *pauses))]
    assert ends[-1] == 100
    assert all(any(start < end < stop for start, stop in pauses) for end in ends[:-1])
    assert len(ends) == 4


def test_silence_is_told_from_quiet_speech():
    """Below -60 dBFS nobody speaks; the quietest recordings reach -45."""
    rms_of_a_tone = np.sqrt(2)
    assert is_silent(np.zeros(RATE, np.float32))
    assert is_silent(tone(1, rms_of_a_tone * 10 ** (-62 / 20)))
    assert not is_silent(tone(1, rms_of_a_tone * 10 ** (-58 / 20)))
    assert not is_silent(tone(1, rms_of_a_tone * 10 ** (-45 / 20)))


def test_twenty_loud_milliseconds_are_no_silence():
    """The loudest frame decides, not the mean."""
    audio = np.zeros(20 * RATE, np.float32)
    audio[7 * FRAME : 8 * FRAME] = 0.1
    assert not is_silent(audio)


def test_silent_slices_are_marked_and_not_windows():
    """Of speech, 40 s of silence and speech, the silent window is not decoded."""
    audio = np.concatenate([tone(29.9), np.zeros(40 * RATE, np.float32), tone(5)])
    slices = cut(audio)
    assert any(s.silent for s in slices)
    to_decode = windows(audio, slices, "it", "translate")
    assert [window is None for window in to_decode] == [s.silent for s in slices]
    for window, place in zip(to_decode, slices, strict=True):
        if window is not None:
            assert np.array_equal(window.audio, audio[place.start : place.end])
            assert (window.language, window.task) == ("it", "translate")


LEVELS = {"loud": 0.3, "low": 0.003, "hiss": 0.0005, "silent": 0.0}  # -10, -50 and -66 dBFS, and nothing


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(LEVELS)), st.integers(1, 40 * RATE)), min_size=1, max_size=8),
    st.integers(0, 2**32),
)
def test_elastic_slices_cover_every_sample_once(stretches, seed):
    """Whatever is loud, low or silent for however long: no gap, no overlap, nothing over 30 s or loud left out."""
    generator = np.random.default_rng(seed)
    audio = np.concatenate([generator.normal(0, LEVELS[kind], size) for kind, size in stretches]).astype(np.float32)
    slices = cut(audio, elastic=True)
    assert slices[0].start == 0
    assert slices[-1].end == audio.size
    assert [s.end for s in slices[:-1]] == [s.start for s in slices[1:]]
    assert all(0 < s.end - s.start <= N_SAMPLES for s in slices)
    assert all(is_silent(audio[s.start : s.end]) == s.silent for s in slices)


def test_a_window_ends_in_the_first_pause_after_ten_seconds():
    """Where short windows are cheap, the middle of the first pause that ends enough speech is the place."""
    pauses = [(4.0, 4.4), (9.0, 9.4), (12.0, 12.4), (14.0, 14.4), (23.0, 23.4), (31.0, 31.4)]
    ends = [s.end / RATE for s in cut(with_pauses(36, *pauses), elastic=True)]
    assert ends == pytest.approx([12.2, 23.2, 36], abs=FRAME / RATE)


@pytest.mark.parametrize(("begin", "cuts"), [(9.7, [40]), (9.9, [10.1, 40])])
def test_ten_seconds_are_counted_to_the_middle_of_the_pause(begin, cuts):
    """A pause counts from its middle, for the window that ends there is that long."""
    audio = with_pauses(40, (begin, begin + 0.4))
    ends = [s.end / RATE for s in cut(audio, elastic=True)]
    assert [end for end in ends if end < 15 or end == 40] == pytest.approx(cuts, abs=FRAME / RATE)


def test_a_gap_inside_a_word_is_no_pause():
    """Less than 200 ms of quiet may be a consonant: the window goes on to the pause."""
    (first, *_) = cut(with_pauses(25, (11.0, 11.14), (15.0, 15.3)), elastic=True)
    assert first.end / RATE == pytest.approx(15.15, abs=FRAME / RATE)


def test_a_pause_is_quiet_beside_what_is_loud():
    """In a noisy room, a pause is what is 34 dB below the voice, though it is far from silence."""
    audio = tone(20, 0.5)
    audio[11 * RATE : round(11.4 * RATE)] = tone(0.4, 0.5 * 10 ** (-36 / 20))
    first, second = cut(audio, elastic=True)
    assert first.end / RATE == pytest.approx(11.2, abs=FRAME / RATE)
    assert not first.silent
    assert not second.silent


@pytest.mark.parametrize("at", [3.0, 9.0])
def test_a_short_clip_stays_whole(at):
    """A pause inside a clip is the model's business, however silent it is."""
    audio = with_pauses(12, (at, at + 0.9))
    assert cut(audio, elastic=True) == [Slice(0, audio.size, silent=False)]


def test_the_pause_at_the_end_ends_no_window():
    """What comes after the last word is too short to be decoded for itself."""
    audio = with_pauses(12, (11.4, 12))
    assert cut(audio, elastic=True) == [Slice(0, audio.size, silent=False)]


def test_without_a_pause_a_window_is_as_long_as_can_be():
    """Who speaks without taking breath is cut where any window is: in the last six seconds of thirty."""
    audio = tone(50)
    audio[27 * RATE : round(27.15 * RATE)] *= 0.5
    assert [(s.start, s.end) for s in cut(audio, elastic=True)] == [(s.start, s.end) for s in cut(audio)]


@pytest.mark.parametrize("level", [0.0, 10 ** (-62 / 20)])
def test_long_silence_is_a_slice_of_its_own(level):
    """At the beginning, between windows and at the end, silence is left out, but for 0.3 s beside what is said."""
    audio = tone(45, level * np.sqrt(2))
    for start, end in ((5, 17), (22, 40)):
        audio[start * RATE : end * RATE] = tone(end - start)
    slices = cut(audio, elastic=True)
    assert [(s.start / RATE, s.end / RATE, s.silent) for s in slices] == [
        (0, pytest.approx(4.7), True),
        (pytest.approx(4.7), pytest.approx(17.3), False),
        (pytest.approx(17.3), pytest.approx(21.7), True),
        (pytest.approx(21.7), pytest.approx(40.3), False),
        (pytest.approx(40.3), 45, True),
    ]
    assert slices[0].end == 5 * RATE - KEPT


@pytest.mark.parametrize(("seconds", "silent"), [(1.1, [False, True, False]), (0.9, [False, False])])
def test_a_second_of_silence_is_long(seconds, silent):
    """Less is a pause, and belongs to the windows."""
    assert SILENCE == RATE
    audio = with_pauses(24, (11.0, 11.0 + seconds))
    assert [s.silent for s in cut(audio, elastic=True)] == silent


def test_a_short_clip_loses_the_silence_around_it():
    """Who presses the button early and lets it go late pays for what was said."""
    audio = with_pauses(9, (0, 3), (5, 9))
    assert [(s.end - s.start, s.silent) for s in cut(audio, elastic=True)] == [
        (3 * RATE - KEPT, True),
        (2 * RATE + 2 * KEPT, False),
        (4 * RATE - KEPT, True),
    ]


def test_a_whisper_is_not_silence():
    """A long stretch far below the voice, and above -60 dBFS, is decoded."""
    audio = tone(40, 0.5)
    audio[11 * RATE : 21 * RATE] = tone(10, np.sqrt(2) * 10 ** (-58 / 20))
    assert not any(s.silent for s in cut(audio, elastic=True))


def test_minutes_of_silence_are_slices_of_thirty_seconds():
    """No slice is longer than a window, decoded or not."""
    slices = cut(np.zeros(70 * RATE, np.float32), elastic=True)
    assert [(s.end - s.start, s.silent) for s in slices] == [(30 * RATE, True), (30 * RATE, True), (10 * RATE, True)]


def places(*seconds):
    """Make consecutive slices of so many seconds."""
    ends = np.cumsum([0, *seconds])
    return [Slice(round(a * RATE), round(b * RATE), silent=False) for a, b in itertools.pairwise(ends)]


def test_texts_are_joined_in_order():
    """One blank between windows; times are the slices' own."""
    slices = places(20, 10, 5)
    whole = assemble(slices, [result("uno"), result("due"), result("tre")], None)
    assert whole.text == "uno due tre"
    assert whole.duration == 35
    assert [(s.id, s.start, s.end, s.text) for s in whole.segments] == [
        (0, 0, 20, "uno"),
        (1, 20, 30, "due"),
        (2, 30, 35, "tre"),
    ]


def test_silence_and_empty_texts_make_no_segments():
    """What says nothing is left out, and the ids stay without gaps."""
    whole = assemble(places(5, 5, 5, 5), [result("uno"), None, result(""), result("due")], "it")
    assert [(s.id, s.start, s.text) for s in whole.segments] == [(0, 0, "uno"), (1, 15, "due")]
    assert whole.duration == 20


def test_a_segment_keeps_the_engines_numbers():
    """Probabilities and ratios are passed on."""
    segment = assemble(places(5), [result(avg_logprob=-0.7, no_speech_prob=0.3, compression_ratio=1.9)], None).segments[
        0
    ]
    assert (segment.avg_logprob, segment.no_speech_prob, segment.compression_ratio) == (-0.7, 0.3, 1.9)


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "kept"),
    [(0.61, -1.01, False), (0.61, -0.99, True), (0.59, -1.01, True), (0.6, -2.0, True), (0.99, -1.0, True)],
)
def test_no_speech_takes_two_signs(no_speech_prob, avg_logprob, kept):
    """openai/whisper's rule: no speech is probable and the text is not; at the thresholds the text stays."""
    whole = assemble(places(5), [result(no_speech_prob=no_speech_prob, avg_logprob=avg_logprob)], None)
    assert bool(whole.segments) is kept


def test_the_language_is_that_of_most_of_the_speech():
    """Seconds count, not windows; what was no speech does not count."""
    slices = places(12, 5, 5, 30)
    results = [
        result(language="ru"),
        result(language="it"),
        result(language="it"),
        result(language="en", no_speech_prob=0.9, avg_logprob=-2.0),
    ]
    assert assemble(slices, results, None).language == "ru"


def test_the_language_that_was_asked_for_stays():
    """Nobody is corrected."""
    assert assemble(places(5), [result(language="ru")], "it").language == "it"
    assert assemble(places(5), [None], "it").language == "it"


def test_where_nothing_is_said_there_is_no_language():
    """Silence speaks no language and has its duration all the same."""
    whole = assemble(places(5), [None], None)
    assert (whole.text, whole.language, whole.duration, whole.segments) == ("", None, 5, ())
    assert assemble([], [], None).duration == 0


def test_results_must_belong_to_the_slices():
    """A missing result is a mistake of the caller's."""
    with pytest.raises(ValueError, match="zip"):
        assemble(places(5, 5), [result()], None)


def test_transcribe_asks_for_the_loud_windows_only(tokenizer):
    """The engine gets each window once, in order, with the code of the language; the answers find their places."""
    audio = np.concatenate([tone(29.9), np.zeros(40 * RATE, np.float32), tone(5)])
    loud = [s for s in cut(audio) if not s.silent]
    engine = ScriptedEngine(tokenizer, [result(str(i)) for i in range(9)])
    whole = transcribe(engine, audio, language="IT-it", task="translate")
    assert [w.audio.size for w in engine.asked] == [s.end - s.start for s in loud]
    assert {(w.language, w.task) for w in engine.asked} == {("it", "translate")}
    assert whole.text == " ".join(str(i) for i in range(len(loud)))
    assert [s.start for s in whole.segments] == [s.start / RATE for s in loud]
    assert whole.language == "it"


def test_transcribing_silence_says_nothing(tokenizer):
    """No window is decoded, no word invented."""
    engine = ScriptedEngine(tokenizer, [])
    whole = transcribe(engine, np.zeros(40 * RATE, np.float32))
    assert (whole.text, whole.language, whole.duration) == ("", None, 40)
    assert engine.asked == []


def test_a_window_that_fails_fails_the_transcription(tokenizer):
    """Half a transcript is not passed off as the whole."""
    engine = ScriptedEngine(tokenizer, [result(), EngineError("window 2 is broken")])
    with pytest.raises(EngineError, match="window 2"):
        transcribe(engine, tone(50))


def test_the_first_window_decides_the_language(tokenizer):
    """A file has one language, as in openai/whisper: what the first window speaks, the others are decoded in."""
    engine = ScriptedEngine(tokenizer, [result("uno", language="it"), result("due", language="it")])
    audio = np.concatenate([np.zeros(40 * RATE, np.float32), tone(40)])
    transcribe(engine, audio)
    assert [window.language for window in engine.asked][:1] == [None]
    assert {window.language for window in engine.asked[1:]} == {"it"}


def test_an_unknown_language_is_refused_before_decoding(tokenizer):
    """The engine is not even asked."""
    engine = ScriptedEngine(tokenizer, [result()])
    with pytest.raises(UnknownLanguageError):
        transcribe(engine, tone(1), language="klingon")
    assert engine.asked == []


GOOD = {"avg_logprob": -0.3, "compression_ratio": 1.2, "positions": 160, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, False),
        ({"compression_ratio": 2.4}, False),
        ({"compression_ratio": 2.41}, True),
        ({"finish_reason": "length"}, True),
        ({"avg_logprob": -1.0}, False),
        ({"avg_logprob": -1.01}, True),
        ({"avg_logprob": -1.01, "no_speech_prob": 0.61}, False),
        ({"avg_logprob": -1.01, "no_speech_prob": 0.6}, True),
        ({"compression_ratio": 9.0, "no_speech_prob": 0.99}, True),
    ],
)
def test_loops_and_doubts_look_wrong(changes, wrong):
    """openai/whisper's thresholds and an end that never came; what was no speech needs no second look."""
    assert looks_wrong(result(**GOOD | changes)) is wrong


@pytest.mark.parametrize("bad", [{"compression_ratio": 9.0}, {"finish_reason": "length"}, {"avg_logprob": -3.0}])
def test_a_full_context_is_not_to_blame(bad):
    """At 1,500 positions there is nothing more to pay: the answer stays, whatever it is."""
    assert looks_wrong(result(**GOOD | bad | {"positions": 1472}))
    assert not looks_wrong(result(**GOOD | bad | {"positions": MAX_POSITIONS}))


def test_a_window_is_decoded_again_without_its_short_features():
    """Everything about the window stays but its context, and the features that were made for that."""
    first = Window(tone(1), "it", "translate", prompt=(1, 2), features=np.zeros((80, 128), np.float32))
    again = at_full_context(first)
    assert again == dataclasses.replace(first, full_context=True, features=None)
    assert again.positions(ElasticContext(elastic=True)) == MAX_POSITIONS


@pytest.fixture
def elastic_engine(tokenizer):
    """Return the function that makes a scripted engine of short contexts."""

    def make(*answers):
        engine = ScriptedEngine(tokenizer, list(answers))
        engine.context = ElasticContext(elastic=True)
        return engine

    return make


def test_windows_that_look_wrong_are_decoded_again(elastic_engine):
    """Exactly those, at full context; that answer is taken, even if it is no better, and the others stay."""
    audio = with_pauses(46, (11.0, 11.4), (22.0, 22.4), (33.0, 33.4))
    engine = elastic_engine(
        *(result("uno"), result("no no no", compression_ratio=8.0), result("tre"), result("qua", avg_logprob=-2.0)),
        *(result("due", positions=MAX_POSITIONS), result("quattro", avg_logprob=-3.0, positions=MAX_POSITIONS)),
    )
    whole = transcribe(engine, audio, language="it")
    assert whole.text == "uno due tre quattro"
    assert [window.full_context for window in engine.asked] == [False] * 4 + [True] * 2
    for again, first in zip(engine.asked[4:], (engine.asked[1], engine.asked[3]), strict=True):
        assert again.audio is first.audio
    assert engine.answers == []


def test_the_language_is_decided_by_the_second_look(elastic_engine):
    """Where the first window is decoded again, the others follow what it was found to speak then."""
    engine = elastic_engine(
        result("la la la", compression_ratio=8.0, language="ru"),
        result("uno", language="it", positions=MAX_POSITIONS),
        result("due", language="it"),
    )
    assert transcribe(engine, with_pauses(24, (11.0, 11.4))).text == "uno due"
    assert [(w.language, w.full_context) for w in engine.asked] == [(None, False), (None, True), ("it", False)]


def test_an_error_at_full_context_fails_the_transcription(elastic_engine):
    """The loop is not passed off as the transcript."""
    engine = elastic_engine(result(finish_reason="length"), EngineError("out of memory"))
    with pytest.raises(EngineError, match="memory"):
        transcribe(engine, tone(3))


def test_several_pieces_share_their_batches(elastic_engine):
    """The first windows of all pieces go together, then the rest; each piece has its own language and words."""
    engine = elastic_engine(result("uno", language="it"), result("one", language="en"), *map(result, ("due", "two")))
    pieces = [with_pauses(24, (11.0, 11.4)), with_pauses(26, (13.0, 13.4)), np.zeros(2 * RATE, np.float32)]
    found = transcribe_many(engine, pieces, [None, None, None])
    assert [(whole.text, whole.language) for whole in found] == [("uno due", "it"), ("one two", "en"), ("", None)]
    assert [window.language for window in engine.asked] == [None, None, "it", "en"]
