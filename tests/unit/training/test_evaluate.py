"""Hypotheses and the scores made of them."""

import pytest

from speech.audio import decode_audio
from training.data.manifest import AudioSlice, Utterance
from training.evaluate import (
    POOLED,
    Hypothesis,
    by_language,
    character_rates,
    read_hypotheses,
    transcribe_utterances,
    wer_intervals,
    write_hypotheses,
)

ONE = Hypothesis(id="a", language="it", reference="Ciao, mondo bello!", hypothesis="ciao mondo")
TWO = Hypothesis(id="b", language="ru", reference="Спасибо.", hypothesis="спасибо")


def test_hypotheses_survive_the_disk(tmp_path):
    """What is written is read back, and written twice is the same bytes."""
    path = tmp_path / "hyps" / "test.jsonl.gz"
    write_hypotheses(path, [ONE, TWO])
    first = path.read_bytes()
    assert read_hypotheses(path) == [ONE, TWO]
    write_hypotheses(path, [ONE, TWO])
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b"])
def test_a_line_separator_in_a_text_is_text(tmp_path, separator):
    """What Unicode calls the end of a line, and JSON does not, survives the disk."""
    strange = ONE.model_copy(update={"reference": f"uno{separator}due", "hypothesis": f"tre{separator}"})
    write_hypotheses(tmp_path / "test.jsonl.gz", [strange, TWO])
    assert read_hypotheses(tmp_path / "test.jsonl.gz") == [strange, TWO]


def test_one_language_is_not_pooled_with_itself():
    """All languages together are scored only where there are several."""
    assert list(by_language([ONE])) == ["it"]
    assert by_language([ONE, TWO])[POOLED] == [ONE, TWO]


def test_scores_are_of_normalised_text():
    """Case and punctuation are no errors; a missing word is one in three."""
    assert wer_intervals([ONE, TWO], seed=0)["it"].value == pytest.approx(1 / 3)
    assert wer_intervals([ONE, TWO], seed=0)["ru"].value == 0
    assert wer_intervals([ONE, TWO], seed=0)[POOLED].value == pytest.approx(1 / 4)
    assert character_rates([ONE])["it"] == pytest.approx(6 / 16)  # " bello" of "ciao mondo bello"


def test_two_clips_of_one_id_are_refused(tmp_path):
    """One's answer would stand for both, and a language could vanish from a judgement."""
    audio = AudioSlice(path="a.wav", offset=0.0, duration=1.0, sha256="0" * 64)
    clips = [Utterance(id="a", audio=audio, text="uno", language=code, source="test") for code in ("it", "ru")]
    with pytest.raises(ValueError, match="same id"):
        transcribe_utterances(None, clips, tmp_path)


def test_failure_3_each_clip_is_asked_for_in_its_own_language(speech, steady):
    """Also where clips of two languages share a batch; and as a transcription, never a translation."""
    utterances, folder = speech
    mixed = [one.model_copy(update={"language": code}) for one, code in zip(utterances, ("it", "ru"), strict=False)]
    assert mixed[0].audio.path != mixed[1].audio.path
    engine = steady("tono")
    transcribe_utterances(engine, mixed, folder)
    asked = {(window.audio.size, window.language, window.task) for window in engine.windows}
    assert asked == {(decode_audio(folder / one.audio.path).size, one.language, "transcribe") for one in mixed}
