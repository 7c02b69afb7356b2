"""The gate's page: whole, safe whatever was said, worst first, and with sound."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from speech.audio import SAMPLE_RATE, decode_audio
from training.evaluate import Hypothesis
from training.gate import judge
from training.gate_page import curve, marked, shown_curves, to_mp3, worst_first, write_page

NASTY = '<script>alert("1")</script> & <img src=x onerror=alert(1)>'


def heard(*texts, reference="uno due tre quattro cinque"):
    """Return hypotheses whose ids are those of the clips of noise."""
    return [
        Hypothesis(id=str(i), language="it", reference=f"{reference} {i}", hypothesis=text)
        for i, text in enumerate(texts)
    ]


def verdict_of(before, after, **changes):
    """Judge, and change what a test names."""
    judged = judge(before, after, base_ref="m@old", candidate_ref="m@new", test_fingerprint="f", seed=1)
    return judged.model_copy(update=changes)


class Tags(HTMLParser):
    """Collects the tags of a page, and checks that they close in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        """Note a tag."""
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Note a tag that closes itself."""
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Check that what closes is what was opened last."""
        assert self.open.pop() == tag


@pytest.fixture
def written(noise_clips, tmp_path):
    """Return the function that writes a page of twelve clips and returns its text and tags."""
    clips, folder = noise_clips

    def write(before, after, **changes):
        path = tmp_path / "gate.html"
        write_page(path, verdict_of(before, after, **changes), before, after, clips, folder, None)
        html = path.read_text(encoding="utf-8")
        tags = Tags()
        tags.feed(html)
        assert tags.open == []
        return html, tags.seen

    return write


GOOD = [f"uno due tre quattro cinque {i}" for i in range(12)]


def test_the_verdict_comes_first(written):
    """The first heading says what was decided, before any number; forced promotions say so, and why."""
    html, _ = written(heard(*GOOD), heard(*["uno"] * 12))
    assert re.search(r"<h1[^>]*>(.*?)</h1>", html)[1] == "Refused: production stays"
    assert html.index("<h1") < html.index("<svg") < html.index("<article")
    html, _ = written(heard(*["uno"] * 12), heard(*GOOD))
    assert re.search(r"<h1[^>]*>(.*?)</h1>", html)[1] == "Better: may go into production"
    html, _ = written(heard(*GOOD), heard(*["uno"] * 12), forced="a customer <waits>")
    assert "promoted by force" in html
    assert "a customer &lt;waits&gt;" in html


def test_it_says_that_it_is_private(written):
    """Whoever opens it reads that it holds speech, and that it is neither published nor pushed."""
    html, _ = written(heard(*GOOD), heard(*GOOD))
    assert "neither published with the version nor pushed" in html


def test_what_was_said_is_text_and_nothing_else(written):
    """References, hypotheses, ids and reasons that hold HTML are shown as they are, and nothing more gets in."""
    before = [h.model_copy(update={"reference": NASTY, "speaker": NASTY}) for h in heard(*GOOD)]
    after = [h.model_copy(update={"hypothesis": f"{NASTY} {NASTY}"}) for h in before]
    html, seen = written(before, after, reasons=(NASTY,), notes=(NASTY,))
    assert {tag for tag, _ in seen} & {"script", "img", "a", "iframe", "link", "object"} == set()
    assert not any(name.startswith("on") for _, attributes in seen for name in attributes)
    assert "default-src 'none'" in html
    assert all(a["src"].startswith("data:audio/mpeg;base64,") for tag, a in seen if tag == "audio")
    assert "&lt;script&gt;" in html


def test_every_clip_can_be_heard(written, noise_clips):
    """Each of the twelve clips has a player, whose sound lasts as long as the clip."""
    _, seen = written(heard(*GOOD), heard(*GOOD))
    players = [a["src"] for tag, a in seen if tag == "audio"]
    assert len(players) == 12
    longest = max(clip.audio.duration for clip in noise_clips[0])
    decoded = [decode_audio(base64.b64decode(player.split(",")[1])).size / SAMPLE_RATE for player in players]
    assert max(decoded) == pytest.approx(longest, abs=0.1)


def test_a_clip_that_is_gone_has_no_player(noise_clips, tmp_path):
    """The page is written, with its words, where the audio is no longer there."""
    clips, _ = noise_clips
    path = tmp_path / "gate.html"
    both = heard(*GOOD), heard(*GOOD)
    write_page(path, verdict_of(*both), *both, clips, tmp_path, None)
    html = path.read_text(encoding="utf-8")
    assert "<audio" not in html
    assert html.count("<article>") == 12


def test_the_worst_comes_first():
    """First where the candidate lost most against production, then where it makes most errors."""
    before = heard("uno due tre quattro cinque 0", "uno", "uno due", "uno due tre quattro cinque 3")
    after = heard("uno due tre", "uno", "uno due tre quattro cinque 2", "uno due tre quattro cinque 3")
    assert [now.id for _, now in worst_first(before, after)] == ["0", "1", "3", "2"]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "shown"),
    [
        ("Uno, due.", "uno due", "uno due"),
        ("uno due tre", "uno sei tre", "uno <mark>sei</mark> tre"),
        ("uno due tre", "uno tre", "uno <del>due</del> tre"),
        ("uno due", "uno e due", "uno <ins>e</ins> due"),
        ("uno — due", "uno due", "uno due"),
        ("uno", "", "<del>uno</del>"),
        ("a", "<b>", "<mark>&lt;b&gt;</mark>"),
        ("…", "…", '<span class="soft">(nothing)</span>'),
    ],
)
def test_what_differs_is_marked(reference, hypothesis, shown):
    """Words that are others, too many or left out are marked; case and punctuation are not."""
    assert marked(reference, hypothesis) == shown


def test_a_language_without_blanks_is_marked_by_characters():
    """One wrong character of four is one mark."""
    assert marked("今天散步", "今夭散步。", by_character=True) == "今<mark>夭</mark>散步。"


def test_sound_survives_its_encoding():
    """A tone comes back as long, and as the same tone."""
    tone = (0.5 * np.sin(2 * np.pi * 500 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    back = decode_audio(to_mp3(tone))
    assert back.size / SAMPLE_RATE == pytest.approx(2, abs=0.1)
    spectrum = np.abs(np.fft.rfft(back[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + SAMPLE_RATE]))
    assert int(spectrum.argmax()) == 500


def test_curves_are_read_from_the_runs_logs(tmp_path):
    """Losses and error rates that TensorBoard kept are drawn by step; a run without logs has none."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
            writer.add_scalar("train/learning_rate", 1.0, step)
    curves = shown_curves(tmp_path)
    assert list(curves) == ["train/loss"]
    assert curves["train/loss"] == [(i, pytest.approx(1 / (i + 1))) for i in range(5)]
    assert "train/loss: 1.000 → 0.200" in curve("train/loss", curves["train/loss"])
    assert shown_curves(tmp_path / "nothing") == {}
