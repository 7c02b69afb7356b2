"""The page: whole, alone, escaped, and with sound that plays."""

import base64
import io
import re

import numpy as np
import pytest

from speech.audio import SAMPLE_RATE, decode_audio
from training.data.report import Kept
from training.lint.page import WORST, embed, mark_differences, render
from training.lint.report import Cost, LintReport, Power, Suspect, finding

EVIL = "<script>alert('x')</script> & \"io\""


@pytest.fixture
def report():
    """Return a report with one of everything, all its texts hostile."""
    suspect = Suspect(
        id=f"a{EVIL}",
        kind="mispaired",
        language="it",
        split="test",
        reference=EVIL,
        hypothesis=f"due {EVIL}",
        wer=1.0,
        cer=1.0,
        avg_logprob=-0.1,
        score=0.9,
        heard_elsewhere="b",
    )
    return LintReport(
        fingerprint="f" * 64,
        base="whisper@1",
        kept={"it": {"test": Kept(clips=3, seconds=90.0)}},
        left_out={},
        findings=(finding("undecodable", ids=[EVIL], details=[EVIL]), finding("unknown_licence", ids=["b"])),
        suspects=(suspect,),
        listened=2,
        scores={},
        power={"it test": Power(clips=3, words=9, wer=0.1, measured=True, detectable=0.2, wanted=0.05, more_clips=45)},
        cost=Cost(
            hours=1.5,
            steps_per_epoch=10,
            steps=100,
            epochs=10,
            seconds_per_step=2.0,
            how="measured",
            training_hours=0.06,
            disk_gb=2.2,
            price=0.12,
        ),
    )


@pytest.fixture
def page(report, utterance):
    """Return the page of that report."""
    data = {f"a{EVIL}": utterance(f"a{EVIL}", EVIL), "b": utterance("b", f"altro {EVIL}")}
    return render(report, data, lambda _: np.zeros(SAMPLE_RATE, np.float32))


def test_what_the_data_holds_is_escaped(page):
    """No text of the data becomes a tag, wherever it is shown."""
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_nothing_is_loaded_from_anywhere(page):
    """The file stands alone: its policy forbids all but its own style and sound, and it names no address."""
    assert "default-src 'none'" in page
    assert re.findall(r'(?:src|href)="(?!data:audio/mpeg)', page) == []
    assert "http://" not in page
    assert "https://" not in page


def test_it_says_what_it_holds_and_what_was_found(page):
    """That it is private; how many errors; each finding with what to do; what can be decided; the cost."""
    for said in (
        "keep it as private",
        "1 error, 1 warning",
        "error undecodable",
        "warning unknown_licence",
        "45 more clips to show 0.050",
        "1.50 h of training audio",
        "price 0.12",
        'name="viewport"',
        "that is of",
    ):
        assert said in page, said


def test_the_embedded_sound_is_the_clip():
    """The player plays what the utterance holds: the same length, the same tone, a fraction of the bytes."""
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    encoded = base64.b64decode(embed(tone))
    heard = decode_audio(io.BytesIO(encoded))
    assert abs(heard.size - tone.size) < 0.1 * SAMPLE_RATE
    assert np.argmax(np.abs(np.fft.rfft(heard[:SAMPLE_RATE]))) == pytest.approx(440, abs=2)
    assert len(encoded) < 10_000


def test_differing_words_are_marked():
    """Words that only one side has are marked; case and punctuation are no difference."""
    assert mark_differences("Prema uno, ora.", "prema due ora") == (
        "Prema <del>uno,</del> ora.",
        "prema <ins>due</ins> ora",
    )


def test_an_empty_hypothesis_is_said(report, utterance):
    """Nothing heard is written out, not left blank."""
    silent = report.model_copy(update={"suspects": (report.suspects[0].model_copy(update={"hypothesis": ""}),)})
    page = render(silent, {f"a{EVIL}": utterance("a", "Uno.")}, lambda _: np.zeros(1600, np.float32))
    assert "<em>nothing</em>" in page


def test_the_worst_hundred_have_a_player(report, utterance):
    """Of more, the first are shown, who are the surest to be wrong: nobody listens to a thousand clips on one page."""
    names = [f"clip-{n:03}" for n in range(WORST + 20)]
    suspects = tuple(report.suspects[0].model_copy(update={"id": name}) for name in names)
    html = render(
        report.model_copy(update={"suspects": suspects}),
        {name: utterance(name, "una frase") for name in names},
        lambda _: np.zeros(1600, np.float32),
    )
    assert html.count("<audio") == WORST == 100
    assert names[WORST - 1] in html
    assert names[WORST] not in html
