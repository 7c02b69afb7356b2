"""The promises of transcribing audio of any length: nothing lost, nothing cut in a word, silence left out."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech.context import ElasticContext
from speech.engine import DecodingResult, EngineError
from speech.features import N_SAMPLES
from speech.tokens import UnknownLanguageError
from speech.transcribe import FRAME, Slice, assemble, cut, is_silent, transcribe, windows

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
    assert cut(np.zeros(0, np.float32)) == []


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
