"""``python -m service transcribe`` and ``bench``, as a user types them, with the real base model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.clips import write_wav
from speech.audio import SAMPLE_RATE
from speech.text import normalize


@pytest.fixture(scope="module")
def clip(clip):
    """Return the clip's file."""
    return Path(clip.audio.path)


@pytest.fixture
def run(registry):
    """Return the command line."""

    def invoke(*arguments, **options):
        command = [sys.executable, "-m", "service", *map(str, arguments), "--registry", str(registry.root)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)

    return invoke


@pytest.fixture
def folder(clip, tmp_path):
    """Return a folder with a good file, a bad one, and one that is done."""
    shutil.copy(clip, tmp_path / "good.wav")
    shutil.copy(clip, tmp_path / "done.wav")
    (tmp_path / "cut.wav").write_bytes(clip.read_bytes()[: clip.stat().st_size * 3 // 4])
    (tmp_path / "bad.wav").write_bytes(b"no audio " * 100)
    (tmp_path / "done.txt").write_text("done before\n")
    return tmp_path


def test_a_folder_is_transcribed_as_the_service_would(run, folder, address, clip):
    """The good file has the service's words; the bad one a line; the one that was done is as it was; exit status 1.

    Of the one that is cut off, there are the words that can be heard, and a line.
    """
    result = run("transcribe", folder, "--language", "it")
    answer = httpx.post(
        f"{address}/transcribe", files={"file": clip.read_bytes()}, data={"language": "it"}, timeout=300
    ).json()
    # The words: among others in a batch, sums are rounded otherwise, which can move a comma.
    assert normalize((folder / "good.txt").read_text()) == normalize(answer["text"])
    assert (folder / "done.txt").read_text() == "done before\n"
    assert not (folder / "bad.txt").exists()
    assert normalize((folder / "cut.txt").read_text()).split()[:3] == normalize(answer["text"]).split()[:3]
    lines = result.stderr.splitlines()
    assert result.returncode == 1, result.stderr
    assert lines[0] == "1 of 4 done already; --overwrite does them again"
    assert any(line.startswith(f"error: {folder}/bad.wav: ") for line in lines)
    (cut,) = [line for line in lines if line.startswith(f"error: {folder}/cut.wav: The audio is cut off")]
    assert cut.endswith("s → cut.txt")
    assert lines[-1].endswith("; 2 failed")
    assert result.stdout == ""


def test_a_pipe_gives_the_words(run, clip):
    """Standard input, as JSON on standard output; the version is named."""
    with clip.open("rb") as audio:
        result = run("transcribe", "-", "-f", "json", stdin=audio)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["language"] == "it"
    assert answer["model"].startswith("whisper@")
    assert answer["duration"] == pytest.approx(2.37, abs=0.2)


@pytest.fixture
def heeding():
    """Start programs as a terminal does: a shell's background has SIGINT ignored, and what is ignored is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding")
def test_an_interrupted_run_goes_on(registry, clip, tmp_path):
    """Ctrl-C ends it with a line and leaves whole transcripts; the same command does the rest, and only that."""
    names = [f"{i}.wav" for i in range(8)]
    for name in names:
        shutil.copy(clip, tmp_path / name)
    write_wav(
        tmp_path / "1.wav", np.zeros(170 * SAMPLE_RATE, np.float32)
    )  # costs nothing, and is written before others
    command = [sys.executable, "-m", "service", "transcribe", str(tmp_path), "-f", "text", "--language", "it"]
    command += ["--registry", str(registry.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("*.txt")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130, told
    assert told.splitlines()[-1].endswith("of 8 done; the same command goes on with the rest")
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.txt")}
    assert 0 < len(done) < 8
    assert not [path for path in tmp_path.iterdir() if path.suffix not in {".wav", ".txt"}]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    said = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert len(said) == 8
    assert said.pop("1.txt") == "\n"
    assert len({normalize(text) for text in said.values()}) == 1
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in done.items())


def test_bench_measures_this_machine(run, clip):
    """Figures above 0, and the model that they are of; a version that brings no speech asks for some."""
    result = run("bench", "--audio", clip, "--language", "it", "--json", env=os.environ | {"WHISPERLOOP_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["model"].startswith("whisper@")
    assert (answer["workers"], answer["threads"], answer["tuned"]) == (1, 1, "set")
    assert min(answer["crowd_speed"], answer["long_speed"], *answer["latency_s"].values()) > 0
    without = run("bench")
    assert without.returncode == 1
    assert without.stderr.endswith("brings no speech to measure with; name some of yours: --audio FILE\n")
