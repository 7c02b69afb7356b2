"""The real base finds wrong transcripts among real Italian ones: planted ones, and those that are really wrong."""

import pytest

from speech.tokens import WhisperTokenizer
from training.lint.lint import lint

N_CLIPS = 60
N_SWAPPED = 6  # pairs
N_WRONG = 6

FOREIGN = (
    "Domani il treno per la montagna parte con mezz'ora di ritardo.",
    "La ricetta vuole tre uova, farina e un bicchiere di latte.",
    "I bambini giocano a pallone nel cortile della scuola.",
    "Il museo resta chiuso tutti i lunedì d'inverno.",
    "Ho comprato due chili di mele al mercato sotto casa.",
    "La squadra ha vinto la partita all'ultimo minuto.",
)
"""What no prompt says."""


@pytest.mark.full
def test_planted_label_errors_are_found_among_real_speech(italian, base, tmp_path):
    """Of 12 exchanged and 6 foreign transcripts among 60, nearly all come first, and few others are accused."""
    usual = [u for u in italian if 2.5 <= u.audio.duration <= 5.0]
    clips = [u.model_copy(update={"split": "test"}) for u in usual[:: max(1, len(usual) // N_CLIPS)][:N_CLIPS]]
    swapped = {}
    for i in range(N_SWAPPED):
        one, other = clips[2 * i], clips[2 * i + 1]
        swapped[one.id], swapped[other.id] = other.text, one.text
    foreign = {clips[-1 - i].id: text for i, text in enumerate(FOREIGN)}
    planted = {**swapped, **foreign}
    data = [u.model_copy(update={"text": planted.get(u.id, u.text)}) for u in clips]
    tokenizer = WhisperTokenizer.from_folder(base.path)

    report = lint(data, [], tokenizer=tokenizer, base=base, cache=tmp_path)

    blamed = [s for s in report.suspects if s.is_label_error]
    found = {s.id for s in blamed} & set(planted)
    accused = {s.id for s in blamed} - set(planted)
    exchanged = [s for s in blamed if s.id in swapped and s.kind == "mispaired"]
    outcome = f"found {len(found)} of {len(planted)}; {len(exchanged)} as exchanged; accused: {sorted(accused)}"
    assert len(found) >= 0.85 * len(planted), outcome
    assert len(accused) <= 0.1 * len(data), outcome
    assert len({s.id for s in report.suspects[: len(planted)]} & set(planted)) >= 0.8 * len(planted), outcome
    for suspect in exchanged:
        elsewhere = next(u for u in data if u.id == suspect.heard_elsewhere)
        assert elsewhere.text == next(u.text for u in clips if u.id == suspect.id)
    again = lint(clips, [], tokenizer=tokenizer, base=base, cache=tmp_path)
    assert not {s.id for s in again.suspects if s.is_label_error} & set(planted)  # corrected, and nothing heard anew
    assert again.scores["it"].wer < 0.6 * report.scores["it"].wer


@pytest.mark.full
def test_the_prompts_own_errors_are_found(italian, base, tmp_path):
    """Two of the Italian transcripts are not what is on the tape, and lint accuses these and none of thirty others."""
    wrong = {"asterisk-it/conf-muted", "asterisk-it/vm-then-pound"}
    others = [u for u in italian if u.id not in wrong and u.audio.duration <= 5]
    clips = [*(u for u in italian if u.id in wrong), *others[:: len(others) // 30][:30]]
    clips = [u.model_copy(update={"split": "test"}) for u in clips]
    report = lint(clips, [], tokenizer=WhisperTokenizer.from_folder(base.path), base=base, cache=tmp_path)
    assert {s.id for s in report.suspects if s.is_label_error} == wrong
