"""The promises of transcribing audio of any length: doubtful windows decoded again, and texts put together."""

import itertools
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech import vad
from speech.context import MAX_POSITIONS, ElasticContext
from speech.engine import MAX_PROMPT_TOKENS, EngineError, Window, Word
from speech.guard import GUARDS, TEMPERATURES
from speech.tokens import UnknownLanguageError
from speech.transcribe import (
    LONG_PAUSE_S,
    RESET_TEMPERATURE,
    UNSPACED,
    WINDOWS_AT_ONCE,
    Assembly,
    Options,
    again,
    assemble,
    segments_of,
    transcribe,
    transcribe_many,
    window_of,
)
from speech.windows import Slice, cut

RATE = 16_000
IT = Options(language="it")
LOUD = Options(vad=False)  # the detector is right about tones: nobody speaks
TIMED = Options(word_timestamps=True)


class ScriptedEngine:
    """Answers with what it was told to, and remembers what it was asked."""

    description = "a script"
    context = ElasticContext()

    def __init__(self, tokenizer, answers):
        self.tokenizer = tokenizer
        self.answers = answers
        self.asked = []
        self.batches = []

    def transcribe(self, windows, options=None):
        """Return the next answers."""
        assert options is None
        self.asked += windows
        self.batches.append(len(windows))
        now, self.answers = self.answers[: len(windows)], self.answers[len(windows) :]
        return now


def places(*seconds):
    """Make consecutive slices of so many seconds."""
    ends = np.cumsum([0, *seconds])
    return [Slice(round(a * RATE), round(b * RATE), silent=False) for a, b in itertools.pairwise(ends)]


def test_texts_are_joined_in_order(result):
    """One blank between windows; times are the slices' own."""
    slices = places(20, 10, 5)
    whole = assemble(slices, [result("uno"), result("due"), result("tre")], Options())
    assert whole.text == "uno due tre"
    assert whole.duration == 35
    assert [(s.id, s.start, s.end, s.text) for s in whole.segments] == [
        (0, 0, 20, "uno"),
        (1, 20, 30, "due"),
        (2, 30, 35, "tre"),
    ]


def test_silence_and_empty_texts_make_no_segments(result):
    """What says nothing is left out, and the ids stay without gaps."""
    whole = assemble(places(5, 5, 5, 5), [result("uno"), None, result(""), result("due")], IT)
    assert [(s.id, s.start, s.text) for s in whole.segments] == [(0, 0, "uno"), (1, 15, "due")]
    assert whole.duration == 20


def test_a_segment_keeps_the_engines_numbers(result):
    """Probabilities and ratios are passed on."""
    segment = assemble(
        places(5), [result(avg_logprob=-0.7, no_speech_prob=0.3, compression_ratio=1.9)], Options()
    ).segments[0]
    assert (segment.avg_logprob, segment.no_speech_prob, segment.compression_ratio) == (-0.7, 0.3, 1.9)


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "kept"),
    [(0.61, -1.01, False), (0.61, -0.99, True), (0.59, -1.01, True), (0.6, -2.0, True), (0.99, -1.0, True)],
)
def test_no_speech_takes_two_signs(result, no_speech_prob, avg_logprob, kept):
    """openai/whisper's rule: no speech is probable and the text is not; at the thresholds the text stays."""
    whole = assemble(places(5), [result(no_speech_prob=no_speech_prob, avg_logprob=avg_logprob)], Options())
    assert bool(whole.segments) is kept


def test_the_language_is_that_of_most_of_the_speech(result):
    """Seconds count, not windows; what was no speech does not count."""
    slices = places(12, 5, 5, 30)
    results = [
        result(language="ru"),
        result(language="it"),
        result(language="it"),
        result(language="en", no_speech_prob=0.9, avg_logprob=-2.0),
    ]
    assert assemble(slices, results, Options()).language == "ru"


def test_the_language_that_was_asked_for_stays(result):
    """Nobody is corrected."""
    assert assemble(places(5), [result(language="ru")], IT).language == "it"
    assert assemble(places(5), [None], IT).language == "it"


def test_where_nothing_is_said_there_is_no_language():
    """Silence speaks no language and has its duration all the same."""
    whole = assemble(places(5), [None], Options())
    assert (whole.text, whole.language, whole.duration, whole.segments) == ("", None, 5, ())
    assert assemble([], [], Options()).duration == 0


def test_results_must_belong_to_the_slices(result):
    """A missing result is a mistake of the caller's."""
    with pytest.raises(ValueError, match="zip"):
        assemble(places(5, 5), [result()], Options())


def test_transcribe_asks_for_the_loud_windows_only(tone, result, tokenizer):
    """The engine gets each window once, in order, with the code of the language; the answers find their places."""
    audio = np.concatenate([tone(29.9), np.zeros(40 * RATE, np.float32), tone(5)])
    loud = [s for s in cut(audio) if not s.silent]
    engine = ScriptedEngine(tokenizer, [result(str(i)) for i in range(9)])
    whole = transcribe(engine, audio, replace(LOUD, language="IT-it", task="translate"))
    assert [w.audio.size for w in engine.asked] == [s.end - s.start for s in loud]
    assert {(w.language, w.task) for w in engine.asked} == {("it", "translate")}
    assert whole.text == " ".join(str(i) for i in range(len(loud)))
    assert [s.start for s in whole.segments] == [s.start / RATE for s in loud]
    assert whole.language == "it"


def test_transcribing_silence_says_nothing(tokenizer):
    """No window is decoded, no word invented."""
    engine = ScriptedEngine(tokenizer, [])
    whole = transcribe(engine, np.zeros(40 * RATE, np.float32), LOUD)
    assert (whole.text, whole.language, whole.duration) == ("", None, 40)
    assert engine.asked == []


def test_a_window_that_fails_fails_the_transcription(tone, result, tokenizer):
    """Half a transcript is not passed off as the whole."""
    engine = ScriptedEngine(tokenizer, [result(), EngineError("window 2 is broken")])
    with pytest.raises(EngineError, match="window 2"):
        transcribe(engine, tone(50), LOUD)


def test_the_first_window_decides_the_language(tone, result, tokenizer):
    """A file has one language, as in openai/whisper: what the first long window speaks, the others are decoded in."""
    engine = ScriptedEngine(tokenizer, [result("uno", language="it"), result("due", language="it")])
    audio = np.concatenate([np.zeros(40 * RATE, np.float32), tone(40)])
    transcribe(engine, audio, LOUD)
    assert [window.language for window in engine.asked][:1] == [None]
    assert {window.language for window in engine.asked[1:]} == {"it"}


def test_a_short_window_alone_decides_no_language(result, elastic_engine, with_pauses):
    """A "yes" before a pause is of any language: what is said next has its say, and what follows is decoded in it."""
    audio = with_pauses(40, (0.8, 4.0), (15.0, 15.4), (26.0, 26.4))
    unsure = {"language": "ru", "language_probabilities": {"ru": 0.9, "it": 0.05}}
    sure = {"language": "it", "language_probabilities": {"it": 0.8, "ru": 0.1}}
    engine = elastic_engine(result("da", **unsure), result("uno", **sure), result("due"), result("tre"))
    whole = transcribe(engine, audio, LOUD)
    assert [window.language for window in engine.asked] == [None, None, "it", "it"]
    assert (whole.text, whole.language) == ("da uno due tre", "it")
    assert max(whole.language_probabilities, key=whole.language_probabilities.get) == "it"


def test_an_unknown_language_is_refused_before_decoding(tone, result, tokenizer):
    """The engine is not even asked."""
    engine = ScriptedEngine(tokenizer, [result()])
    with pytest.raises(UnknownLanguageError):
        transcribe(engine, tone(1), Options(language="klingon"))
    assert engine.asked == []


@pytest.fixture
def elastic_engine(tokenizer):
    """Return the function that makes a scripted engine of short contexts."""

    def make(*answers):
        engine = ScriptedEngine(tokenizer, list(answers))
        engine.context = ElasticContext(elastic=True)
        return engine

    return make


def test_windows_that_look_wrong_are_decoded_again(with_pauses, result, elastic_engine):
    """Exactly those, at full context and then hotter; the first good answer is taken, and the others stay."""
    audio = with_pauses(46, (11.0, 11.4), (22.0, 22.4), (33.0, 33.4))
    engine = elastic_engine(
        *(result("uno"), result("no no no", compression_ratio=8.0), result("tre"), result("qua", avg_logprob=-2.0)),
        *(result("due", positions=MAX_POSITIONS), result("quat", avg_logprob=-3.0, positions=MAX_POSITIONS)),
        result("quattro", positions=MAX_POSITIONS, temperature=0.2),
    )
    whole = transcribe(engine, audio, replace(LOUD, language="it"))
    assert whole.text == "uno due tre quattro"
    assert engine.batches == [4, 2, 1]
    assert [window.full_context for window in engine.asked] == [False] * 4 + [True] * 3
    assert [window.options.temperature for window in engine.asked] == [0.0] * 6 + [0.2]
    for repeated, i in zip(engine.asked[4:], (1, 3, 3), strict=True):
        assert repeated.audio is engine.asked[i].audio
    assert [segment.temperature for segment in whole.segments] == [0.0, 0.0, 0.0, 0.2]
    assert not any(segment.flags for segment in whole.segments)


def test_what_stays_doubtful_is_the_most_probable_try(tone, result, elastic_engine):
    """After the whole ladder, the answer without a loop that the model believed most, with its flag."""
    tries = [result(f"numero {i}", avg_logprob=-1.5 - (i - 3) ** 2, positions=MAX_POSITIONS) for i in range(7)]
    engine = elastic_engine(*tries)
    whole = transcribe(engine, tone(3), LOUD)
    assert engine.batches == [1] * (1 + len(TEMPERATURES))
    assert (whole.text, whole.segments[0].flags) == ("numero 3", ("low_logprob",))


@pytest.mark.parametrize(
    ("guard", "tries", "text", "flags", "dropped"),
    [
        ("redecode", 6, "uno dubbio tre", [(), ("low_logprob",), ()], []),
        ("mark", 1, "uno dubbio tre", [(), ("low_logprob",), ()], []),
        ("drop", 6, "uno tre", [(), ()], ["dubbio"]),
        ("keep", 1, "uno dubbio tre", [(), (), ()], []),
    ],
)
def test_the_guard_is_chosen(with_pauses, result, tokenizer, guard, tries, text, flags, dropped):
    """Decode again and mark; mark; decode again and leave out, telling what; or believe everything."""

    class Doubtful(ScriptedEngine):
        def transcribe(self, windows, options=None):
            self.asked += windows
            return [self._said(window) for window in windows]

        def _said(self, window):
            i = round(float(np.abs(window.audio[:RATE]).max()) * 10)
            doubt = {"avg_logprob": -2.0, "positions": MAX_POSITIONS} if i == 2 else {}
            return result(("uno", "dubbio", "tre")[i - 1], temperature=window.options.temperature, **doubt)

    engine = Doubtful(tokenizer, [])
    engine.context = ElasticContext(elastic=True)
    audio = with_pauses(33, (10.8, 11.2), (21.8, 22.2)) / 0.3 * np.repeat(np.float32([0.1, 0.2, 0.3]), 11 * RATE)
    whole = transcribe(engine, audio, replace(LOUD, language="it", guard=guard))
    assert guard in GUARDS
    assert len(engine.asked) == 2 + tries
    assert (whole.text, [segment.flags for segment in whole.segments]) == (text, flags)
    assert [segment.id for segment in whole.segments] == list(range(len(flags)))
    assert [(segment.text, segment.flags) for segment in whole.dropped] == [(one, ("low_logprob",)) for one in dropped]
    assert not whole.no_speech


def test_a_transcript_of_which_everything_is_dropped_is_not_of_silence(result):
    """Somebody spoke, and what was heard is told."""
    whole = assemble(places(5), [result("boh", avg_logprob=-2.0)], Options(guard="drop"))
    assert (whole.text, whole.segments, whole.no_speech, whole.language) == ("", (), False, "it")
    assert [segment.text for segment in whole.dropped] == ["boh"]


def test_sampling_is_done_once(tone, result, elastic_engine):
    """Who asks for a temperature gets that one's answer, marked if it is doubtful, and no other's."""
    engine = elastic_engine(result("boh", avg_logprob=-2.0, temperature=0.7))
    whole = transcribe(engine, tone(3), replace(LOUD, temperature=0.7))
    assert [window.options.temperature for window in engine.asked] == [0.7]
    assert (whole.text, whole.segments[0].flags) == ("boh", ("low_logprob",))


def test_the_language_is_decided_by_the_second_look(with_pauses, result, elastic_engine):
    """Where the first window is decoded again, the others follow what it was found to speak then."""
    engine = elastic_engine(
        result("la la la", compression_ratio=8.0, language="ru"),
        result("uno", language="it", positions=MAX_POSITIONS),
        result("due", language="it"),
    )
    assert transcribe(engine, with_pauses(24, (11.0, 11.4)), LOUD).text == "uno due"
    assert [(w.language, w.full_context) for w in engine.asked] == [(None, False), (None, True), ("it", False)]


def test_an_error_at_full_context_fails_the_transcription(tone, result, elastic_engine):
    """The loop is not passed off as the transcript."""
    engine = elastic_engine(result(finish_reason="length"), EngineError("out of memory"))
    with pytest.raises(EngineError, match="memory"):
        transcribe(engine, tone(3), LOUD)


def test_several_pieces_share_their_batches(with_pauses, result, elastic_engine):
    """The first windows of all pieces go together, then the rest; each piece has its own language and words."""
    engine = elastic_engine(result("uno", language="it"), result("one", language="en"), *map(result, ("due", "two")))
    pieces = [with_pauses(24, (11.0, 11.4)), with_pauses(26, (13.0, 13.4)), np.zeros(2 * RATE, np.float32)]
    found = transcribe_many(engine, pieces, [LOUD] * 3)
    assert [(whole.text, whole.language) for whole in found] == [("uno due", "it"), ("one two", "en"), ("", None)]
    assert [window.language for window in engine.asked] == [None, None, "it", "en"]


def spoken(result, *parts, language="it", size=2, **changes):
    """Make an answer with words of 0.4 s; a number between them is a pause. Each word has `size` tokens."""
    words, tokens, clock = [], 0, 0.0
    for part in parts:
        if isinstance(part, float):
            clock += part
            continue
        words.append(Word(clock, clock + 0.4, part, 0.9, tuple(range(tokens, tokens + size))))
        tokens, clock = tokens + size, clock + 0.4
    text = "".join(word.word for word in words).strip()
    said = {"text": text, "tokens": tuple(range(tokens)), "words": tuple(words), "language": language}
    return result(**said | changes)


def sentences(answer):
    """Return the texts of the segments of an answer."""
    return [segment.text for segment in segments_of(places(30)[0], answer, TIMED)]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([" Uno", " due.", " Tre?", " Sì!", " E", " poi…", " fine"], ["Uno due.", "Tre?", "Sì!", "E poi…", "fine"]),
        ([" Disse:", ' "Basta."', " E", " andò."], ['Disse: "Basta."', "E andò."]),
        ([" Sono", " 3", ".14", " metri."], ["Sono 3.14 metri."]),
        ([" Il", " sig", ".", "Rossi", " c", "'è."], ["Il sig.Rossi c'è."]),
        ([" Uno", LONG_PAUSE_S + 0.1, " due"], ["Uno", "due"]),
        ([" Uno", LONG_PAUSE_S - 0.1, " due"], ["Uno due"]),
        ([" Uno", LONG_PAUSE_S, ",", " due"], ["Uno, due"]),
        ([" Uno."], ["Uno."]),
        ([" यह", " है।", " वह", " है।"], ["यह है।", "वह है।"]),
        ([" كيف؟", " هنا"], ["كيف؟", "هنا"]),
    ],
)
def test_a_segment_is_a_sentence_where_word_times_are_known(result, parts, found):
    """It ends after its full stop and what closes a quotation, or at a long pause; never inside a number or a word."""
    assert sentences(spoken(result, *parts)) == found


def test_scripts_without_blanks_have_sentences_too(result):
    """Chinese and Japanese words follow each other without anything between."""
    assert sentences(spoken(result, "今日は", "晴れ", "です。", "明日は", "？", language="ja")) == [
        "今日は晴れです。",
        "明日は？",
    ]
    assert sentences(spoken(result, "「", "はい。", "」", "「", "え", "？", "！", "」", language="ja")) == [
        "「はい。」",
        "「え？！」",
    ]
    assert sentences(spoken(result, "今天", LONG_PAUSE_S + 0.1, "好", language="zh")) == ["今天", "好"]


def test_a_sentence_has_the_times_of_its_words(result):
    """Counted from the beginning of the audio, as are its words'; ids are given when the transcript is put together."""
    place = Slice(100 * RATE, 130 * RATE, silent=False)
    first, second = segments_of(place, spoken(result, 0.5, " Uno", " due.", 2.0, " Tre."), TIMED)
    assert (first.start, first.end) == pytest.approx((100.5, 101.3))
    assert (second.start, second.end) == pytest.approx((103.3, 103.7))
    assert [word.start for word in first.words] == pytest.approx([100.5, 100.9])
    assert first.seek == second.seek == 10_000


@given(
    texts=st.lists(st.sampled_from([" uno", " due.", ",", " tre?", " q", "uattro!"]), min_size=1, max_size=30),
    size=st.integers(1, 3),
    pauses=st.lists(st.sampled_from([0.0, 0.3, 1.5]), min_size=30, max_size=30),
)
def test_sentences_are_the_answer_divided(result, texts, size, pauses):
    """Together they have its words, its tokens and its log-probabilities, each once and in order, and its text."""
    parts = [part for text, pause in zip(texts, pauses, strict=False) for part in (text, pause)]
    answer = spoken(result, *parts, size=size)
    answer = replace(answer, token_logprobs=tuple(-i / 10 for i in answer.tokens))
    segments = segments_of(places(30)[0], answer, TIMED)
    assert " ".join(segment.text for segment in segments) == answer.text
    assert tuple(word for segment in segments for word in segment.words) == answer.words
    assert tuple(token for segment in segments for token in segment.tokens) == answer.tokens
    assert tuple(logprob for segment in segments for logprob in segment.token_logprobs) == answer.token_logprobs
    assert all(len(segment.tokens) == len(segment.token_logprobs) == size * len(segment.words) for segment in segments)


def test_without_word_times_a_segment_is_a_window(result):
    """With the window's own times, tokens and log-probabilities."""
    (segment,) = segments_of(places(7)[0], result("Uno. Due.", token_logprobs=(-0.1, -0.2)), Options())
    assert (segment.start, segment.end, segment.text) == (0, 7, "Uno. Due.")
    assert (segment.tokens, segment.token_logprobs, segment.words) == ((1, 2), (-0.1, -0.2), None)


TEXTS = ["", "uno", "due. Tre.", "quattro"]


@given(
    texts=st.lists(st.tuples(st.sampled_from(TEXTS), st.booleans(), st.sampled_from(["it", "zh"])), max_size=8),
    guard=st.sampled_from(GUARDS),
)
def test_the_text_is_what_was_added(result, texts, guard):
    """Whatever is silent, doubtful or empty: deltas in a row are the text, and their segments all the segments."""
    assembly, added = Assembly(Options(guard=guard)), []
    for place, (text, is_doubtful, language) in zip(places(*[5] * len(texts)), texts, strict=True):
        said = result(text, language=language, avg_logprob=-2.0 if is_doubtful else -0.2) if text else None
        added.append(assembly.add(place, said))
    whole = assembly.whole()
    assert "".join(one.text for one in added) == whole.text
    assert tuple(segment for one in added for segment in one.segments) == whole.segments
    assert [segment.id for segment in whole.segments] == list(range(len(whole.segments)))
    assert [one.seconds for one in added] == [5 * (i + 1) for i in range(len(texts))]
    assert whole.text == whole.text.strip()


@pytest.mark.parametrize("language", sorted(UNSPACED))
def test_scripts_without_blanks_are_joined_without(result, language):
    """Between windows, as between sentences."""
    answers = [spoken(result, "今日。", "明日。", language=language), result("晴れ", language=language)]
    assert assemble(places(5, 5), answers, TIMED).text == "今日。明日。晴れ"


def test_words_are_all_words(result):
    """In order, with times from the beginning of the audio; without them, none."""
    answers = [spoken(result, " Uno.", " Due."), None, spoken(result, " Tre.")]
    whole = assemble(places(5, 5, 5), answers, TIMED)
    assert [(word.word, word.start) for word in whole.words] == [(" Uno.", 0), (" Due.", 0.4), (" Tre.", 10)]
    assert assemble(places(5), [result()], Options()).words == []


def test_the_first_window_with_speech_tells_its_languages(result):
    """How probable each was, where it was detected."""
    answers = [None, result(language_probabilities={"it": 0.9, "en": 0.1}), result()]
    assert assemble(places(5, 5, 5), answers, Options()).language_probabilities == {"it": 0.9, "en": 0.1}
    assert assemble(places(5), [result()], IT).language_probabilities is None


def test_whether_anybody_speaks_is_told(result):
    """Not where all is silent, or the model says that nobody spoke."""
    nobody = result("grazie", no_speech_prob=0.9, avg_logprob=-2.0)
    assert assemble(places(5, 5), [None, nobody], IT).no_speech
    assert not assemble(places(5, 5), [None, result()], IT).no_speech


def test_what_is_asked_of_a_window(tone):
    """Every option reaches the engine."""
    options = Options(
        *("ru", ("ru", "it"), "translate", (7, 8)),
        word_timestamps=True,
        token_logprobs=True,
        beam_size=5,
        temperature=0.4,
    )
    window = window_of(tone(1), options, said=(1, 2))
    assert (window.language, window.languages, window.task, window.prompt) == ("ru", ("ru", "it"), "translate", (7, 8))
    decoding = window.options
    assert (decoding.word_timestamps, decoding.token_logprobs, decoding.beam_size) == (True, True, 5)
    assert decoding.temperature == 0.4
    assert decoding.without_timestamps


def test_previous_text_follows_the_prompt(tone):
    """Only where it is asked for; the decoder's room is for what was said last."""
    options = Options(prompt=(7, 8), condition_on_previous_text=True)
    assert window_of(tone(1), options, said=(1, 2)).prompt == (7, 8, 1, 2)
    said = range(MAX_PROMPT_TOKENS)
    assert window_of(tone(1), options, said=said).prompt == tuple(said)


def test_each_window_is_told_what_was_said(with_pauses, result, elastic_engine):
    """One after the other then, silence and empty answers adding nothing; a hot answer makes the next one forget."""
    engine = elastic_engine(
        result("uno", tokens=(1,)),
        result("due", tokens=(2, 3)),
        result("tre", tokens=(4,), temperature=RESET_TEMPERATURE + 0.1),
        result("quattro", tokens=(5,), temperature=RESET_TEMPERATURE),
        result("cinque", tokens=(6,)),
    )
    audio = with_pauses(57, *((t, t + 0.4) for t in (11.0, 22.0, 33.0, 44.0)))
    options = replace(LOUD, language="it", prompt=(9,), condition_on_previous_text=True)
    assert transcribe(engine, audio, options).text == "uno due tre quattro cinque"
    assert engine.batches == [1] * 5
    assert [window.prompt for window in engine.asked] == [(9,), (9, 1), (9, 1, 2, 3), (9,), (9, 5)]


def test_what_was_said_is_kept_no_longer_than_it_is_used(result):
    """Hours of transcript are not carried along for a prompt of 223 tokens."""
    assembly = Assembly(Options())
    for place in places(*[5] * 10):
        assembly.add(place, result(tokens=tuple(range(100))))
    assert assembly.said == list(range(77, 100)) + [*range(100)] * 2


def test_blocks_are_transcribed_as_the_whole(with_pauses, result, elastic_engine):
    """A stream has the transcript of the array, and is told of window by window."""
    audio = with_pauses(46, (11.0, 11.4), (22.0, 22.4), (33.0, 33.4))
    blocks = [audio[start : start + 1600] for start in range(0, audio.size, 1600)]
    answers = [result(text) for text in ("uno", "due", "tre", "quattro")]
    added = []
    whole = transcribe(elastic_engine(*answers), audio, LOUD)
    assert transcribe(elastic_engine(*answers), iter(blocks), LOUD, added.append) == whole
    assert [one.text for one in added] == ["uno", " due", " tre", " quattro"]
    assert added[-1].seconds == whole.duration == 46


def test_no_more_windows_are_in_memory_than_are_decoded_together(tone, result, tokenizer):
    """Of hours, the next are read when the last ones are done."""
    seconds, read_before = 90 * 60, []

    class Counting(ScriptedEngine):
        def transcribe(self, windows, options=None):
            assert len(windows) <= WINDOWS_AT_ONCE
            self.batches.append(len(windows))
            read_before.append(n_read)
            return [result() for _ in windows]

    n_read, minute = 0, tone(60)

    def blocks():
        nonlocal n_read
        for _ in range(seconds // 60):
            n_read += 60
            yield minute

    engine = Counting(tokenizer, [])
    whole = transcribe(engine, blocks(), replace(LOUD, language="it"))
    assert whole.duration == seconds
    assert engine.batches[0] == WINDOWS_AT_ONCE
    assert sum(engine.batches) == len(whole.segments)
    assert all(n <= 30 * (WINDOWS_AT_ONCE * (i + 1) + 1) + 120 for i, n in enumerate(read_before))


def test_several_pieces_share_the_room(tone, result, elastic_engine):
    """No more than 64 windows of all pieces together are decoded at once, and each gets its own words."""
    engine = elastic_engine(*(result(str(i)) for i in range(100)))
    found = transcribe_many(engine, [tone(1)] * 100, [replace(LOUD, language="it")] * 100)
    assert engine.batches == [WINDOWS_AT_ONCE, 100 - WINDOWS_AT_ONCE]
    assert [whole.text for whole in found] == [str(i) for i in range(100)]


def test_each_piece_has_its_own_options(tone, result, elastic_engine):
    """Language, task and guard."""
    engine = elastic_engine(result("uno"), result("two", avg_logprob=-2.0))
    options = [replace(LOUD, language="it"), replace(LOUD, language="en", task="translate", guard="keep")]
    found = transcribe_many(engine, [tone(1), tone(2)], options)
    assert [(window.language, window.task) for window in engine.asked] == [("it", "transcribe"), ("en", "translate")]
    assert [whole.language for whole in found] == ["it", "en"]


def test_as_many_options_as_pieces(tone, elastic_engine):
    """One missing is a mistake of the caller's."""
    with pytest.raises(ValueError, match="zip"):
        transcribe_many(elastic_engine(), [tone(1), tone(1)], [LOUD])


@pytest.mark.parametrize("language", ["it", None])
def test_clips_take_turns_with_one_detector(tone, result, elastic_engine, monkeypatch, language):
    """However many are transcribed together: loading one takes longer than a clip."""
    lent, most = 0, 0

    class Believer:
        def is_speaking(self, chunk):
            return True

    @contextmanager
    def listen_if(wanted):
        nonlocal lent, most
        assert wanted
        lent += 1
        most = max(most, lent)
        yield Believer()
        lent -= 1

    monkeypatch.setattr(vad, "listen_if", listen_if)
    engine = elastic_engine(*(result() for _ in range(20)))
    transcribe_many(engine, [tone(2)] * 20, [Options(language=language)] * 20)
    assert (lent, most) == (0, 1)


def test_detectors_come_back_from_who_fails(tone, elastic_engine, monkeypatch):
    """Also those of pieces that were not finished."""
    lent = 0

    @contextmanager
    def listen_if(_wanted):
        nonlocal lent
        lent += 1
        try:
            yield None
        finally:
            lent -= 1

    monkeypatch.setattr(vad, "listen_if", listen_if)
    with pytest.raises(EngineError):
        transcribe_many(elastic_engine(EngineError("broken"), EngineError("broken")), [tone(50)] * 2, [Options()] * 2)
    assert lent == 0


def test_noise_is_not_decoded(tokenizer):
    """The detector hears that nobody speaks, and the engine hears nothing; without it, it would."""
    noise = np.random.default_rng(1).normal(0, 0.1, 5 * RATE).astype(np.float32)
    engine = ScriptedEngine(tokenizer, [])
    assert transcribe(engine, noise).no_speech
    assert engine.asked == []


def test_only_a_guard_that_decodes_again_does(result, tone):
    """Marking and keeping take what came, and sampling is asked for."""
    window, doubtful = Window(tone(1)), result(avg_logprob=-2.0)
    for guard in ("redecode", "drop"):
        assert again(window, doubtful, Options(guard=guard)) is not None
    for options in (Options(guard="mark"), Options(guard="keep"), Options(temperature=0.1)):
        assert again(window, doubtful, options) is None
    assert again(window, result(), Options()) is None


def test_a_translation_is_written_in_english(result):
    """Whatever was spoken: its sentences and windows have blanks between them."""
    said = [result("Hello there.", language="ja"), result("I am fine.", language="ja")]
    places = [Slice(0, 5 * RATE, silent=False), Slice(5 * RATE, 9 * RATE, silent=False)]
    assert assemble(places, said, Options(task="translate")).text == "Hello there. I am fine."
    assert assemble(places, said, Options()).text == "Hello there.I am fine."
