"""The promises of the guard: which answers are tried again and how, which is kept, what is said of doubtful ones."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.context import MAX_POSITIONS, ElasticContext
from speech.engine import DecodingOptions, DecodingResult, Window, Word
from speech.guard import (
    COMPRESSION_RATIO_THRESHOLD,
    LOGPROB_THRESHOLD,
    TEMPERATURES,
    best,
    flags,
    is_no_speech,
    is_spoken,
    looks_wrong,
    next_attempt,
)
from speech.windows import Slice

RATE = 16_000
GOOD = {"avg_logprob": -0.3, "compression_ratio": 1.2, "positions": 160, "finish_reason": "stop"}
BAD = [{"compression_ratio": 9.0}, {"finish_reason": "length"}, {"avg_logprob": -3.0}]
WINDOW = Window(
    np.full(RATE, 0.1, np.float32),
    "it",
    "translate",
    DecodingOptions(token_logprobs=True),
    prompt=(1, 2),
    features=np.zeros((80, 128), np.float32),
)


def place(seconds=10.0, speech=None):
    """Make a slice that begins at 100 s."""
    spans = None if speech is None else tuple((round((100 + a) * RATE), round((100 + b) * RATE)) for a, b in speech)
    return Slice(100 * RATE, round((100 + seconds) * RATE), silent=False, speech=spans)


def words(text, start, end):
    """Make words that last from `start` to `end`, counted from the beginning of the audio."""
    spoken = text.split()
    step = (end - start) / len(spoken)
    return [Word(start + i * step, start + (i + 1) * step, f" {word}", 0.9, (i,)) for i, word in enumerate(spoken)]


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "is_none"),
    [(0.61, -1.01, True), (0.61, -0.99, False), (0.59, -1.01, False), (0.6, -2.0, False), (0.99, -1.0, False)],
)
def test_no_speech_takes_two_signs(result, no_speech_prob, avg_logprob, is_none):
    """openai/whisper's rule: no speech is probable and the text is not; at the thresholds the text stays."""
    said = result(no_speech_prob=no_speech_prob, avg_logprob=avg_logprob)
    assert is_no_speech(said) is is_none
    assert is_spoken(said) is not is_none


def test_an_empty_text_is_not_spoken(result):
    """However sure the model is."""
    assert not is_spoken(result(""))


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
        ({"compression_ratio": 9.0, "no_speech_prob": 0.99, "avg_logprob": -1.01}, False),
    ],
)
@pytest.mark.parametrize("positions", [160, MAX_POSITIONS])
def test_loops_and_doubts_look_wrong(result, changes, wrong, positions):
    """openai/whisper's thresholds and an end that never came, at any context; what was no speech is not tried again."""
    said = result(**GOOD | changes | {"positions": positions})
    assert looks_wrong(said) is wrong
    assert (next_attempt(WINDOW, said) is not None) is wrong


@pytest.mark.parametrize("bad", BAD)
def test_a_short_context_is_tried_again_at_full_length_first(result, bad):
    """Everything about the window stays but its context, and the features that were made for that."""
    again = next_attempt(WINDOW, result(**GOOD | bad))
    assert again == dataclasses.replace(WINDOW, full_context=True, features=None)
    assert again.positions(ElasticContext(elastic=True)) == MAX_POSITIONS


@pytest.mark.parametrize("bad", BAD)
def test_a_full_context_is_decoded_less_and_less_greedily(result, bad):
    """0.2, 0.4 … 1.0: openai/whisper's ladder, with the same audio and features, and after its end nothing."""
    window, temperatures = WINDOW, []
    while (following := next_attempt(window, result(**GOOD | bad | {"positions": MAX_POSITIONS}))) is not None:
        temperatures.append(following.options.temperature)
        options = dataclasses.replace(WINDOW.options, temperature=temperatures[-1])
        assert following == dataclasses.replace(WINDOW, options=options)
        window = following
    assert temperatures == [0.2, 0.4, 0.6, 0.8, 1.0] == list(TEMPERATURES)


def test_a_window_at_full_context_is_never_lengthened_again(result):
    """Whatever positions an engine says it was paid for, the ladder has an end."""
    window = dataclasses.replace(WINDOW, full_context=True)
    assert next_attempt(window, result(**GOOD | {"avg_logprob": -3.0})).options.temperature == TEMPERATURES[0]


@given(doubts=st.lists(st.tuples(st.floats(-3, 0), st.floats(0.5, 4), st.booleans(), st.floats(0, 1)), min_size=7))
def test_the_ladder_stops_at_the_first_good_answer(doubts):
    """Whatever the answers, no more than seven tries, each hotter than the one before, none after a good one."""
    tries, window = [], WINDOW
    for logprob, ratio, is_long, no_speech in doubts:
        positions = window.positions(ElasticContext(elastic=True))
        reason = "length" if is_long else "stop"
        said = DecodingResult("ciao", (1,), "it", 1.0, logprob, no_speech, ratio, positions, reason)
        tries.append((window, said))
        following = next_attempt(window, said)
        if following is None:
            break
        window = following
    else:
        raise AssertionError("the ladder has no end")
    assert len(tries) <= 2 + len(TEMPERATURES)
    assert all(looks_wrong(said) for _, said in tries[:-1])
    assert not looks_wrong(tries[-1][1]) or tries[-1][0].options.temperature == 1.0
    rungs = [(tried.full_context, tried.options.temperature) for tried, _ in tries]
    assert rungs == [(False, 0.0), (True, 0.0), *((True, hot) for hot in TEMPERATURES)][: len(rungs)]


def test_a_good_last_answer_is_the_one_to_keep(result):
    """Even if another, which looked wrong, was more probable."""
    answers = [result("la la la", avg_logprob=-0.1, compression_ratio=9.0), result("uno", avg_logprob=-0.9)]
    assert best(answers).text == "uno"


def test_of_doubtful_answers_the_most_probable_is_kept(result):
    """But none that loops, unless all do."""
    loops = [result("a a a", avg_logprob=-0.1, compression_ratio=9.0), result("b b", finish_reason="length")]
    doubts = [result("uno", avg_logprob=-1.5), result("due", avg_logprob=-1.2), result("tre", avg_logprob=-2.0)]
    assert best([*loops, *doubts]).text == "due"
    assert best([*doubts, *loops]).text == "due"
    assert best(loops).text == "a a a"


def test_an_answer_that_is_found_to_be_no_speech_is_kept(result):
    """A hotter try that says that nobody speaks ends the ladder, and the text of the others is not brought back."""
    answers = [result("grazie", avg_logprob=-1.1), result("e", avg_logprob=-2.0, no_speech_prob=0.9)]
    assert not is_spoken(best(answers))


def test_a_good_answer_has_no_flags(result):
    """With words or without."""
    said = result("buongiorno a tutti", **GOOD)
    assert flags(said, None, place()) == flags(said, words("buongiorno a tutti", 101, 103), place()) == ()


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"compression_ratio": COMPRESSION_RATIO_THRESHOLD + 0.1}, "loop"),
        ({"finish_reason": "length"}, "loop"),
        ({"avg_logprob": LOGPROB_THRESHOLD - 0.1}, "low_logprob"),
    ],
)
def test_what_looks_wrong_has_its_flag(result, changes, flag):
    """A loop and low probability are the window's: each of its segments carries them."""
    said = result(**GOOD | changes)
    assert flags(said, None, place()) == flags(said, words("ciao", 101, 103), place()) == (flag,)


@pytest.mark.parametrize(("seconds", "found"), [(3.0, ("implausible_rate",)), (4.0, ())])
def test_nobody_speaks_so_fast(result, seconds, found):
    """More than 30 letters a second of the segment, by its words' times or, without any, by the window's."""
    text = "abcde " * 20
    assert flags(result(text, **GOOD), None, place(seconds)) == found
    assert flags(result(text, **GOOD), words(text, 101, 101 + seconds), place(20)) == found


def test_only_letters_and_digits_are_spoken(result):
    """Blanks and punctuation take no time; letters of any script do."""
    assert flags(result("... --- ... " * 20, **GOOD), None, place(1)) == ()
    assert flags(result("речь" * 20, **GOOD), None, place(1)) == ("implausible_rate",)


def test_a_word_of_no_length_is_not_implausible(result):
    """Alignment may give a word 20 ms; half a second is the least that is judged."""
    assert flags(result("buongiorno", **GOOD), words("buongiorno", 101, 101.02), place()) == ()


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (100.0, 100.6, ()),  # reaches to 0.4 s before speech
        (100.0, 100.4, ("outside_speech",)),  # 0.6 s before
        (101.2, 102.5, ()),
        (103.4, 104.0, ()),  # begins 0.4 s after
        (103.6, 104.0, ("outside_speech",)),
        (100.0, 109.0, ()),
    ],
)
def test_text_outside_speech_is_flagged(result, start, end, found):
    """Where the voice detector heard nobody within half a second, the words are likely made up."""
    heard = place(speech=[(1.0, 3.0)])
    assert flags(result("ciao", **GOOD), words("ciao", start, end), heard) == found


def test_who_was_not_listened_to_is_not_flagged(result):
    """Without a detector, nothing is known of where somebody speaks; with one that heard nobody, all is outside."""
    assert flags(result("ciao", **GOOD), None, place()) == ()
    assert flags(result("ciao", **GOOD), None, place(speech=[])) == ("outside_speech",)


def test_flags_add_up(result):
    """All that is doubtful is told, in the order of their list."""
    said = result("la" * 400, compression_ratio=9.0, avg_logprob=-2.0)
    assert flags(said, None, place(speech=[])) == ("loop", "low_logprob", "implausible_rate", "outside_speech")
