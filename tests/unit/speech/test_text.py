"""The promises of the normaliser: every script keeps its words, and only they count."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speech.text import normalize


@pytest.mark.parametrize(
    "text",
    ["हिन्दी में बोलिए", "ภาษาไทยที่นี่", "தமிழ் மொழி", "العَرَبِيَّة", "বাংলা ভাষা", "မြန်မာစာ", "ខ្មែរ"],
    ids=["hindi", "thai", "tamil", "arabic", "bengali", "burmese", "khmer"],
)
def test_vowel_signs_stay(text):
    """Combining marks carry vowels in many scripts; without them the words are other words."""
    kept = normalize(text)
    assert kept == unicodedata.normalize("NFKC", text)
    assert any(unicodedata.category(character)[0] == "M" for character in kept)


def test_words_that_differ_by_a_vowel_sign_differ():
    """«Day» and «lamp» in Hindi are not one word."""
    assert normalize("दिन") != normalize("दीन")


@given(st.text())
def test_composed_and_decomposed_are_one(text):
    """How an accent is encoded is no difference."""
    assert normalize(unicodedata.normalize("NFC", text)) == normalize(unicodedata.normalize("NFD", text))


@given(st.text())
@example("e\u200d\u0301")  # a joiner between a letter and its accent
@example("İ\u0316")  # lower case brings a mark that belongs behind the one below
@example("i\u0307\u0307\u0308")  # a dot that is left out brings an i and its diaeresis together
@example("i\u0345\u200d\u0307")  # a joiner kept a dot from its place before another mark
@example("a\u0301\ufe0f\u0316")
def test_it_is_idempotent(text):
    """A normalised text is left alone."""
    assert normalize(normalize(text)) == normalize(text)


@given(st.text())
def test_what_is_left_is_words_and_single_blanks(text):
    """Letters, marks and numbers, with one blank between words and none around."""
    kept = normalize(text)
    assert all(character == " " or unicodedata.category(character)[0] in "LMN" for character in kept)
    assert kept == " ".join(kept.split())


@given(st.text(st.characters(categories=["P", "S", "Z", "Cc"], exclude_characters="\u00a8\u00b4\u00b8")))
def test_without_letters_nothing_is_said(text):
    """Punctuation, symbols and blanks are no words, unless compatibility spells a letter with them."""
    letters = [c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c)[0] in "LMN"]
    assert (normalize(text) == "") == (not letters)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("   \n\t ", ""),
        ("…?!—«»", ""),
        ("Buongiorno, A Tutti!", "buongiorno a tutti"),
        ("ПРИВЕТ", "привет"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("l'ultimo", "l ultimo"),
        ("l’ultimo", "l ultimo"),
        ("well-known", "well known"),
        ("alle 20:30", "alle 20 30"),
        ("3.5 €", "3 5"),
        ("٣ ३ 3", "٣ ३ 3"),
        ("ﬁne Ⅳ ½x", "fine iv 1 2x"),
        ("ＡＢＣ", "abc"),
        ("a\u00a0b\u3000c", "a b c"),
        ("perché", "perché"),
        ("perche\u0301", "perché"),
        ("DİYARBAKIR", "diyarbakir"),
        ("п\u02bcять", "п ять"),
        ("ciao \u2764\ufe0f ciao", "ciao ciao"),
        ("1\ufe0f\u20e3 uno", "1 uno"),
    ],
)
def test_worked_examples(text, expected):
    """Case, punctuation, apostrophes, digits and widths, by hand."""
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("İstanbul", "istanbul"),
        ("I\u0307stanbul", "istanbul"),
        ("i\u0307stanbul", "istanbul"),  # as Python, and with it many a data set, writes İ in lower case
        ("Işık", "ışık"),
        ("IŞIK", "ışık"),
        ("DİYARBAKIR", "Diyarbakır"),
        ("п'ять", "п\u02bcять"),
        ("п\u2019ять", "п\u02bcять"),
        ("o'zbek", "o\u02bbzbek"),
        ("كـــتاب", "كتاب"),
    ],
)
def test_one_word_is_one_word_in_any_language(one, other):
    """Turkish case, an apostrophe that Unicode calls a letter, and a stretched Arabic word are no differences."""
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize("invisible", ["\u00ad", "\u200b", "\u200c", "\u200d", "\u200e", "\u2060", "\ufeff"])
def test_format_characters_vanish(invisible):
    """Joiners, soft hyphens and direction marks neither split a word nor change it."""
    assert unicodedata.category(invisible) == "Cf"
    assert normalize(f"tele{invisible}fono") == "telefono"
