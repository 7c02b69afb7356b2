"""Telling wrong transcripts from hard audio, by what the base heard and how sure it was."""

import pytest

from training.lint.labels import check_labels, score_base, suspects_of

RIGHT = "Prema uno per ascoltare i messaggi."
OTHER = "Il numero chiamato non è più attivo."


def kinds(suspects):
    """Return id → kind."""
    return {one.id: one.kind for one in suspects}


def test_what_the_base_hears_as_written_is_no_suspect(utterance, heard):
    """Case and punctuation are style, not errors."""
    assert suspects_of([utterance("a", RIGHT)], {"a": heard("prema uno, per ascoltare i messaggi")}) == []


@pytest.mark.parametrize(
    ("hypothesis", "probability", "kind"),
    [
        (OTHER, 0.9, "wrong_transcript"),
        (OTHER, 0.35, "hard_audio"),
        (OTHER, 0.5, "misheard"),
        ("Prema uno per ascoltare i messaggi, oppure due per uscire.", 0.9, "incomplete_transcript"),
        ("Prema.", 0.9, "incomplete_transcript"),
        ("Prego.", 0.9, "wrong_transcript"),
        ("Prema uno per.", 0.9, "incomplete_transcript"),
        ("Prema uno per ascoltarli, messaggi.", 0.9, "misheard"),
        ("", 0.9, "hard_audio"),
        ("no no no no no no no no no no no no no no no no no no no", 0.9, "hard_audio"),
    ],
)
def test_the_likeliest_explanation_is_given(utterance, heard, hypothesis, probability, kind):
    """Another sentence, clearly heard, is a wrong transcript; hesitation, near words and loops are the audio's."""
    (suspect,) = suspects_of([utterance("a", RIGHT)], {"a": heard(hypothesis, probability)})
    assert suspect.kind == kind


def test_exchanged_transcripts_are_told_even_if_the_base_hesitates(utterance, heard):
    """Two clips with each other's transcripts are found as such, with whose was heard."""
    data = [utterance("a", RIGHT), utterance("b", OTHER), utterance("c", "Grazie e arrivederci a tutti.")]
    found = suspects_of(data, {"a": heard(OTHER, 0.4), "b": heard("Prema uno per ascoltar i messaggi", 0.4)})
    assert {one.id: (one.kind, one.heard_elsewhere) for one in found} == {
        "a": ("mispaired", "b"),
        "b": ("mispaired", "a"),
    }


def test_the_opposite_is_no_match(utterance, heard):
    """Two letters tell "disattivata" from "riattivata": a text is another clip's by its words, too."""
    data = [utterance("a", "Ora sei muto."), utterance("b", "voce riattivata")]
    (found,) = suspects_of(data, {"a": heard("voce disattivata.", 0.8)})
    assert (found.kind, found.heard_elsewhere) == ("wrong_transcript", None)


def test_a_short_word_is_nobody_elses_transcript(utterance, heard):
    """Single words are heard by chance."""
    data = [utterance("a", "Ufficio postale centrale."), utterance("b", "Ciao.")]
    (found,) = suspects_of(data, {"a": heard("ciao", 0.4)})
    assert (found.kind, found.heard_elsewhere) == ("hard_audio", None)


def test_numbers_in_words_are_a_way_of_writing(utterance, heard):
    """A clearly heard "sette" for "7" is not a wrong transcript."""
    (found,) = suspects_of([utterance("a", "Cartella 7777")], {"a": heard("Sette sette sette sette.", 0.9)})
    assert found.kind == "misheard"


def test_letters_by_their_names_are_a_way_of_writing(utterance, heard):
    """whisper-base clearly hears "М-I-S-D-M" where the Russian transcript has the letters' names."""
    (found,) = suspects_of([utterance("a", "Эм Ай Эс Ди Эн", language="ru")], {"a": heard("М-I-S-D-M", 0.81)})
    assert found.kind == "misheard"


def test_the_surest_label_errors_come_first(utterance, heard):
    """The list is for ears with little time: label errors, the surest first, then the rest by how much differs."""
    data = [utterance(name, RIGHT) for name in "abcde"]
    found = suspects_of(
        data,
        {
            "a": heard("Prema uno per ascoltare i messaggeri.", 0.9),
            "b": heard(OTHER, 0.54),
            "c": heard("Prema due se vuole la segreteria.", 0.56),
            "d": heard(OTHER, 0.95),
            "e": heard("Rema uno per ascoltar messaggi", 0.5),
        },
    )
    assert [one.id for one in found] == ["d", "c", "b", "e", "a"]
    scores = {one.id: one.score for one in found}
    assert kinds(found)["b"] == "misheard"
    assert scores["b"] > scores["c"]  # more differs, but the base hesitates


def test_languages_are_not_compared(utterance, heard):
    """A hypothesis is looked for among the transcripts of its own language."""
    data = [utterance("a", RIGHT), utterance("b", OTHER, language="ru")]
    (found,) = suspects_of(data, {"a": heard(OTHER, 0.9)})
    assert (found.kind, found.heard_elsewhere) == ("wrong_transcript", None)


def test_the_bases_score_is_also_told_without_suspects(clips, utterance, heard):
    """What correct transcripts would give: the WER without the clips whose transcript is to blame."""
    data = [*clips(20), utterance("x", RIGHT)]
    answers = {u.id: heard(u.text) for u in data} | {"x": heard(OTHER, 0.9)}
    scores = score_base(data, answers, suspects_of(data, answers), seed=1)
    assert scores["it"].clips == 21
    assert scores["it"].wer == pytest.approx(7 / 126)
    assert scores["it"].without_suspects == 0.0
    assert scores["it"].low <= scores["it"].wer <= scores["it"].high


CHINESE = "今天我们去公园散步吧"
OTHER_CHINESE = "请在提示音后留言谢谢"


def test_languages_without_blanks_are_scored_by_characters(utterance, heard):
    """One wrong character of ten is a tenth, so that a base which knows the language may still accuse transcripts."""
    data = [utterance(f"{i}", f"{CHINESE}{i}", language="zh") for i in range(9)]
    data.append(utterance("x", OTHER_CHINESE, language="zh"))
    answers = {u.id: heard(u.text.replace("步", "布")) for u in data} | {"x": heard("外面下着很大的雨", 0.9)}
    suspects = suspects_of(data, answers)
    scores = score_base(data, answers, suspects, seed=1)
    assert scores["zh"].without_suspects == pytest.approx(1 / 11)
    assert scores["zh"].wer < 0.5
    assert [(one.code, one.ids) for one in check_labels(suspects, scores)] == [("wrong_transcript", ("x",))]
    assert [one.wer for one in suspects if one.id != "x"] == pytest.approx([1 / 11] * 9)


def test_transcripts_without_blanks_are_compared_by_characters(utterance, heard):
    """Another clip's transcript is told though one character differs, and a comma more is no suspect."""
    data = [utterance("a", CHINESE, language="zh"), utterance("b", OTHER_CHINESE, language="zh")]
    found = suspects_of(data, {"a": heard("请在提示音后留言射谢", 0.4), "b": heard("请在提示音后、留言，谢谢。")})
    assert [(one.id, one.kind, one.heard_elsewhere) for one in found] == [("a", "mispaired", "b")]


def test_findings_name_each_kind_of_label_error(clips, utterance, heard):
    """Wrong, exchanged and incomplete transcripts are a finding each; hard audio is none."""
    data = [*clips(30), *(utterance(name, RIGHT) for name in "wmih"), utterance("o", OTHER)]
    answers = {u.id: heard(u.text) for u in data} | {
        "w": heard("Tutt'altra cosa si sente qui, davvero.", 0.9),
        "m": heard(OTHER, 0.9),
        "i": heard("Prema uno per ascoltare i messaggi, oppure due per uscire.", 0.9),
        "h": heard("Tutt'altra cosa si sente qui, davvero.", 0.3),
    }
    suspects = suspects_of(data, answers)
    found = {one.code: one.ids for one in check_labels(suspects, score_base(data, answers, suspects, seed=1))}
    assert found == {"wrong_transcript": ("w",), "mispaired": ("m",), "incomplete_transcript": ("i",)}


def test_a_base_that_knows_the_language_hardly_accuses_nobody(clips, heard):
    """Where most words are wrong, the base is the likelier culprit, and that is said."""
    data = clips(12)
    answers = {u.id: heard(OTHER, 0.9) for u in data}
    suspects = suspects_of(data, answers)
    (found,) = check_labels(suspects, score_base(data, answers, suspects, seed=1))
    assert found.code == "base_knows_little"
