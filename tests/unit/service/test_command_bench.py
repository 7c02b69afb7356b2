"""``python -m service bench``: what this machine can do now."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import service.command_bench
import service.speed
from service.__main__ import app
from service.speed import measure, stretch
from speech.audio import SAMPLE_RATE
from speech.transcribe import Options


@pytest.fixture
def quick(monkeypatch):
    """Measure for a moment only."""
    monkeypatch.setattr(service.speed, "BUDGET_S", 0.01)


def test_speech_is_repeated_or_cut(tone):
    """To the length that is measured."""
    one = tone(1.0)
    assert (stretch(one, 0.5) == one[:8000]).all()
    assert (stretch(one, 2.5) == [*one, *one, *one[:8000]]).all()


@pytest.mark.usefixtures("quick")
def test_a_slower_engine_is_measured_as_slower(make_engine, tone):
    """Latency is what a lone clip takes, speed is audio by time, streams are what the crowd's speed has room for."""
    slow = measure(make_engine(seconds_a_batch=0.05), tone(1.0), Options(vad=False))
    assert slow.latency_s.keys() == {"3", "10"}
    assert all(latency_s >= 0.05 for latency_s in slow.latency_s.values())
    assert slow.crowd_clips == 4
    assert slow.crowd_speed <= 4 * 3.0 / 0.05
    assert slow.long_s == 30.0
    assert slow.long_speed <= 30 / 0.05
    assert slow.streams == int(0.7 * slow.crowd_speed)


@pytest.mark.usefixtures("quick")
def test_an_engine_that_is_slow_is_asked_as_little_as_can_be(make_engine, tone):
    """Once for each of the four figures: a minute must do for any machine."""
    engine = make_engine(seconds_a_batch=0.05)
    measure(engine, tone(1.0), Options(language="it", vad=False))
    assert [len(batch) for batch in engine.batches if batch] == [1, 1, 4, 1]


@pytest.mark.usefixtures("quick")
def test_crowds_are_of_different_clips(engine, tone):
    """No two windows are the same work."""
    measure(engine, np.concatenate([tone(2.0), tone(1.3, 0.9)]), Options(vad=False))
    crowd = next(batch for batch in engine.batches if len(batch) >= 4)
    assert len({window.audio.tobytes() for window in crowd[:4]}) == 4
    assert {window.audio.size for window in crowd} == {3 * SAMPLE_RATE}


@pytest.fixture
def run(model, monkeypatch):
    """Return the command with an engine that says which window it heard."""
    monkeypatch.setattr(service.command_bench, "load", lambda _settings: model)
    return lambda *arguments: CliRunner().invoke(app, ["bench", *arguments])


@pytest.fixture
def clip(tmp_path, wav):
    """Write a second of sound: its file."""
    (tmp_path / "clip.wav").write_bytes(wav(1.0))
    return str(tmp_path / "clip.wav")


@pytest.mark.usefixtures("quick")
def test_a_table_tells_this_machine_s_speed(run, clip):
    """What was measured, with what, and how much of it."""
    result = run("--audio", clip, "--language", "it")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    for part in (
        "echo@1 on this machine, now",
        "a clip of 3 s, alone",
        "a clip of 10 s, alone",
        "people who speak at once",
    ):
        assert part in said
    assert "× real time" in said


@pytest.mark.usefixtures("quick")
def test_programs_get_json(run, clip):
    """Every figure with its unit in its name, and the machine that it is of."""
    answer = json.loads(run("--audio", clip, "--json").stdout)
    assert answer["model"] == "echo@1"
    assert answer["cores"] >= 1
    assert answer["peak_memory_mib"] > 10
    assert answer["latency_s"].keys() == {"3", "10"}
    assert answer["crowd_speed"] > 0
    assert answer["streams"] == int(0.7 * answer["crowd_speed"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--audio", "missing.wav"), "missing.wav: no audio file at missing.wav"),
        (("--audio", __file__), f"{__file__}: Not audio in a format that FFmpeg knows"),
    ],
)
def test_what_is_no_speech_is_one_line(run, arguments, said):
    """Before the model is loaded."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {said}")
    assert len(result.stderr.splitlines()) == 1
