"""Subtitles: what fits on a screen, can be read in its time, and is cut where a reader would cut it."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.cells import cell_len

from speech.engine import Word
from speech.subtitles import LINGER, Layout, lay_out
from speech.transcribe import Segment

ONE_LINE = Layout(max_lines=1)


def segment(start, end, text, words=None):
    """Make a segment of which only these matter; `words` are (start, end, word)."""
    spoken = None if words is None else tuple(Word(s, e, word, 1.0, ()) for s, e, word in words)
    return Segment(
        0, start, end, text, avg_logprob=-0.1, no_speech_prob=0.0, compression_ratio=1.0, tokens=(), words=spoken
    )


def spoken(*words, start=0.0):
    """Make a segment of words: each a text and the second at which it ends, or a pause (None) and its end."""
    timed = []
    for text, end in words:
        if text is not None:
            timed.append((start, end, f" {text}"))
        start = end
    return segment(timed[0][0], timed[-1][1], "".join(word for _, _, word in timed).strip(), timed)


def texts(cues):
    """Return each cue's lines."""
    return [cue.lines for cue in cues]


def joined(text):
    """Leave blanks out."""
    return "".join(text.split())


# Any text: words of many scripts, marks and joiners with nothing to join, a word longer than any line.
letters = st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"])
scripts = st.sampled_from(
    [
        "你好，世界。",
        "「電話」ー",
        "नमस्ते",
        "สวัสดีครับ",
        "שלום",
        "e\u0301",
        "👨‍👩‍👧",
        "🇮🇹🇮🇹",
        "...",
        "Dr.",
        "J.",
        "a" * 90,
        "-->",
        "\u200d",
    ]
)
some_text = st.lists(st.text(letters, max_size=12) | scripts, max_size=30).map(" ".join)


@st.composite
def transcripts(draw):
    """Segments in the order of their times, some with words."""
    segments, now = [], 0.0
    for text in draw(st.lists(some_text, max_size=4)):
        start = now + draw(st.sampled_from([0.0, 0.1, 0.9, 5.0]))
        end = start + draw(st.floats(0.5, 30))
        words = None
        if draw(st.booleans()):
            pieces = text.split()
            moments = sorted(draw(st.lists(st.floats(start, end), min_size=2 * len(pieces), max_size=2 * len(pieces))))
            words = [(moments[2 * i], moments[2 * i + 1], f" {word}") for i, word in enumerate(pieces)]
        segments.append(segment(start, end, text, words))
        now = end
    return segments


layouts = st.builds(
    Layout,
    max_chars_per_line=st.integers(1, 60),
    max_lines=st.integers(1, 4),
    max_chars_per_second=st.sampled_from([8.0, 17.0, 1000.0]),
    min_gap=st.sampled_from([0.0, 1 / 12, 1.0]),
)


@given(transcripts(), layouts)
def test_nothing_is_added_lost_or_changed(segments, layout):
    """Whatever the text and the layout, the cues' texts together are the segments', blanks aside."""
    said = "".join(joined(one.text) for one in segments)
    assert "".join(joined(line) for cue in lay_out(segments, layout) for line in cue.lines) == said


@given(transcripts(), layouts)
def test_every_cue_keeps_to_the_layout(segments, layout):
    """No line is too wide, but for a single character that is; no cue has too many lines or stays too long."""
    for cue in lay_out(segments, layout):
        assert 1 <= len(cue.lines) <= layout.max_lines
        assert all(line.strip() for line in cue.lines)
        assert all(cell_len(line) <= max(layout.max_chars_per_line, 2) for line in cue.lines)
        assert cue.end - cue.start <= layout.max_duration + 0.0011


@given(transcripts(), layouts)
def test_cues_follow_each_other(segments, layout):
    """Each begins where something is said, ends after it began, and is gone when the next one comes."""
    cues = lay_out(segments, layout)
    assert all(cue.start < cue.end for cue in cues)
    assert all(one.end <= other.start for one, other in pairwise(cues))
    if cues:
        said = [one for one in segments if one.text.split()]
        assert cues[0].start >= said[0].start - 0.001
        assert cues[-1].end <= said[-1].end + LINGER + 0.001 * (len(cues) + 1)


@given(transcripts())
def test_speech_is_on_the_screen_while_it_is_heard(segments):
    """At every word's beginning, the cue that holds it is shown, or a few milliseconds later where words coincide."""
    cues = lay_out(segments)
    assume(cues)
    place = 0
    shown = [cue for cue in cues for _ in joined("".join(cue.lines))]
    for one in segments:
        for word in one.words or ():
            assert shown[place].start <= word.start + 0.001 * len(cues)
            place += len(joined(word.word))
        if one.words is None:
            place += len(joined(one.text))


def test_a_short_answer_is_one_cue_of_one_line():
    """What fits on a line stays on it, and appears and goes with its words."""
    (cue,) = lay_out([segment(3.0, 5.0, " Rimanga in linea, per favore. ")])
    assert (cue.start, cue.end, cue.lines) == (3.0, 5.0, ("Rimanga in linea, per favore.",))


def test_sentences_are_cues_of_their_own():
    """Where each can be read in its time, even if both would fit on one cue."""
    said = segment(0.0, 5.0, "Login errato. Prego digitare il proprio numero.")
    assert texts(lay_out([said])) == [("Login errato.",), ("Prego digitare il proprio numero.",)]


def test_a_sentence_too_short_to_be_read_joins_its_neighbour():
    """A word of a quarter of a second would flash by."""
    said = spoken(("Sì.", 0.25), ("Va", 0.5), ("bene,", 0.8), ("andiamo", 1.3), ("a", 1.4), ("casa.", 2.0))
    assert texts(lay_out([said])) == [("Sì. Va bene, andiamo a casa.",)]


def test_a_long_sentence_is_cut_at_its_commas():
    """Half-way, and not where the cue is full."""
    text = "Today we are going to talk about the history of the telephone, which is longer than most people think."
    assert texts(lay_out([segment(0.0, 7.0, text)])) == [
        ("Today we are going to talk about", "the history of the telephone,"),
        ("which is longer than most people think.",),
    ]


def test_without_punctuation_a_pause_is_the_place():
    """Words that are said in one breath are read on one cue."""
    said = spoken(
        ("one", 0.5),
        ("two", 1.0),
        ("three", 1.5),
        ("four", 2.0),
        (None, 2.4),
        ("five", 2.9),
        ("six", 3.4),
    )
    assert texts(lay_out([said], replace(ONE_LINE, max_chars_per_line=20))) == [
        ("one two three four",),
        ("five six",),
    ]


def test_a_long_pause_always_ends_a_cue():
    """What is said after a second of silence is not shown before it is said."""
    said = spoken(("Allora", 0.5), (None, 2.0), ("vediamo", 2.5))
    assert [(cue.lines, cue.start) for cue in lay_out([said])] == [(("Allora",), 0.0), (("vediamo",), 2.0)]


def test_two_lines_are_balanced_and_articles_stay_with_their_nouns():
    """Neither one full and one almost empty line, nor `the` at a line's end."""
    said = segment(0.0, 4.0, "There is nothing else to be said about the telephone")
    assert texts(lay_out([said])) == [("There is nothing else", "to be said about the telephone")]


@pytest.mark.parametrize(
    "text",
    [
        "We asked Dr. Smith about it yesterday",
        "A fugue by J. S. Bach was played",
        "They sell apples, pears etc. and nothing else",
    ],
)
def test_an_abbreviation_is_no_sentence(text):
    """Its point ends no cue."""
    assert len(lay_out([segment(0.0, 6.0, text)])) == 1


def test_segments_that_touch_can_share_a_cue():
    """Windows end where they must; a reader need not see it."""
    said = [segment(0.0, 3.0, "the people of"), segment(3.0, 4.0, "the city")]
    (cue,) = lay_out(said)
    assert (cue.start, cue.end, cue.lines) == (0.0, 4.0, ("the people of the city",))


def test_a_window_of_thirty_seconds_is_no_subtitle():
    """Eighty words at once are what users of Whisper's segments complain of; here, each cue has its share."""
    text = " ".join(["so many words are said before anybody stops to breathe or to think of the reader"] * 5)
    cues = lay_out([segment(0.0, 30.0, text)])
    assert len(cues) >= 5
    assert max(cue.end - cue.start for cue in cues) <= 7.0
    assert cues[-1].end == 30.0


def test_a_quick_word_lingers_while_nothing_follows():
    """A cue stays long enough to be read, as far as what follows lets it, and no more than 1.5 s."""
    lone = spoken(("Arrivederci.", 0.3))
    long = spoken(("Unglaublich", 0.3), ("schnell", 0.5), ("gesprochen,", 0.7), ("nicht", 0.8), ("wahr?", 1.0))
    (short_cue,), (long_cue,) = lay_out([lone]), lay_out([long])
    assert short_cue.end == pytest.approx(5 / 6, abs=0.001)
    assert long_cue.end == pytest.approx(len("".join(long_cue.lines)) / 17, abs=0.001)
    assert lay_out([long], Layout(max_chars_per_second=1))[0].end == pytest.approx(1.0 + LINGER)
    first, _ = lay_out([lone, spoken(("Ecco", 2.0), start=1.4)], Layout(min_duration=3.0))
    assert first.end == pytest.approx(1.4 - 2 / 24, abs=0.001)


def test_two_frames_lie_between_two_cues():
    """So that the eye sees that the text has changed."""
    first, second = lay_out([segment(0.0, 8.0, "This is the first sentence. This is the second one.")])
    assert second.start - first.end == pytest.approx(2 / 24, abs=0.001)


def test_times_are_the_words():
    """With words, a cue begins with its first; without, characters share the segment's time."""
    words = [(0.0, 0.5, " Eins."), (4.0, 4.4, " Zwei."), (4.4, 5.0, " Drei.")]
    timed = lay_out([segment(0.0, 10.0, "Eins. Zwei. Drei.", words)])
    assert [cue.start for cue in timed] == [0.0, 4.0]
    even = lay_out([segment(0.0, 9.0, "Eins. Zwei. Drei.")])
    assert [cue.start for cue in even] == [0.0, 3.0, 6.0]


def test_words_that_are_not_the_text_are_not_believed():
    """Their times would be others' times."""
    said = segment(0.0, 9.0, "Eins. Zwei. Drei.", [(0.0, 0.1, " Null.")])
    assert lay_out([said]) == lay_out([segment(0.0, 9.0, "Eins. Zwei. Drei.")])


def test_words_never_leave_their_segment():
    """An alignment that begins before or ends after is cut."""
    (cue,) = lay_out([segment(1.0, 3.0, "Buongiorno", [(0.2, 5.0, " Buongiorno")])])
    assert (cue.start, cue.end) == (1.0, 3.0)


def test_chinese_and_japanese_break_between_characters():
    """Each is two columns wide; no line begins with what closes, nor ends with what opens."""
    text = "皆さん、おはようございます。今日は「電話」の歴史について、お話しします。"
    cues = lay_out([segment(0.0, 8.0, text)], Layout(max_chars_per_line=26))
    assert texts(cues) == [("皆さん、", "おはようございます。"), ("今日は「電話」の歴史に", "ついて、お話しします。")]
    for width in range(4, 40):
        for cue in lay_out([segment(0.0, 8.0, text)], Layout(max_chars_per_line=width)):
            for line in cue.lines:
                assert line[0] not in "、。」ー"
                assert line[-1] != "「"


def test_korean_breaks_at_its_blanks():
    """Its characters are wide, its words are words."""
    cues = lay_out([segment(0.0, 5.0, "오늘은 전화의 역사에 대해 이야기하겠습니다.")], Layout(max_chars_per_line=24))
    assert texts(cues) == [("오늘은 전화의 역사에", "대해 이야기하겠습니다.")]


def test_arabic_is_cut_at_its_own_punctuation():
    """A clause ends at the Arabic comma, a question at the Arabic mark; letters keep their logical order."""
    text = "صباح الخير، أهلاً بكم في البرنامج. كيف حالكم اليوم؟ سنتحدث عن تاريخ الهاتف."
    assert texts(lay_out([segment(0.0, 8.0, text)])) == [
        ("صباح الخير، أهلاً بكم في البرنامج.",),
        ("كيف حالكم اليوم؟",),
        ("سنتحدث عن تاريخ الهاتف.",),
    ]


@pytest.mark.parametrize("mark", ["e\u0301", "न्न", "ते", "👨‍👩‍👧", "🇮🇹", "กำ่"])
def test_a_word_longer_than_a_line_is_cut_between_characters(mark):
    """Letters keep their accents, flags their halves, families their members."""
    cues = lay_out([segment(0.0, 20.0, mark * 30)], Layout(max_chars_per_line=7))
    lines = [line for cue in cues for line in cue.lines]
    assert len(lines) > 1
    assert all(line == mark * (len(line) // len(mark)) for line in lines)


def test_nothing_said_is_no_cue():
    """No segments, or segments of blanks."""
    assert lay_out([]) == lay_out([segment(0.0, 1.0, " ")]) == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_chars_per_line": 0}, "max_chars_per_line"),
        ({"max_lines": 0}, "max_lines"),
        ({"max_chars_per_second": 0.0}, "max_chars_per_second"),
        ({"min_duration": float("nan")}, "min_duration"),
        ({"max_duration": 0.5}, "max_duration"),
        ({"min_gap": -1.0}, "min_gap"),
    ],
)
def test_a_layout_into_which_nothing_fits_is_refused(wrong, named):
    """The error names what is wrong."""
    with pytest.raises(ValueError, match=named):
        Layout(**wrong)
