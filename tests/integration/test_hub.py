"""The Hub with the real base, and in processes as their users start them: push, `pipeline`, serve."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from speech.audio import decode_audio
from tests.hub_server import TOKEN
from training.demo import serving

REPO = "org/base"


@pytest.fixture
def pushed(hub, registry, base):
    """Return the Hub's name of whisper-base's version, pushed by the command line."""
    command = [sys.executable, "-m", "training", "push", base.ref, "--repo", REPO, "--registry", str(registry.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert hub.repos[REPO].private
    return f"hub:{REPO}@{base.id}"


def test_without_a_token_the_command_line_ends(hub, registry, base):
    """One line on standard error, exit status 1, and no request at all."""
    command = [sys.executable, "-m", "training", "push", base.ref, "--repo", REPO, "--registry", str(registry.root)]
    without = {**os.environ, "HF_TOKEN": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=without)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no token to push to {REPO}")
    assert done.stderr.strip().count("\n") == 0
    assert hub.requests == []


PIPELINE = """
import sys, json, numpy as np
from transformers import pipeline
recogniser = pipeline("automatic-speech-recognition", model=sys.argv[1], dtype="float32")
audio = np.load(sys.argv[2])
print(json.dumps(recogniser(audio, generate_kwargs={"language": "it", "task": "transcribe"})["text"]))
"""


def test_pipeline_takes_the_repository_by_its_name(pushed, italian, tmp_path):
    """`pipeline("org/name")` loads what was pushed, and hears a 16 kHz array."""
    import numpy as np

    clip = next(u for u in italian if u.id.endswith("/agent-alreadyon"))
    np.save(tmp_path / "clip.npy", decode_audio(Path(clip.audio.path)))
    assert pushed.startswith(f"hub:{REPO}")
    command = [sys.executable, "-c", PIPELINE, REPO, str(tmp_path / "clip.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seguito dal tasto" in done.stdout


def test_the_service_serves_what_was_pushed(pushed, base, italian, free_port, tmp_path):
    """WHISPERLOOP_MODEL=hub:org/name@revision on an empty registry: imported, verified, served, under its own name."""
    clip = next(u for u in italian if u.id.endswith("/agent-alreadyon"))
    with serving(tmp_path / "registry", free_port(), tmp_path / "service.log", model=pushed) as (_, address):
        with Path(clip.audio.path).open("rb") as file:
            answer = httpx.post(
                f"{address}/transcribe", files={"file": file}, data={"language": "it"}, timeout=60
            ).json()
        assert answer["model"] == base.ref
        assert "seguito dal tasto" in answer["text"]
        about = httpx.get(f"{address}/version").json()["model"]
    assert about["manifest_sha256"] == base.manifest_sha256()


SPACE_CLIENT = """
import sys
from gradio_client import Client, handle_file
client = Client(sys.argv[1], verbose=False)
print(client.predict(handle_file(sys.argv[2]), "it", "transcribe", api_name="/transcribe"))
"""


@pytest.mark.full
def test_a_space_runs_the_version_that_was_pushed(pushed, hub, registry, base, italian, free_port, tmp_path):
    """The files that `training space` writes are an application that hears a clip, with the model from the Hub."""
    folder = tmp_path / "space"
    command = [sys.executable, "-m", "training", "space", base.ref, "--model", REPO, "--push", "org/demo"]
    command += ["--into", str(folder), "--registry", str(registry.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert pushed.endswith(base.id)
    assert "app.py" in hub.repos["spaces/org/demo"].commits[hub.repos["spaces/org/demo"].find("main")]
    port = free_port()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    with (tmp_path / "app.log").open("w") as log:
        # Anywhere but here: a Space has nothing of this project.
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 180
            while not answers(address):
                assert process.poll() is None, (tmp_path / "app.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "app.log").read_text()
                time.sleep(0.5)
            clip = next(u for u in italian if u.id.endswith("/agent-alreadyon"))
            asked = subprocess.run(
                [sys.executable, "-c", SPACE_CLIENT, address, str(clip.audio.path)],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            process.terminate()
            process.wait(timeout=30)
    assert "seguito dal tasto" in asked.stdout, asked.stderr + (tmp_path / "app.log").read_text()


def answers(address):
    """Say whether a server is there."""
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
