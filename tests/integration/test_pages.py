"""The pages that training leaves behind, opened in a real browser: the gate's, and lint's."""

import os
from pathlib import Path

import pytest

from speech.tokens import WhisperTokenizer
from training.evaluate import Hypothesis
from training.gate import judge
from training.gate_page import write_page as write_gate_page
from training.lint.lint import lint
from training.lint.page import write_page as write_lint_page
from training.lint.report import Suspect

pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium")
from selenium.webdriver.common.by import By

# What selenium leaves to the collector is its own.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

PICTURES = Path(os.environ.get("PICTURES", "runs/console"))
N_CLIPS = 24
PHONE, DESK = 360, 1100
NASTY = "<img src=x onerror=document.title='run'> e <script>document.title='run'</script>"

PLAYS = """
const done = arguments[arguments.length - 1], player = document.querySelector('audio');
player.muted = true;
player.ontimeupdate = () => { if (player.currentTime > 0.1) done(player.duration); };
player.onerror = () => done('it does not play: ' + player.error.message);
player.play().catch(error => done(String(error)));
"""


@pytest.fixture(scope="module")
def clips(italian):
    """Return prompts of a few seconds, split as for lint."""
    chosen = [clip for clip in italian if 2 <= clip.audio.duration <= 5][:N_CLIPS]
    return [clip.model_copy(update={"split": ("train", "dev", "test")[n % 3]}) for n, clip in enumerate(chosen)]


@pytest.fixture(scope="module")
def gate_page(clips, tmp_path_factory):
    """Write the page of a verdict on real clips, of which one model left out every second word."""
    right = [Hypothesis(id=c.id, language="it", reference=c.text, hypothesis=c.text) for c in clips]
    wrong = [one.model_copy(update={"hypothesis": " ".join(one.reference.split()[::2])}) for one in right]
    right[-1] = right[-1].model_copy(update={"hypothesis": NASTY})
    verdict = judge(wrong, right, base_ref="m@old", candidate_ref="m@new", test_fingerprint="f", seed=1)
    path = tmp_path_factory.mktemp("gate") / "gate.html"
    write_gate_page(path, verdict, wrong, right, clips, Path(), None)
    return path


@pytest.fixture(scope="module")
def lint_page(clips, base, tmp_path_factory):
    """Write lint's page on real clips, three of which are suspected."""
    report = lint(clips, [], tokenizer=WhisperTokenizer.from_folder(base.path))
    suspects = tuple(
        Suspect(
            id=clip.id,
            kind="wrong_transcript",
            language="it",
            split=clip.split,
            reference=clip.text,
            hypothesis=NASTY,
            wer=1.0,
            cer=0.9,
            avg_logprob=-0.1,
            score=0.9,
        )
        for clip in clips[:3]
    )
    path = tmp_path_factory.mktemp("lint") / "lint.html"
    write_lint_page(path, report.model_copy(update={"base": "m@old", "suspects": suspects}), clips, Path())
    return path


@pytest.fixture(scope="module")
def browser(chromium):
    """Drive a Chromium."""
    driver = chromium()
    yield driver
    driver.quit()


@pytest.mark.parametrize("page", ["gate_page", "lint_page"])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_a_page_can_be_read_and_heard(request, browser, page, width):
    """The heading is seen first, a clip plays, nothing sticks out at the side, also on a phone, and no text runs."""
    path = request.getfixturevalue(page)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1500, "deviceScaleFactor": 1, "mobile": width == PHONE},
    )
    browser.get(path.as_uri())
    title = browser.title
    heading = browser.find_element(By.TAG_NAME, "h1")
    assert heading.is_displayed()
    assert heading.rect["y"] < 100
    PICTURES.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(PICTURES / f"{path.stem}-{width}.png"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    players = browser.find_elements(By.TAG_NAME, "audio")
    assert len(players) == {"gate_page": N_CLIPS, "lint_page": 3}[page]
    heading.click()  # nothing plays for somebody who touched nothing
    duration = browser.execute_async_script(PLAYS)
    assert isinstance(duration, int | float), duration
    assert 1.5 < duration < 6
    assert NASTY in browser.find_element(By.TAG_NAME, "body").text
    assert browser.title == title
    # Chromium would tell of anything that the page's own policy had to stop.
    assert [entry["message"] for entry in browser.get_log("browser")] == []
