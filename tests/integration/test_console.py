"""The console in a real browser, in front of a real service with the real base model."""

import contextlib
import json
import os
import shutil
import time
import urllib.parse
import wave
from pathlib import Path

import httpx
import numpy as np
import pytest

from corrections import CorrectionStore
from registry import Registry
from speech.audio import SAMPLE_RATE, decode_audio
from training.demo import serving

webdriver = pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium")
pytest.importorskip("gradio", reason="the console is made of gradio")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

# What selenium leaves to the collector is its own.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

PICTURES = Path(os.environ.get("PICTURES", "runs/console"))
"""PICTURES=docs/console renews those of the documentation."""
RATES = {"all": {"value": 0.31, "low": 0.27, "high": 0.36}, "it": {"value": 0.31, "low": 0.27, "high": 0.36}}
VERDICT = {
    "decision": "promote",
    "passed": True,
    "base": "whisper@base",
    "reasons": ["fewer words are wrong (p <i>=</i> 0.001)"],
    "comparisons": {
        "all": {
            "clips": 120,
            "base": RATES["all"],
            "candidate": {"value": 0.25, "low": 0.21, "high": 0.29},
            "difference": {"value": -0.06, "low": -0.09, "high": -0.03},
            "outcome": "better",
        }
    },
    "judged_at": "2026-11-26T12:00:00Z",
}


@pytest.fixture(scope="module")
def console(base, tmp_path_factory, free_port):
    """Serve two versions with the console; return the address, the registry and the databases."""
    folder = tmp_path_factory.mktemp("console")
    store = Registry(folder / "registry")
    ids = []
    for number in range(2):
        source = folder / "source"
        shutil.copytree(base.path, source, ignore=shutil.ignore_patterns("manifest.json"))
        (source / "metrics.json").write_text(json.dumps({"test": {"wer": RATES}, "number": number}))
        with contextlib.suppress(ImportError):  # curves are pictures of matplotlib's, which draws training's
            _draw(source / "curves")
        ids.append(store.publish("whisper", source, context={"elastic": False, "margin": 0}).id)
        shutil.rmtree(source)
    store.move_alias("whisper", "production", ids[0], expected=None, reason="the first")
    store.move_alias("whisper", "candidate", ids[1], expected=None, reason="the second")
    store.record_verdict("whisper", ids[1], ids[0], VERDICT)
    settings = {
        "WHISPERLOOP_CORRECTIONS": f"sqlite:///{folder}/corrections.db",
        "WHISPERLOOP_CONSOLE_VOTES": str(folder / "votes.jsonl"),
        "WHISPERLOOP_CONSOLE": "true",
        "WHISPERLOOP_ALSO": "candidate",
        "WHISPERLOOP_CANARY_SHARE": "0",
    }
    with serving(store.root, free_port(), folder / "service.log", environment=settings) as (_, address):
        deadline = time.monotonic() + 90
        while "gradio" not in httpx.get(address, timeout=30).text:
            assert time.monotonic() < deadline, (folder / "service.log").read_text()
            time.sleep(0.5)
        yield address, store, ids, folder


def _draw(folder):
    from training.curves import draw_curves

    draw_curves({"train/loss": [(0, 2.0), (50, 0.9), (100, 0.6)], "eval/wer": [(50, 0.4), (100, 0.3)]}, folder)


@pytest.fixture(scope="module")
def spoken(italian, tmp_path_factory):
    """Write what the browser's microphone hears, over and over: a clip of a few seconds, with silence around it."""
    audio = decode_audio(Path(next(one.audio.path for one in italian if 3 < one.audio.duration < 6)))
    path = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        silence = np.zeros(SAMPLE_RATE, np.float32)
        file.writeframes((np.concatenate([silence, audio, silence]) * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def browser(spoken, from_debian):
    """Drive a headless Chromium that logs what it asks for, with a microphone that hears a clip."""
    driven_by = from_debian(lambda: shutil.which("chromedriver"), "chromium", "chromium-driver")
    options = webdriver.ChromeOptions()
    options.add_argument("--use-fake-ui-for-media-stream")
    options.add_argument("--use-fake-device-for-media-stream")
    options.add_argument(f"--use-file-for-fake-audio-capture={spoken}")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1400"):
        options.add_argument(argument)
    for argument in ("--disable-background-networking", "--disable-component-update", "--no-first-run"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driven_by))
    yield driver
    driver.quit()


@pytest.fixture
def clip(italian):
    """Return a clip of a few seconds."""
    return next(str(one.audio.path) for one in italian if 3 < one.audio.duration < 6)


def _wait(browser, css, seconds=60):
    def there(driver):
        found = [one for one in driver.find_elements(By.CSS_SELECTOR, css) if one.is_displayed()]
        return found[0] if found else None

    return WebDriverWait(browser, seconds, ignored_exceptions=None).until(there, f"{css} was not shown")


def _text(browser, css, wanted, seconds=60):
    WebDriverWait(browser, seconds).until(
        lambda driver: wanted in (driver.find_element(By.CSS_SELECTOR, css).get_attribute("textContent") or ""),
        f"{css} never said {wanted!r}",
    )


def _click(browser, css):
    element = _wait(browser, css)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    WebDriverWait(browser, 20).until(lambda _: element.is_enabled())
    element.click()


def _tab(browser, name):
    def named():
        tabs = browser.find_elements(By.CSS_SELECTOR, "button[role=tab], .overflow-dropdown button")
        return [one for one in tabs if one.text.strip() == name]

    if not named():  # of many tabs, the last are in a menu on a narrow screen
        browser.find_element(By.CSS_SELECTOR, ".overflow-menu > button").click()
    WebDriverWait(browser, 10).until(lambda _: named())[0].click()


def _upload(browser, css, path):
    file = WebDriverWait(browser, 30).until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, f"{css} input[type=file]")
    )
    file.send_keys(path)
    _wait(browser, f"{css} audio, {css} .waveform-container, {css} [data-testid='waveform-Clip']", 30)


def _picture(browser, name):
    PICTURES.mkdir(parents=True, exist_ok=True)
    time.sleep(0.5)  # for what moves into its place
    browser.save_screenshot(str(PICTURES / name))


def _hosts(browser):
    """Return the hosts that the browser asked for anything since it was asked last."""
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(urllib.parse.urlsplit(message["params"]["request"]["url"]).hostname)
    return asked - {None, ""}


def test_transcribe_correct_compare_and_promote(console, browser, clip):  # noqa: PLR0915 - one visit
    """A visitor uploads, sees words, corrects, compares blind, votes and promotes; no other host is asked."""
    address, store, ids, folder = console
    browser.get(address)
    _wait(browser, "#go", 60)
    _upload(browser, "#clip", clip)
    _click(browser, "#go")
    word = _wait(browser, "#shown .w", 60)
    assert "%" in word.get_attribute("title")
    assert _wait(browser, "#shown [data-start]").get_attribute("aria-label").startswith("Play from")
    _click(browser, "#shown [data-start]")
    WebDriverWait(browser, 10).until(
        lambda driver: driver.execute_script("return document.querySelector('#shown audio').currentTime > 0"),
        "the clip was not played from where it was clicked",
    )
    assert [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#files a")] == [
        f"transcript.{form}" for form in ("txt", "srt", "vtt", "json")
    ]
    assert _wait(browser, "#shown ol .said").text in _wait(browser, "#text textarea").get_attribute("value")
    _picture(browser, "transcribe.png")

    text = _wait(browser, "#text textarea")
    text.send_keys(Keys.CONTROL, "a")
    text.send_keys("Questo è stato corretto.")
    _click(browser, "#send")
    _text(browser, "#sent", "tick the consent box")
    _click(browser, "#consent input")
    _click(browser, "#send")
    _text(browser, "#sent", "Thank you")
    kept = CorrectionStore(f"sqlite:///{folder}/corrections.db")
    assert [row.correction for row in kept.all()] == ["Questo è stato corretto."]
    kept.close()

    _tab(browser, "Compare")
    _upload(browser, "#compare-clip", clip)
    _click(browser, "#compare-go")
    WebDriverWait(browser, 60).until(
        lambda driver: len(driver.find_elements(By.CSS_SELECTOR, "#compared article")) == 2, "no two answers"
    )
    assert not any(one in browser.find_element(By.ID, "compared").text for one in ids)
    _click(browser, "#vote input")
    _picture(browser, "compare.png")
    _click(browser, "#cast")
    _text(browser, "#thanks", "Thank you")
    vote = json.loads((folder / "votes.jsonl").read_text())
    assert vote["chosen"] == vote["order"][0]
    assert sorted(vote["order"]) == sorted(f"whisper@{one}" for one in ids)

    _tab(browser, "Learning")
    _text(browser, "#waiting", "Questo è stato corretto.")
    _picture(browser, "learning.png")

    _tab(browser, "Models")
    _text(browser, "#versions", "31.0% (27.0 – 36.0)")
    assert not browser.find_elements(By.CSS_SELECTOR, "#versions i")
    _click(browser, "#versions summary")
    _picture(browser, "models.png")
    _click(browser, "#drawn button")
    _wait(browser, "#curves img")
    _picture(browser, "curves.png")
    _click(browser, "#moving button")
    reason = _wait(browser, "#move-reason textarea, #move-reason input")
    reason.send_keys("it hears better")
    _click(browser, "#move")
    _text(browser, "#moved", f"production is now {ids[1]}")
    assert store.alias("whisper", "production").version == ids[1]
    assert store.alias("whisper", "production").reason == "it hears better"
    _click(browser, "#roll-back")
    _text(browser, "#moved", f"production is now {ids[0]}")

    assert _hosts(browser) == {"127.0.0.1"}


def test_what_gradio_has_beside_is_closed(console):
    """No address is fetched, no program is run on an upload, no other site's page reads or sends anything."""
    address = console[0]
    for path in ("/gradio_api/file/https://example.org/x", "/gradio_api/file=https://example.org/x"):
        assert httpx.get(address + path, timeout=30).status_code == httpx.codes.NOT_FOUND
    recording = httpx.post(f"{address}/gradio_api/process_recording", files={"video": b"x"}, timeout=30)
    assert recording.status_code == httpx.codes.NOT_FOUND
    evil = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    refused = httpx.post(f"{address}/gradio_api/queue/join", json={}, headers=evil, timeout=30)
    assert refused.status_code == httpx.codes.FORBIDDEN
    page = httpx.get(address, headers={"Origin": "https://evil.example"}, timeout=30)
    assert not [name for name in page.headers if name.startswith("access-control-")]


def test_records_from_the_microphone(console, browser):
    """What is recorded in the browser is transcribed like a file."""
    browser.get(console[0])
    _wait(browser, "#go", 60)
    _click(browser, "#clip [aria-label='Record audio']")
    _click(browser, "#clip .record-button, #clip button.record")
    time.sleep(6)
    _click(browser, "#clip .stop-button")
    _wait(browser, "#clip .waveform-container", 30)
    _click(browser, "#go")
    words = [_wait(browser, "#shown .w", 60), *browser.find_elements(By.CSS_SELECTOR, "#shown .w")]
    assert len({word.text.lower() for word in words}) > 3
    assert "it · " in browser.find_element(By.CSS_SELECTOR, "#shown .facts").text


def _focused(browser):
    return browser.switch_to.active_element


def _tab_to(browser, css, keys=60):
    """Press the tab key until an element has the focus."""
    for _ in range(keys):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        if browser.execute_script("return document.activeElement.matches(arguments[0])", css):
            return _focused(browser)
    raise AssertionError(f"{css} is not reached by the tab key")


def test_works_by_keyboard_alone(console, browser, clip):
    """Transcribe, hear a segment, correct it and send it, and change tabs, with no pointer; the focus can be seen."""
    browser.get(console[0])
    _wait(browser, "#go", 60)
    _upload(browser, "#clip", clip)  # the file dialog is the browser's
    _tab_to(browser, "#go").send_keys(Keys.ENTER)
    _wait(browser, "#shown .w", 60)
    play = _tab_to(browser, "#shown .from")
    assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", play) == "solid"
    play.send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(
        lambda driver: driver.execute_script("return document.querySelector('#shown audio').currentTime > 0"),
        "the clip was not played from where Enter was pressed",
    )
    text = _tab_to(browser, "#text textarea")
    text.send_keys(Keys.CONTROL, "a")
    text.send_keys("Corretto con la tastiera.")
    _tab_to(browser, "#consent input").send_keys(Keys.SPACE)
    _tab_to(browser, "#send").send_keys(Keys.ENTER)
    _text(browser, "#sent", "Thank you")
    first = browser.find_element(By.CSS_SELECTOR, "button[role=tab]")
    browser.execute_script("arguments[0].focus()", first)
    _tab_to(browser, "button[role=tab]:nth-of-type(4)").send_keys(Keys.ENTER)
    _text(browser, "#waiting", "Corretto con la tastiera.")


def test_what_is_doubtful_is_seen_without_colour(console, browser, clip):
    """Words of different probability differ in their underline, not in their colour alone."""
    browser.get(console[0])
    _wait(browser, "#go", 60)
    _upload(browser, "#clip", clip)
    _click(browser, "#go")
    _wait(browser, "#shown .key", 60)
    look = "return [...document.querySelectorAll('#shown .key .w')].map(w => getComputedStyle(w).textDecorationStyle)"
    line = "return [...document.querySelectorAll('#shown .key .w')].map(w => getComputedStyle(w).textDecorationLine)"
    assert browser.execute_script(line) == ["none", "underline", "underline"]
    assert browser.execute_script(look)[1:] == ["dotted", "wavy"]


def test_fits_a_phone(console, browser, clip):
    """At 390 px nothing is scrolled sideways, in no tab."""
    address = console[0]
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.get(address)
        _wait(browser, "#go", 60)
        _upload(browser, "#clip", clip)
        _click(browser, "#go")
        _wait(browser, "#shown .w", 60)
        for name in ("Transcribe", "Compare", "Models", "Learning"):
            _tab(browser, name)
            time.sleep(0.5)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            _picture(browser, f"phone-{name.lower()}.png")
            assert wide <= 390, f"{name} is {wide} px wide"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
