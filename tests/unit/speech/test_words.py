"""The promises of words: together they are the text, and their times are such as a player or a subtitle can use."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.audio import SAMPLE_RATE
from speech.engine import GREEDY, DecodingOptions, DecodingResult, EngineError, Window
from speech.tokens import BYTES
from speech.words import (
    CLOSING,
    OPENING,
    SHORTEST_S,
    TokenTimes,
    curb,
    find_sounds,
    make_words,
    snap,
    starts_of,
    texts_to_align,
    tidy,
    with_words,
)

SECOND = SAMPLE_RATE
LETTERS = {byte: letter for letter, byte in BYTES.items()}


@pytest.fixture(scope="module")
def tokens_of(tokenizer):
    """Return the function that spells bytes as tokens, one a byte."""
    return lambda data: tuple(tokenizer._tokenizer.token_to_id(LETTERS[byte]) for byte in data)


@pytest.fixture(scope="module")
def split(tokenizer, tokens_of):
    """Return the function that gives the words of a text whose bytes are a token each, said evenly in 10 s of noise."""

    def words(text, language="it"):
        tokens = tokens_of(text.encode() if isinstance(text, str) else text)
        return make_words(tokenizer, tokens, language, evenly(len(tokens)), noise(10))

    return words


def evenly(n, seconds=10.0):
    """Return times of n tokens, one after the other, each with its own probability."""
    return TokenTimes([seconds * i / max(n, 1) for i in range(n + 1)], [1 / (i + 1) for i in range(n)])


def noise(seconds, level=0.1, seed=1):
    """Return noise, whose level is the same everywhere."""
    return level * np.random.default_rng(seed).standard_normal(round(seconds * SECOND)).astype(np.float32)


def sounding(*stretches, hush=1e-4):
    """Return stretches of (seconds, is loud)."""
    return np.concatenate([noise(seconds, 0.1 if loud else hush) for seconds, loud in stretches])


def texts(words):
    """Return what the words say."""
    return [word.word for word in words]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Buona sera", [" Buona", " sera"]),
        (" Prego, attenda.", [" Prego,", " attenda."]),
        (" Quell'operatore è già qui", [" Quell'operatore", " è", " già", " qui"]),
        (" una e-mail", [" una", " e-mail"]),
        (' dice: "Sì."', [" dice:", ' "Sì."']),
        (" ¿Qué? (nada)", [" ¿Qué?", " (nada)"]),
        (" un «bravo » dopo", [" un", " «bravo »", " dopo"]),
        (" detto - fatto", [" detto", " - fatto"]),
        (" detto - ", [" detto - "]),
        (" R & D", [" R", " &", " D"]),
        (" aspetti ... prego", [" aspetti ...", " prego"]),
        (' "', [' "']),
        (" ...", [" ..."]),
        ("  due  blanche ", ["  due", "  blanche "]),
        (" 3,5 %", [" 3,5", " %"]),
        ("", []),
        ("  ", []),
    ],
)
def test_a_word_is_what_stands_between_blanks(split, text, expected):
    """Punctuation goes with its word, a mark alone with its neighbour; a sign that is spoken is a word."""
    words = split(text)
    assert [word.strip() for word in texts(words)] == [word.strip() for word in expected]
    assert "".join(texts(words)).strip() == text.strip()


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("你好。再见", "zh", ["你", "好。", "再", "见"]),
        ("「はい」と言う", "ja", ["「は", "い」", "と", "言", "う"]),
        ("ใช้ได้", "th", ["ใ", "ช้", "ไ", "ด้"]),
        ("用Whisper 3写", "zh", ["用", "Whisper", " 3", "写"]),
        ("你好", "it", ["你好"]),
    ],
)
def test_where_no_blanks_are_written_a_word_is_a_character(split, text, language, expected):
    """With its accents and marks; foreign words stay whole. Elsewhere, blanks decide whatever the script."""
    assert texts(split(text, language)) == expected


@given(st.binary(max_size=40), st.sampled_from(["it", "zh"]))
def test_the_words_are_the_text(tokenizer, tokens_of, data, language):
    """Whatever the model writes, letters cut in two included, the words together are the text and have its tokens."""
    tokens = tokens_of(data)
    words = make_words(tokenizer, tokens, language, evenly(len(tokens)), noise(3))
    text = tokenizer.decode(tokens).strip()
    assert "".join(texts(words)).strip() == text
    if text:
        assert tuple(token for word in words for token in word.tokens) == tokens
    assert all(word.word.strip() for word in words)


@given(st.text(st.sampled_from(" ab'\"-.,«»¿。è你"), max_size=30), st.sampled_from(["it", "ja"]))
def test_marks_and_blanks_never_make_a_word_of_their_own(tokenizer, tokens_of, text, language):
    """Unless there is nothing else, each word has a letter; together they are the text."""
    tokens = tokens_of(text.encode())
    words = make_words(tokenizer, tokens, language, evenly(len(tokens)), noise(3))
    assert "".join(texts(words)).strip() == text.strip()
    marks = OPENING | CLOSING | {" "}
    assert len(words) <= 1 or not any(set(word.word) <= marks for word in words)


def test_an_unfinished_letter_at_the_end_has_a_word(split):
    """A text that was cut in the middle of a letter shows it as the decoder does."""
    words = split(b" caff" + "è".encode()[:1])
    assert texts(words) == [" caff�"]
    assert [word.word for word in split("是".encode()[:2], "zh")] == ["�"]


def test_punctuation_has_no_share_in_times_and_probability(tokenizer, tokens_of):
    """A comma takes the silence that follows it, and how sure it is says nothing about the word."""
    tokens = tokens_of(" sì, no".encode())  # 8 bytes: ì has two
    starts = [0.0, 1.0, 1.1, 1.2, 1.3, 4.0, 4.1, 4.2, 4.4]
    words = make_words(tokenizer, tokens, "it", TokenTimes(starts, [0.5, 0.5, 0.5, 0.5, 0.01, 1, 0.25, 1]), noise(5))
    assert texts(words) == [" sì,", " no"]
    assert [(word.start, word.end) for word in words] == [(1.0, 1.3), (4.1, 4.4)]
    assert [word.probability for word in words] == pytest.approx([0.5, 0.5])


def test_an_impossible_token_is_improbable(tokenizer, tokens_of):
    """A probability that underflowed to zero is no error."""
    (word,) = make_words(tokenizer, tokens_of(b" a"), "it", TokenTimes([0, 0.5, 1], [1.0, 0.0]), noise(1))
    assert 0 < word.probability < 1e-10


def test_rows_begin_where_the_path_first_meets_them():
    """In seconds, of 20 ms a position; the end token's row ends the last token."""
    assert starts_of([(0, 0), (0, 1), (1, 2), (1, 3), (2, 3), (2, 4)]) == [0.0, 0.04, 0.06]


spans = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), max_size=12)


@given(spans, st.floats(0.02, 3))
def test_tidy_words_have_a_length_and_do_not_overlap(given_spans, duration):
    """Whatever was found, words come one after the other, inside the window."""
    tidied = tidy(given_spans, duration)
    assert len(tidied) == len(given_spans)
    assert all(0 <= start < end <= duration + 1e-9 for start, end in tidied)
    assert all(before[1] <= after[0] for before, after in pairwise(tidied))


def test_good_times_are_left_alone():
    """What is in order already is not touched."""
    good = [(0.1, 0.4), (0.4, 0.42), (0.9, 1.3)]
    assert np.array(tidy(good, 1.3)) == pytest.approx(np.array(good))


def test_words_at_one_moment_are_given_the_least():
    """Three tokens on one position are three words of 20 ms; at the end, they go back to find room."""
    early, late = tidy([(0.5, 0.5)] * 3, 2.0), tidy([(2.0, 2.0)] * 2, 2.0)
    assert np.array(early) == pytest.approx(np.array([(0.5, 0.52), (0.52, 0.54), (0.54, 0.56)]))
    assert np.array(late) == pytest.approx(np.array([(2 - 2 * SHORTEST_S, 1.98), (1.98, 2.0)]))


def test_sounds_are_what_lies_between_pauses():
    """Two stretches of sound, found to 10 ms; a gap as short as a plosive's closure does not part them."""
    audio = sounding((0.5, False), (1.0, True), (0.1, False), (0.4, True), (0.6, False), (0.7, True), (0.3, False))
    assert np.array(find_sounds(audio)) == pytest.approx(np.array([(0.5, 2.0), (2.6, 3.3)]), abs=0.011)


def test_noise_raises_what_is_quiet():
    """With a hiss 20 dB below, sounds are still told from it."""
    audio = sounding((0.5, False), (1.0, True), (0.5, False), (1.0, True), hush=0.01)
    assert np.array(find_sounds(audio)) == pytest.approx(np.array([(0.5, 1.5), (2.0, 3.0)]), abs=0.011)


@pytest.mark.parametrize(
    "audio", [noise(2), 0 * noise(2), noise(0.01), noise(2)[:0]], ids=["noise", "zeros", "short", "no"]
)
def test_where_levels_tell_nothing_all_is_sound(audio):
    """Even noise, silence, or next to nothing: no edge is moved for it."""
    assert find_sounds(audio) == [(0.0, audio.size / SAMPLE_RATE)]


def test_edges_beside_a_pause_go_to_the_sound():
    """The first word leaves the silence before it, the last the one after it, and a pause parts two words."""
    audio = sounding((0.6, False), (1.0, True), (0.8, False), (1.0, True), (0.6, False))
    found = snap([(0.0, 1.2), (1.2, 2.0), (2.0, 2.9), (2.9, 4.0)], audio)
    expected = [(0.6, 1.2), (1.2, 1.6), (2.4, 2.9), (2.9, 3.4)]
    assert np.array(found) == pytest.approx(np.array(expected), abs=0.011)


def test_a_sound_that_begins_a_little_earlier_is_the_words():
    """Cross-attention is late by up to a syllable; more than that is another sound's beginning."""
    audio = sounding((1.0, False), (2.0, True), (1.0, False))
    ((start, end),) = snap([(1.2, 2.8)], audio)
    assert (start, end) == pytest.approx((1.0, 3.0), abs=0.011)
    assert snap([(1.5, 2.4)], audio) == [(1.5, 2.4)]


def test_a_word_belongs_to_one_sound():
    """If it reaches over a pause, it is where most of it is; its neighbour has the rest."""
    audio = sounding((0.5, False), (1.0, True), (0.5, False), (1.0, True))
    found = snap([(0.5, 1.3), (1.3, 2.5), (2.5, 3.0)], audio)
    assert np.array(found) == pytest.approx(np.array([(0.5, 1.5), (2.0, 2.5), (2.5, 3.0)]), abs=0.011)


def test_a_word_in_silence_stays_there():
    """It may be made up: its place is the evidence."""
    audio = sounding((1.0, True), (2.0, False), (1.0, True))
    assert snap([(1.5, 2.5)], audio) == [(1.5, 2.5)]


@given(st.lists(st.floats(0, 4), min_size=2, max_size=12), st.integers(0, 3))
def test_snapped_words_stay_in_order(edges, seed):
    """Words that followed one another do so still, whatever the audio."""
    levels = np.random.default_rng(seed).choice([1e-4, 0.1], 8)
    audio = np.concatenate([noise(0.5, level) for level in levels])
    ordered = sorted(edges)
    found = tidy(snap(list(pairwise(ordered)), audio), 4.0)
    assert all(0 <= start < end <= 4 + 1e-9 for start, end in found)
    assert all(before[1] <= after[0] for before, after in pairwise(found))


def test_nobody_speaks_so_slowly():
    """Where noise hides a silence, the first word and one after a mark begin later, any other ends earlier."""
    spans = [(0.0, 4.0), (4.0, 9.0), (9.0, 14.0), (14.0, 14.5)]
    found = curb(spans, [" Sì,", " ecco", " qui", " qua"])
    expected = [(3.1, 4.0), (7.8, 9.0), (9.0, 10.05), (14.0, 14.5)]
    assert np.array(found) == pytest.approx(np.array(expected))


def test_a_long_word_may_take_its_time():
    """What a slow speaker needs is not cut, digits of a number included."""
    spans = [(0.0, 1.9), (1.9, 3.0)]
    assert curb(spans, [" precedentemente", " 1987"]) == spans


def result(tokens, text="", language="it"):
    """Return a hypothesis."""
    return DecodingResult(text, tokens, language, 1.0, -0.1, 0.0, 1.0, 96)


def test_only_who_wants_words_and_says_something_is_aligned(tokenizer, tokens_of):
    """Timestamps are no text; a failed window, a silent one and one that asked for none need no alignment."""
    wanted = DecodingOptions(word_timestamps=True)
    windows = [Window(noise(1), options=options) for options in (wanted, GREEDY, wanted, wanted)]
    text = tokens_of(b" a")
    timed = (tokenizer.timestamp_begin, *text, tokenizer.timestamp_begin + 20)
    failed = EngineError("no")
    results = [result(timed, "a"), result(text, "a"), result(()), failed]
    assert texts_to_align(tokenizer, windows, results) == {0: text}
    answers = with_words(tokenizer, windows, results, {0: TokenTimes([0, 0.5, 1.0], [1, 1])})
    assert [texts(answer.words) for answer in answers[:1]] == [[" a"]]
    assert answers[1:] == [results[1], replace(results[2], words=()), failed]


def test_a_translation_is_english(tokenizer, tokens_of):
    """Its words have blanks between them, whatever language was spoken."""
    text = tokens_of("すgo on".encode())
    times = {0: evenly(len(text), 1.0)}
    for task, expected in (("translate", ["すgo", " on"]), ("transcribe", ["す", "go", " on"])):
        window = Window(noise(1), "ja", task, DecodingOptions(word_timestamps=True))
        (answer,) = with_words(tokenizer, [window], [result(text, "すgo on", "ja")], times)
        assert texts(answer.words) == expected
