"""Jobs on a real server with the real base model, which is killed in the middle of one."""

import signal
import sqlite3
import time
import wave
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest

from speech.audio import SAMPLE_RATE, decode_audio
from speech.scores import corpus_rate, word_errors
from training.demo import serving


@pytest.fixture(scope="module")
def long_audio(italian):
    """Return most of a minute of speech as a WAV file, and its words."""
    chosen = [utterance for utterance in italian if 3 <= utterance.audio.duration <= 9][:10]
    pause = np.zeros(SAMPLE_RATE // 2, dtype=np.float32)
    samples = np.concatenate([part for u in chosen for part in (decode_audio(Path(u.audio.path)), pause)])
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue(), " ".join(utterance.text for utterance in chosen)


def on_disk(database):
    """Return all bytes of a database and of what SQLite keeps beside it."""
    return b"".join(file.read_bytes() for file in sorted(database.parent.glob("service.db*")))


def poll(address, job_id, is_enough):
    """Ask how a job goes until it is as it is to be."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        job = httpx.get(f"{address}/v1/jobs/{job_id}").raise_for_status().json()
        if is_enough(job):
            return job
        time.sleep(0.1)
    raise AssertionError(f"the job stays as it is: {job}")


def test_a_job_survives_kill_9(registry, tmp_path, free_port, long_audio, monkeypatch):
    """Killed mid-job and started again, the service does it to its end; then no byte of the audio is on the disk."""
    audio, words = long_audio
    pieces = (audio[i : i + 256] for i in range(0, len(audio), 20_000))
    markers = [piece for piece in pieces if len(set(piece)) > 100]  # speech, not silence
    assert len(markers) >= 5
    database = tmp_path / "service.db"
    monkeypatch.setenv("WHISPERLOOP_DATABASE", f"sqlite:///{database}")
    monkeypatch.setenv("WHISPERLOOP_MAX_BATCH_SIZE", "1")  # so that there is a middle
    with serving(registry.root, free_port(), tmp_path / "first.log") as (process, address):
        assert not database.exists()
        # Greedily: ten prompts in a row shrink as a loop would, and whisper-base's second tries are samples.
        form = {"language": "it", "guard": "mark"}
        response = httpx.post(f"{address}/v1/jobs", files={"file": ("long.wav", audio)}, data=form)
        assert response.status_code == httpx.codes.ACCEPTED
        job_id = response.json()["id"]
        half = poll(address, job_id, lambda job: job["progress"] > 0)
        assert (half["status"], half["progress"] < 1) == ("running", True)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    kept = on_disk(database)
    assert sum(marker in kept for marker in markers) > len(markers) / 2  # some lie across SQLite's pages
    with serving(registry.root, free_port(), tmp_path / "second.log") as (_, address):
        job = poll(address, job_id, lambda job: job["status"] not in {"queued", "running"})
        assert job["status"] == "succeeded"
        assert job["audio_seconds"] == pytest.approx(len(audio) / 2 / SAMPLE_RATE, abs=2)
        answer = httpx.get(address + job["result_url"]).raise_for_status().json()
        assert corpus_rate([word_errors(words, answer["text"])]) <= 0.45
        kept = on_disk(database)
        assert not any(marker in kept for marker in markers)
        connection = sqlite3.connect(database)
        assert connection.execute("SELECT attempts, audio, fields FROM jobs").fetchall() == [(2, None, "[]")]
        connection.close()
        assert httpx.delete(f"{address}/v1/jobs/{job_id}").status_code == httpx.codes.NO_CONTENT
        assert answer["text"][:40].encode() not in on_disk(database)
