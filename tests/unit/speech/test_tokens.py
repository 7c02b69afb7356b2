"""The promises of the tokens: Whisper's prompts and targets, and text that is only ever text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from speech.tokens import BYTES, N_TIMESTAMPS, UnknownLanguageError, WhisperTokenizer, load_tokenizer

SPECIALS = ["<|endoftext|>", "<|startoftranscript|>", "<|it|>", "<|transcribe|>", "<|nospeech|>", "<|notimestamps|>"]


@pytest.fixture(scope="module")
def merging(tokenizer_folder, tmp_path_factory):
    """Return a tokenizer that has one token of two letters: a blank and a "c"."""
    layout = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    layout["model"]["vocab"]["Ġc"] = len(layout["model"]["vocab"])
    layout["model"]["merges"] = [["Ġ", "c"]]
    for token in layout["added_tokens"]:
        token["id"] += 1
    folder = tmp_path_factory.mktemp("merging")
    (folder / "tokenizer.json").write_text(json.dumps(layout), encoding="utf-8")
    return WhisperTokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def name_of(tokenizer):
    """Return the function that spells a token."""
    return tokenizer._tokenizer.id_to_token


def test_the_special_tokens_are_found_by_name(tokenizer, name_of):
    """No id is taken for granted: checkpoints number them differently."""
    assert name_of(tokenizer.sot) == "<|startoftranscript|>"
    assert name_of(tokenizer.eot) == "<|endoftext|>"
    assert name_of(tokenizer.sot_prev) == "<|startofprev|>"
    assert name_of(tokenizer.no_speech) == "<|nospeech|>"
    assert name_of(tokenizer.no_timestamps) == "<|notimestamps|>"
    assert {task: name_of(token) for task, token in tokenizer.tasks.items()} == {
        "transcribe": "<|transcribe|>",
        "translate": "<|translate|>",
    }


def test_missing_timestamps_are_completed(tokenizer, tokenizer_folder, name_of):
    """Some exports end before the 1,501 timestamps; the model has them all the same."""
    stored = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    assert stored.token_to_id("<|0.00|>") is None
    names = [name_of(tokenizer.timestamp_begin + i) for i in range(N_TIMESTAMPS)]
    assert names[:3] == ["<|0.00|>", "<|0.02|>", "<|0.04|>"]
    assert names[-1] == "<|30.00|>"
    assert name_of(tokenizer.timestamp_begin + N_TIMESTAMPS) is None


def test_timestamps_are_completed_once(tokenizer, tmp_path):
    """A tokenizer that has them is left alone."""
    tokenizer._tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert again.get_vocab(with_added_tokens=True) == tokenizer._tokenizer.get_vocab(with_added_tokens=True)


def test_another_tokenizer_is_refused(tmp_path):
    """What has no start token cannot drive a Whisper."""
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"no <\|startoftranscript\|>"):
        WhisperTokenizer.from_folder(tmp_path)


def test_languages_come_in_the_order_of_their_tokens(tokenizer):
    """Between the start token and the tasks lie the languages."""
    assert list(tokenizer.languages) == ["en", "it", "ru"]
    assert list(tokenizer.languages.values()) == [tokenizer.sot + 1, tokenizer.sot + 2, tokenizer.sot + 3]


@pytest.mark.parametrize("written", ["it", "IT", "it-IT", "it_IT", " It ", "it-Latn-IT"])
def test_a_language_has_many_spellings(tokenizer, written):
    """Case and region are no difference."""
    assert tokenizer.language_code(written) == "it"


@pytest.mark.parametrize("written", ["", "klingon", "<|it|>", "i", "en it"])
def test_an_unknown_language_is_told_the_known_ones(tokenizer, written):
    """The message lists the codes, and it is a ValueError."""
    with pytest.raises(UnknownLanguageError, match="en, it, ru") as caught:
        tokenizer.language_code(written)
    assert isinstance(caught.value, ValueError)


def test_a_prompt_says_language_task_and_no_timestamps(tokenizer, name_of):
    """Start, language, task, no timestamps: in this order."""
    assert [name_of(token) for token in tokenizer.prompt("ru")] == [
        "<|startoftranscript|>",
        "<|ru|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ]
    assert [name_of(token) for token in tokenizer.prompt("it-IT", "translate", timestamps=True)] == [
        "<|startoftranscript|>",
        "<|it|>",
        "<|translate|>",
    ]


def test_a_prompt_in_an_unknown_language_is_refused(tokenizer):
    """A wrong language is an error, never a guess."""
    with pytest.raises(UnknownLanguageError):
        tokenizer.prompt("de")


@given(text=st.text(max_size=40))
def test_labels_are_prompt_text_and_end(tokenizer, text):
    """A target starts once and ends once, whatever the transcript says."""
    labels = tokenizer.labels(text, "it")
    assert labels == [*tokenizer.prompt("it"), *tokenizer.encode(text), tokenizer.eot]
    assert labels.count(tokenizer.sot) == 1
    assert labels.count(tokenizer.eot) == 1


@pytest.mark.parametrize("special", SPECIALS)
def test_special_tokens_in_a_transcript_are_text(tokenizer, special):
    """Whoever writes a control token into a transcript does not control the training."""
    tokens = tokenizer.encode(f"prima {special} dopo")
    assert all(token < tokenizer.eot for token in tokens)
    assert tokenizer.decode(tokens) == f"prima {special} dopo"
    assert tokenizer.labels(special, "it").count(tokenizer.sot) == 1


@pytest.mark.parametrize("timestamp", ["<|0.00|>", "<|12.34|>", "<|30.00|>"])
def test_a_timestamp_in_a_transcript_is_text(tokenizer, timestamp):
    """Timestamps are no special tokens to the tokenizer's file, and stay text all the same."""
    tokens = tokenizer.encode(f"alle {timestamp} via")
    assert all(token < tokenizer.eot for token in tokens)
    assert tokenizer.decode(tokens) == f"alle {timestamp} via"


@given(text=st.text())
def test_text_survives_the_round_trip(tokenizer, text):
    """Every text comes back; behind another one, with the blank that parts them."""
    assert tokenizer.decode(tokenizer.encode(text)) == text.strip()
    assert tokenizer.decode(tokenizer.encode(text, follows=True)) == " " + text.strip()


@pytest.mark.parametrize(("text", "first"), [("ciao", "Ġc"), ("日本", "æ"), ("আমি", "à"), ("no", "n"), ("", None)])
def test_no_text_begins_with_a_lone_blank(merging, text, first):
    """The blank is part of the first token or left out: decoders never begin with it (`begin_suppress_tokens`)."""
    tokens = merging.encode(text)
    assert next(map(merging._tokenizer.id_to_token, tokens), None) == first
    assert merging.decode(tokens).strip() == text


def test_a_blank_between_two_texts_stays(merging):
    """What follows another text begins with its blank, whether that is a token by itself or not."""
    for text in ("ciao", "আমি"):
        assert merging.decode([*merging.encode("no"), *merging.encode(text, follows=True)]) == f"no {text}"


def test_decoding_leaves_out_what_is_no_text(tokenizer):
    """Prompts, ends and timestamps are not read out."""
    tokens = [*tokenizer.prompt("it"), tokenizer.timestamp_begin + 7, *tokenizer.encode("ciao"), tokenizer.eot]
    assert tokenizer.decode(tokens) == "ciao"


def test_the_byte_alphabet_is_gpt2s():
    """Every byte has one letter; a blank is Ġ."""
    assert sorted(BYTES.values()) == list(range(256))
    assert BYTES["Ġ"] == ord(" ")
    assert BYTES["a"] == ord("a")


@pytest.mark.parametrize("text", ["Prego, città.", "решётку", "日本 🎧"])
def test_tokens_have_bytes(tokenizer, text):
    """Joined, they are the text with its leading blank, though a token may hold half a letter."""
    tokens = tokenizer.encode(text, follows=True)
    assert b"".join(map(tokenizer.token_bytes, tokens)).decode() == " " + text


def test_nothing_decodes_to_nothing(tokenizer):
    """No tokens are no text."""
    assert tokenizer.decode([]) == ""


def test_the_file_on_the_disk_is_not_changed(tokenizer_folder):
    """Completing the timestamps is for the reader, not for the file."""
    before = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    WhisperTokenizer.from_folder(tokenizer_folder).encode("<|0.00|>")
    assert json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")) == before
