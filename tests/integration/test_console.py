"""The console in a real browser, in front of a real service with the real base model."""

import base64
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
from service.console.mount import COOKIE, ENTER
from service.keys import add_key
from speech.audio import SAMPLE_RATE, decode_audio
from speech.text import normalize
from training.demo import serving

pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium")
pytest.importorskip("gradio", reason="the console is made of gradio")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

# What selenium leaves to the collector is its own.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SILENCE = np.zeros(SAMPLE_RATE, np.float32)
PICTURES = Path(os.environ.get("PICTURES", "runs/console"))
"""PICTURES=docs/console renews those of the documentation."""
BEFORE = {"value": 0.31, "low": 0.27, "high": 0.36}
AFTER = {"value": 0.25, "low": 0.21, "high": 0.29}
VERDICT = {
    "decision": "promote",
    "passed": True,
    "base": "whisper@base",
    "reasons": ["all: WER 0.310 → 0.250, difference -0.060 [-0.090, -0.030] on 120 clips: better"],
    "comparisons": {
        "all": {
            "clips": 120,
            "base": BEFORE,
            "candidate": AFTER,
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
    store, ids = _two_versions(base, folder)
    settings = {
        "WHISPERLOOP_CORRECTIONS": f"sqlite:///{folder}/corrections.db",
        "WHISPERLOOP_CONSOLE_VOTES": str(folder / "votes.jsonl"),
        "WHISPERLOOP_ALSO": "candidate",
    }
    with _serving_console(store, free_port(), folder / "service.log", settings) as address:
        yield address, store, ids, folder


@pytest.fixture(scope="module")
def console_with_keys(base, tmp_path_factory, free_port):
    """Serve the same to who has a key; return the address, the registry, a usual key and an admin's."""
    folder = tmp_path_factory.mktemp("console-with-keys")
    store, ids = _two_versions(base, folder)
    file = folder / "keys.jsonl"
    key, admin = add_key(file, "intern"), add_key(file, "boss", admin=True)
    settings = {"WHISPERLOOP_KEYS": str(file)}
    with _serving_console(store, free_port(), folder / "service.log", settings, key) as address:
        yield address, store, ids, key, admin


def _two_versions(base, folder):
    """Publish the base twice, in production and as the candidate; return the registry and the ids."""
    store = Registry(folder / "registry")
    ids = []
    for number, rate in enumerate((BEFORE, AFTER)):
        source = folder / "source"
        shutil.copytree(base.path, source, ignore=shutil.ignore_patterns("manifest.json"))
        (source / "metrics.json").write_text(json.dumps({"test": {"wer": {"all": rate, "it": rate}}, "number": number}))
        with contextlib.suppress(ImportError):  # curves are pictures of matplotlib's, which draws training's
            _draw(source / "curves")
        ids.append(store.publish("whisper", source, context={"elastic": False, "margin": 0}).id)
        shutil.rmtree(source)
    store.move_alias("whisper", "production", ids[0], expected=None, reason="the first")
    store.move_alias("whisper", "candidate", ids[1], expected=None, reason="the second")
    store.record_verdict("whisper", ids[1], ids[0], VERDICT)
    return store, ids


@contextlib.contextmanager
def _serving_console(store, port, log, settings, key=""):
    """Serve with the console, and yield the address once the page is there."""
    settings = {"WHISPERLOOP_CONSOLE": "true", "WHISPERLOOP_CANARY_SHARE": "0", **settings}
    with serving(store.root, port, log, environment=settings) as (_, address):
        deadline = time.monotonic() + 90
        while "gradio" not in httpx.get(address, headers={"Cookie": f"{COOKIE}={key}"}, timeout=30).text:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield address


def _draw(folder):
    from training.curves import draw_curves

    draw_curves({"train/loss": [(0, 2.0), (50, 0.9), (100, 0.6)], "eval/wer": [(50, 0.4), (100, 0.3)]}, folder)


@pytest.fixture(scope="module")
def spoken(italian, tmp_path_factory):
    """Write what the browser's microphone hears, over and over: a clip of a few seconds, with silence around it."""
    audio = decode_audio(Path(next(one.audio.path for one in italian if 3 < one.audio.duration < 6)))
    path = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    _write(path, [SILENCE, audio, SILENCE])
    return path


@pytest.fixture(scope="module")
def two_clips(italian, tmp_path_factory):
    """Write two clips of a few seconds, each after one of silence: what is said last does not begin at 0."""
    audios = [decode_audio(Path(one.audio.path)) for one in italian if 3 < one.audio.duration < 6][:2]
    path = tmp_path_factory.mktemp("clips") / "two.wav"
    _write(path, [SILENCE, audios[0], SILENCE, audios[1]])
    return str(path)


def _write(path, parts):
    """Write audio one after another, 16 kHz mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.concatenate(parts) * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def browser(spoken, chromium):
    """Drive a Chromium with a microphone that hears a clip."""
    driver = chromium(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={spoken}",
    )
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


def _choose(browser, css, name):
    """Choose of a list by typing, as its field takes it."""
    _click(browser, f"{css} input")
    field = browser.find_element(By.CSS_SELECTOR, f"{css} input")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(name)
    offered = (
        "return [...document.querySelectorAll('[role=option]')].map(one => one.textContent.replace(/✓/, '').trim())"
    )
    WebDriverWait(browser, 30).until(
        lambda driver: driver.execute_script(offered) == [name],
        f"{name} was not the only one that is offered",
    )
    field.send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda _: field.get_attribute("value") == name, f"{name} was not chosen")


def _played_from(browser):
    """Return where the player began, once it plays; a click that is no more than "play" would begin at 0."""
    began = "const played = document.querySelector('#shown audio').played; return played.length ? played.start(0) : 0"
    return WebDriverWait(browser, 10).until(
        lambda driver: driver.execute_script(began), "the clip was not played from a segment's start"
    )


def _number_of(browser, css):
    """Return what is shown after a word."""
    return browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]), '::after').content", css
    )


def _transcribe(browser, seconds=60):
    """Press the button and return the answer, from the file that can be downloaded, once it is not the last one's."""
    link = """const link = document.querySelector("#files a[download='transcript.json']"); return link && link.href"""
    before = browser.execute_script(link)
    _click(browser, "#go")
    href = WebDriverWait(browser, seconds).until(
        lambda driver: (found := driver.execute_script(link)) != before and found, "nothing was transcribed"
    )
    return json.loads(base64.b64decode(href.partition(",")[2]))


def _are_shown(browser, css):
    return any(one.is_displayed() for one in browser.find_elements(By.CSS_SELECTOR, css))


def _promote(browser, reason):
    """Move production to the version that is offered first: the newest."""
    _tab(browser, "Models")
    _wait(browser, "#versions .version")
    _click(browser, "#moving button")
    _wait(browser, "#move-reason textarea, #move-reason input").send_keys(reason)
    _click(browser, "#move")


def _wait_served(address, version):
    """Wait until a version is the one that answers."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{address}/version", timeout=30).json()["model"]["version"] != version:
        assert time.monotonic() < deadline, f"{version} is not served"
        time.sleep(0.2)


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


def test_transcribe_correct_compare_and_promote(console, browser, clip, two_clips):  # noqa: PLR0915 - one visit
    """A visitor uploads, sees words, corrects, compares blind, votes and promotes; no other host is asked."""
    address, store, ids, folder = console
    browser.get(address)
    _wait(browser, "#go", 60)
    _upload(browser, "#clip", two_clips)
    _click(browser, "#go")
    word = _wait(browser, "#shown .w", 60)
    assert "%" in word.get_attribute("title")
    play = browser.find_elements(By.CSS_SELECTOR, "#shown [data-start]")[-1]
    assert play.get_attribute("aria-label").startswith("Play from")
    start = float(play.get_attribute("data-start"))
    assert start > 2, "the second clip is no segment of its own"
    _click(browser, f"#shown [data-start='{play.get_attribute('data-start')}']")
    assert _played_from(browser) == pytest.approx(start, abs=0.1)
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
    _promote(browser, "it hears better")
    _text(browser, "#moved", f"production is now {ids[1]}")
    assert store.alias("whisper", "production").version == ids[1]
    assert store.alias("whisper", "production").reason == "it hears better"
    _wait_served(address, ids[1])
    _click(browser, "#roll-back")
    _text(browser, "#moved", f"production is now {ids[0]}")
    _wait_served(address, ids[0])

    assert _hosts(browser) == {"127.0.0.1"}


def test_compares_what_is_served_now(console, browser, clip):
    """One version alone has its name and no vote; who was promoted since is production when the tab is opened again."""
    address, store, ids, _ = console
    browser.get(address)
    _wait(browser, "#go", 60)
    _tab(browser, "Compare")
    _text(browser, "#compare-which", f"production (whisper@{ids[0]})")
    _upload(browser, "#compare-clip", clip)
    _click(browser, "#compare-which input")
    _click(browser, "#compare-go")
    _text(browser, "#compared", f"whisper@{ids[1]}")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#compared article")) == 1
    assert not _are_shown(browser, "#vote, #cast")

    store.move_alias("whisper", "production", ids[1], expected=ids[0], reason="meanwhile")
    try:
        _tab(browser, "Transcribe")
        _tab(browser, "Compare")
        _text(browser, "#compare-which", f"candidate, production (whisper@{ids[1]})")
        _wait_served(address, ids[1])
    finally:
        store.move_alias("whisper", "production", ids[0], expected=ids[1], reason="back")
        _wait_served(address, ids[0])


def test_with_keys_an_admin_promotes_and_nobody_else(console_with_keys, browser, clip):
    """A key is entered in the browser and lets its holder transcribe; moving an alias takes an admin's, as is said."""
    address, store, ids, key, admin = console_with_keys
    browser.get(address)
    _wait(browser, "#key").send_keys("wl-never-made", Keys.ENTER)
    _text(browser, "[role=alert]", "not valid here")
    _wait(browser, "#key").send_keys(key, Keys.ENTER)
    _wait(browser, "#go", 60)
    _upload(browser, "#clip", clip)
    _click(browser, "#go")
    _wait(browser, "#shown .w", 60)
    _promote(browser, "I like it")
    _text(browser, "#moved", "needs an admin's key")
    assert store.alias("whisper", "production").version == ids[0]

    browser.get(address + ENTER)
    _wait(browser, "#key").send_keys(admin, Keys.ENTER)
    _wait(browser, "#go", 60)
    _promote(browser, "it hears better")
    _text(browser, "#moved", f"production is now {ids[1]}")
    assert store.alias("whisper", "production").reason == "it hears better (by boss)"


def test_language_and_task_go_along(console, browser, italian):
    """The language that is chosen is given, and not detected; what is translated is not what was said."""
    # Of which the base is sure: asked twice, it says the same.
    path = next(str(one.audio.path) for one in italian if one.id.endswith("/conf-userswilljoin"))
    browser.get(console[0])
    _wait(browser, "#go", 60)
    _upload(browser, "#clip", path)
    _choose(browser, "#language", "English")
    answer = _transcribe(browser)
    assert (answer["language"], answer["language_probabilities"]) == ("en", None)
    _text(browser, "#shown .facts", "en · ")

    _choose(browser, "#language", "Italian")
    answer = _transcribe(browser)
    assert answer["language"] == "it"
    _wait(browser, "#send")
    _click(browser, "#task input[value='translate']")
    translated = _transcribe(browser)
    assert translated["language"] == "it"
    assert translated["text"] not in {"", answer["text"]}
    assert not _are_shown(browser, "#send"), "a translation can be sent as what was said"


WATCH = """
window.texts = [];
new MutationObserver(() => {
  const shown = document.querySelector('#shown .said'), text = shown ? shown.textContent : '';
  if (text.endsWith('…') && window.texts.at(-1) !== text) window.texts.push(text);
}).observe(document.body, {childList: true, subtree: true, characterData: true});
"""


def test_a_long_recording_grows_as_it_is_heard(console, browser, italian, tmp_path):
    """What windows say is shown when they are done, and not when all of them are; each time it is more."""
    path = tmp_path / "long.wav"
    clips = [decode_audio(Path(one.audio.path)) for one in italian if 3 < one.audio.duration < 6][:60]
    _write(path, [part for clip in clips for part in (clip, SILENCE)])
    browser.get(console[0])
    _wait(browser, "#go", 60)
    _upload(browser, "#clip", str(path))
    _choose(browser, "#language", "Italian")
    browser.execute_script(WATCH)
    answer = _transcribe(browser, 300)
    listening, *texts = [text.removesuffix("…").strip() for text in browser.execute_script("return window.texts")]
    assert listening == "Listening"
    assert len(texts) > 1
    assert [len(text) for text in texts] == sorted({len(text) for text in texts})
    for text in texts:
        assert normalize(answer["text"]).startswith(normalize(text))


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
        ActionChains(browser).send_keys(Keys.TAB).perform()
        if browser.execute_script("return document.activeElement.matches(arguments[0])", css):
            return _focused(browser)
    raise AssertionError(f"{css} is not reached by the tab key")


def test_works_by_keyboard_alone(console, browser, two_clips):
    """Transcribe, see numbers, hear a segment, correct it, send it, change tabs, with no pointer; the focus is seen."""
    browser.get(console[0])
    _wait(browser, "#go", 60)
    _upload(browser, "#clip", two_clips)  # the file dialog is the browser's
    _tab_to(browser, "#go").send_keys(Keys.ENTER)
    _wait(browser, "#shown .w", 60)
    hidden = _number_of(browser, "#shown ol .w")
    _tab_to(browser, "#shown .numbers input").send_keys(Keys.SPACE)
    assert _number_of(browser, "#shown ol .w") != hidden
    play = _tab_to(browser, "#shown li:last-of-type .from")
    assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", play) == "solid"
    start = float(play.get_attribute("data-start"))
    assert start > 2, "the second clip is no segment of its own"
    play.send_keys(Keys.ENTER)
    assert _played_from(browser) == pytest.approx(start, abs=0.1)
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
    """At 390 px nothing is scrolled sideways, in no tab, nor with the numbers of all words; a tap shows one's own."""
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
        _tab(browser, "Transcribe")
        _wait(browser, "#shown .w")
        hidden = _number_of(browser, "#shown ol .w")
        _click(browser, "#shown ol .w")
        assert _number_of(browser, "#shown ol .w") != hidden
        _click(browser, "#shown .numbers input")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
