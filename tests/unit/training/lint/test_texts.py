"""Findings that the transcripts alone give, each on a data set that has just that fault."""

import pytest

from training.lint.texts import check_texts, letters_compression_ratio

DENSE = {"dense_tokens"}  # the tests' tokenizer is one of bytes: it has a token a letter


def codes_of(findings):
    """Return code → ids, without what every text has under a tokenizer of bytes."""
    return {one.code: list(one.ids) for one in findings if one.code not in DENSE}


def test_well_written_transcripts_have_no_finding(clips, tokenizer):
    """Forty clean transcripts give nothing to say."""
    assert codes_of(check_texts(clips(40), tokenizer)) == {}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("?!…", "empty_text"),
        ("alfa " * 90, "too_many_tokens"),
        ("Un testo che non finisce mai: " + " ".join(f"{i * i}" for i in range(50)), "many_tokens"),
        ("sì sì sì sì sì sì sì sì sì sì sì sì sì sì sì sì sì sì sì sì", "repetitive_text"),
        ("Нажмите решётку.", "other_script"),
        ("Perche\u0301 no.", "not_nfc"),
    ],
)
def test_a_faulty_transcript_is_named(clips, utterance, tokenizer, text, code):
    """Each fault of a single text is found, in that text alone."""
    found = codes_of(check_texts([*clips(20), utterance("x", text)], tokenizer))
    assert found[code] == ["x"]
    assert not {"too_many_tokens", "many_tokens"} <= set(found)  # what cannot be written need not be served


def test_a_short_clip_is_given_few_tokens(utterance, tokenizer):
    """Of 2 s the service writes 84 tokens at most: a text of more is told there, and not of a longer clip."""
    text = "a" * 85
    assert len(tokenizer.encode(text)) == 85
    short, longer = (utterance(f"{seconds}", text, audio={"duration": seconds}) for seconds in (2.0, 2.5))
    assert codes_of(check_texts([short, longer], tokenizer))["many_tokens"] == ["2.0"]


def test_a_text_that_the_tokenizer_changes_is_named(clips, utterance, tokenizer):
    """What tokens do not give back is an error: the model could never write it."""

    class Lossy:
        languages = tokenizer.languages
        encode = staticmethod(tokenizer.encode)

        @staticmethod
        def decode(tokens):
            return tokenizer.decode(tokens).replace("z", "")

    found = {one.code: one for one in check_texts([*clips(8), utterance("x", "Una zebra.")], Lossy())}
    assert found["lossy_tokens"].ids == ("x",)
    assert "ebra" in found["lossy_tokens"].details[0]
    assert found["lossy_tokens"].level == "error"


def test_a_language_that_the_base_does_not_know_is_an_error(utterance, tokenizer):
    """The tests' tokenizer knows en, it and ru only."""
    (found,) = [one for one in check_texts([utterance("x", "Hej.", language="sv")], tokenizer) if one.level == "error"]
    assert (found.code, found.ids) == ("unknown_language", ("x",))


def test_a_long_clip_needs_segments(utterance, tokenizer):
    """Beyond 30 s Whisper needs to know where the parts are; with segments it does."""
    long = {"audio": {"duration": 31.0}}
    with_segments = utterance("b", "Due.", segments=({"start": 0.0, "end": 31.0, "text": "Due."},), **long)
    assert codes_of(check_texts([utterance("a", "Uno.", **long), with_segments], tokenizer)) == {"too_long": ["a"]}


def test_odd_speaking_rates_stand_out(clips, utterance, tokenizer):
    """A sentence in a hundredth, or in ten times, of the usual time is named; a somewhat slow one is not."""
    odd = [
        utterance("fast", "Questo è un testo detto in un attimo.", audio={"duration": 0.5}),
        utterance("slow", "Breve.", audio={"duration": 12.0}),
        utterance("usual", "Breve ma non troppo.", audio={"duration": 2.2}),
    ]
    found = codes_of(check_texts([*clips(40), *odd], tokenizer))
    assert found == {"odd_speaking_rate": ["fast", "slow"]}


def test_capitals_are_told(clips, tokenizer):
    """A corpus in capitals is warned of once, not clip by clip."""
    shouted = [u.model_copy(update={"text": u.text.upper()}) for u in clips(20)]
    assert codes_of(check_texts(shouted, tokenizer)) == {"all_caps": []}


def test_ways_of_writing_that_mix_are_told(clips, tokenizer):
    """A fifth without capital and full stop is a mixture; one clip in forty is not."""
    for n, expected in ((8, {"mixed_case", "mixed_punctuation"}), (1, set())):
        mixed = [
            u.model_copy(update={"text": u.text.lower().rstrip(".")}) if i < n else u for i, u in enumerate(clips(40))
        ]
        assert set(codes_of(check_texts(mixed, tokenizer))) == expected


def test_languages_are_looked_at_apart(clips, tokenizer):
    """One language in lower case beside one that is not is no mixture."""
    lower = [u.model_copy(update={"text": u.text.lower()}) for u in clips(20, "en")]
    assert codes_of(check_texts([*clips(20), *lower], tokenizer)) == {}


def test_many_repeated_sentences_are_told(clips, utterance, tokenizer):
    """Ten clips of one sentence among thirty are too many."""
    again = [utterance(f"x{i}", "Rimanga in linea.") for i in range(10)]
    assert len(codes_of(check_texts([*clips(20), *again], tokenizer))["duplicate_sentences"]) == 10


def test_dense_tokens_are_told(clips, tokenizer):
    """A tokenizer that takes a token a letter is warned of, by language."""
    (found,) = [one for one in check_texts(clips(5), tokenizer) if one.code == "dense_tokens"]
    assert found.where == "it"
    assert "1." in found.what


def test_repetition_is_told_alike_in_all_scripts():
    """Cyrillic, of two bytes a letter in UTF-8, repeats itself no more than the same letters in Latin."""
    russian = "нажмите решётку чтобы закончить разговор"
    latin = russian.translate({ord(letter): 97 + i for i, letter in enumerate(sorted(set(russian) - {" "}))})
    assert letters_compression_ratio(russian) == pytest.approx(letters_compression_ratio(latin), abs=0.1)
