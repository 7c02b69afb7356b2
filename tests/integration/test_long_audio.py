"""Half an hour of speech: every word at its time, and no more memory than a clip's and what waits."""

import io
import statistics
import subprocess
import sys
import wave
from pathlib import Path

import httpx
import numpy as np
import pytest

from registry import Registry
from speech.audio import SAMPLE_RATE
from speech.windows import FRAME
from training.data.manifest import load_audio
from training.demo import serving

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]

SECONDS = 30 * 60
DRIFT_S = 0.1
ADDED_MB = 700


def trimmed(audio):
    """Return a prompt without the silence around it: from the first to the last 20 ms within 30 dB of its loudest."""
    levels = np.sqrt((np.pad(audio, (0, -audio.size % FRAME)).reshape(-1, FRAME) ** 2).mean(axis=1))
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-30 / 20))
    return audio[loud[0] * FRAME : (loud[-1] + 1) * FRAME]


@pytest.fixture(scope="module")
def film(italian, tmp_path_factory):
    """Return half an hour of prompts with pauses of 0.4 to 4 s between them, as a WAV, and where each begins."""
    generator = np.random.default_rng(0)
    pieces, starts, n_samples = [], [], 0
    while n_samples < SECONDS * SAMPLE_RATE:
        prompt = italian[generator.integers(len(italian))]
        pause = generator.normal(0, 1e-4, round(generator.uniform(0.4, 4) * SAMPLE_RATE)).astype(np.float32)
        audio = trimmed(load_audio(prompt, tmp_path_factory.getbasetemp()))
        pieces += [pause, audio]
        starts.append((n_samples + pause.size) / SAMPLE_RATE)
        n_samples += pause.size + audio.size
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.concatenate(pieces) * 32767).astype("<i2").tobytes())
    return buffer.getvalue(), starts


def peak_mb(pid, *, reset=False):
    """Return the most memory that a process and its children ever had, together; or start counting anew."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())]
    total = 0
    for one in pids:
        if reset:
            Path(f"/proc/{one}/clear_refs").write_text("5", encoding="ascii")
        status = Path(f"/proc/{one}/status").read_text(encoding="ascii")
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return total / 1024


@pytest.fixture(scope="module")
def answer(base_source, film, tmp_path_factory, free_port):
    """Transcribe the film with word times on a service of its own; tell what memory it added."""
    root = tmp_path_factory.mktemp("long")
    command = [sys.executable, "-m", "registry", "import", str(base_source), "--name", "whisper"]
    subprocess.run([*command, "--alias", "production", "--registry", str(root)], check=True)
    assert Registry(root).resolve("whisper@production")
    with serving(root, free_port(), root / "service.log") as (process, address):
        url = f"{address}/transcribe"
        # Greedily: whisper-base doubts much of what it hears in Italian, and its second tries are six.
        form = {"language": "it", "guard": "mark", "timestamp_granularities[]": ["word", "segment"]}
        clip = film[0][: 44 + 20 * 2 * SAMPLE_RATE]
        httpx.post(url, files={"file": ("clip.wav", clip)}, data=form, timeout=600).raise_for_status()
        before = peak_mb(process.pid, reset=True)
        said = httpx.post(url, files={"file": ("film.wav", film[0])}, data=form, timeout=3000)
        said.raise_for_status()
        added = peak_mb(process.pid) - before
    return said.json(), added


def test_words_do_not_drift(answer, film):
    """The first word of each prompt is as close to its cut in the last ten minutes as in the first."""
    body, _ = answer
    words = [word for segment in body["segments"] for word in segment["words"]]
    starts = np.array([word["start"] for word in words])
    assert np.all(np.diff(starts) >= 0)
    errors = [(cut, starts[np.abs(starts - cut).argmin()] - cut) for cut in film[1]]
    thirds = [
        statistics.median(error for cut, error in errors if low <= cut < low + SECONDS / 3)
        for low in (0, SECONDS / 3, 2 * SECONDS / 3)
    ]
    print(f"\nmedian error of first words, each ten minutes: {[round(one, 3) for one in thirds]} s")  # noqa: T201
    assert abs(thirds[2] - thirds[0]) < DRIFT_S
    assert abs(body["duration"] - SECONDS) < 60
    assert max(word["end"] for word in words) <= body["duration"]


def test_memory_is_bounded(answer):
    """Half an hour adds less than 700 MB to what a service holds that has answered a clip."""
    print(f"\nadded memory: {answer[1]:.0f} MB")  # noqa: T201
    assert answer[1] < ADDED_MB
