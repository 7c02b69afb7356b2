"""What the conformance suite's checks are made of: how it judges words and answers, and the sounds that it sends."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.conformance import check_fields
from tests.conformance.__main__ import main
from tests.conformance.sound import SPEECH, mutated, noise, read_wav, silence, stitch, tone
from tests.conformance.suite import (
    CHECKS,
    Check,
    Result,
    Server,
    Skip,
    body_of,
    plain_of,
    refused,
    run_check,
    said_without_effect,
    same_words,
    word_error_rate,
)
from tests.conformance.table import load, markdown, save, summary

ERROR = {"message": "No such thing.", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}


def error(status=404, **changes):
    """Return a refusal in OpenAI's error object."""
    return httpx.Response(status, json={"error": {**ERROR, **changes}})


@pytest.mark.parametrize(
    ("expected", "got", "rate"),
    [
        ("Premere 0, per favore.", "premere 0 per favore", 0),
        ("Attualmente c'è un altro", "attualmente c’e un altro!", 0),
        ("one two three four", "one three four", 0.25),
        ("one two", "one and two", 0.5),
        ("one", "", 1),
        ("one", "two three", 2),
    ],
)
def test_words_are_compared_not_letters(expected, got, rate):
    """Case, accents and punctuation do not count; a word that is missing, wrong or too many is one error."""
    assert word_error_rate(expected, got) == rate


def test_other_words_are_not_the_same():
    """A third may be wrong, no more: another clip's text is always more."""
    same_words("one two three", "one two tree")
    for mine in SPEECH:
        for other in SPEECH:
            if other is not mine:
                with pytest.raises(AssertionError, match="word error rate"):
                    same_words(mine.text, other.text)


def test_a_refusal_is_openais_error_object():
    """With the status and the field that are asked for, however the field is spelt."""
    refused(error(), 404, "model", "model_not_found")
    refused(error(400, param="include[]"), 400, "include")


@pytest.mark.parametrize(
    "response",
    [
        error(422),
        error(400, param="file"),
        error(400, message=""),
        error(400, code=17),
        error(400, type=None),
        httpx.Response(400, json={"detail": "no"}),
        httpx.Response(400, json={"error": "no"}),
        httpx.Response(400, json={"error": {"message": "no"}}),
        httpx.Response(400, text="no"),
        httpx.Response(200, json={"text": ""}),
    ],
)
def test_what_is_not_quite_a_refusal_is_none(response):
    """Another status or field, a key that is missing or of another type, another envelope, a success."""
    with pytest.raises(AssertionError):
        refused(response, 400, "model")


def test_a_warning_is_looked_for_where_it_can_be():
    """In the JSON, in a header, or as a 400; an answer that says nothing is no warning."""
    assert said_without_effect(
        httpx.Response(200, json={"text": "", "warnings": ["temperature: none."]}), "temperature"
    )
    headers = {"X-Server-Warnings": '["temperature: none."]'}
    assert said_without_effect(httpx.Response(200, text="words", headers=headers), "temperature")
    assert said_without_effect(error(400, param="temperature"), "temperature")
    assert not said_without_effect(httpx.Response(200, json={"text": "temperature"}), "temperature")


def test_json_and_plain_text_are_told_apart():
    """JSON where a client expects text is a failure, and the other way round."""
    assert body_of(httpx.Response(200, json={"text": "a"})) == {"text": "a"}
    assert plain_of(httpx.Response(200, text="a")) == "a"
    for response in (httpx.Response(200, json="a"), httpx.Response(200, text='"a"')):
        with pytest.raises(AssertionError):
            plain_of(response)
    for response in (httpx.Response(200, text="a"), httpx.Response(200, json=["a"])):
        with pytest.raises(AssertionError):
            body_of(response)


def test_stitched_clips_lie_where_they_are_said_to():
    """Each span holds its clip's samples, and what is between is silence."""
    whole = stitch(SPEECH[:2], 0.5)
    read = [read_wav(clip.content) for clip in SPEECH[:2]]
    assert whole.text == f"{SPEECH[0].text} {SPEECH[1].text}"
    assert whole.sound.seconds == pytest.approx(sum(sound.seconds for sound in read) + 1)
    for (begin, end), sound in zip(whole.spans, read, strict=True):
        rate = whole.sound.rate
        assert whole.sound.samples[round(begin * rate) : round(end * rate)] == sound.samples
        assert not any(whole.sound.samples[round(end * rate) : round((end + 0.5) * rate)])


def test_a_long_file_is_as_long_as_asked():
    """Clips of one language only, so that one language is right for all of it."""
    server = Server("http://127.0.0.1:1/v1")
    whole = server.stitched(100, pause=1.0)
    assert 100 <= whole.sound.seconds < 130
    assert "Пожалуйста" not in whole.text


def test_sounds_are_what_they_are_called():
    """Silence is zeros, noise the same for the same seed, a tone crosses zero twice a period."""
    assert not any(silence(0.1).samples)
    assert noise(0.1).samples == noise(0.1).samples != noise(0.1, seed=2).samples
    samples = tone(1, 100).samples
    assert 198 <= sum(a < 0 <= b or b < 0 <= a for a, b in pairwise(samples)) <= 200
    assert read_wav(noise(0.25).wav()).samples == noise(0.25).samples


def test_damage_is_the_same_for_the_same_seed():
    """And differs from seed to seed, and from the original nearly always."""
    content = SPEECH[0].content
    copies = [mutated(content, seed) for seed in range(50)]
    assert copies == [mutated(content, seed) for seed in range(50)]
    assert len(set(copies)) == 50
    assert sum(copy != content for copy in copies) >= 48


def test_every_clip_beside_the_suite_can_be_read():
    """16-bit mono at one rate, long enough to be speech."""
    sounds = [read_wav(clip.content) for clip in SPEECH]
    assert {sound.rate for sound in sounds} == {16_000}
    assert all(2 <= sound.seconds <= 4 for sound in sounds)


def one_word(start, end, word="ciao"):
    """Return a word as verbose_json has it."""
    return {"word": word, "start": start, "end": end}


def test_good_words_pass():
    """In order, inside the file, and the text's."""
    said = [one_word(0.1, 0.4), one_word(0.4, 0.9, "mondo")]
    check_fields._check_words(Server("http://127.0.0.1:1/v1"), {"text": "Ciao, mondo!", "words": said})


@pytest.mark.parametrize(
    "said",
    [
        [],
        [{"text": "ciao", "start": 0, "end": 1}, {"text": "mondo", "start": 1, "end": 2}],
        [one_word(0.5, 0.9), one_word(0.1, 0.4, "mondo")],
        [one_word(0.1, 0.4), one_word(0.4, 99, "mondo")],
        [one_word("0.1", "0.4"), one_word("0.4", "0.9", "mondo")],
        [one_word(0.1, 0.4)],
    ],
)
def test_bad_words_fail(said):
    """None, under another name, out of order, beyond the end, times as texts, one missing."""
    with pytest.raises(AssertionError):
        check_fields._check_words(Server("http://127.0.0.1:1/v1"), {"text": "Ciao, mondo!", "words": said})


def test_whatever_a_check_raises_is_its_result():
    """A broken promise, a connection that breaks and a body that is no JSON fail; a check that cannot tell skips."""

    def run(raised):
        def raising(_server):
            if raised is not None:
                raise raised

        return run_check(Check("models", "name", "A promise.", "a source", raising), Server("http://127.0.0.1:1/v1"))

    outcomes = [run(one).outcome for one in (None, AssertionError("x"), httpx.ReadError("x"), KeyError("x"), Skip("x"))]
    assert outcomes == ["pass", "fail", "fail", "fail", "skip"]
    assert run(KeyError("text")).detail == "KeyError: 'text'"


def test_every_check_has_a_promise_and_a_source():
    """One sentence or more, a source, and a name of its own."""
    assert len(CHECKS) >= 90
    assert len({one.name for one in CHECKS}) == len(CHECKS)
    assert all(one.promise.endswith(".") and one.source for one in CHECKS)


def test_a_server_that_is_not_there_fails_and_is_not_a_crash(capsys):
    """Exit status 1, and every line says why."""
    assert main(["--base-url", "http://127.0.0.1:1/v1", "--only", "models"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAIL") == 3
    assert "0 of 3 pass" in printed


def test_results_survive_a_file(tmp_path):
    """What is saved can stand beside another server's results; a pipe in a promise does not break the table."""
    results = [
        Result("models", "one", "A | promise.", "source", "pass", "", 0.1),
        Result("models", "two", "Another.", "source", "skip", "no key", 0.1),
    ]
    save(results, "Theirs", tmp_path / "results.json")
    assert load(tmp_path / "results.json") == ("Theirs", results)
    assert summary(results) == "1 of 1 pass, 1 skipped"
    page = markdown([("Ours", results), load(tmp_path / "results.json")], "the command")
    assert "| A \\| promise. | yes | yes | source |" in page
    assert "- Theirs, `two`: no key" in page
    assert json.loads((tmp_path / "results.json").read_text())["name"] == "Theirs"


def test_it_imports_nothing_of_the_project():
    """So that it runs where only httpx and openai are installed."""
    listed = "import sys, tests.conformance.__main__; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", listed]
    run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    imported = set(run.stdout.split())
    assert {"httpx", "openai"} <= imported
    assert not imported & {"service", "training", "speech", "registry", "benchmarks", "numpy", "pytest"}
