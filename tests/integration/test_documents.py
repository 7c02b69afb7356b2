"""Every command of the README, the quick start and two guides to migrate is run, or listed with the reason why not.

What a newcomer types must work: only addresses, ids and jobs' names are replaced, and the Hub is one of the test's own,
whose `openai/whisper-small` has whisper-base's weights.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from registry import Registry
from tests.hub_server import TOKEN, File, HubServer
from training.demo import serving

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "tests" / "conformance" / "clips"
PAGES = ("README.md", "docs/index.md", "docs/migrating-from-faster-whisper.md", "docs/migrating-from-transformers.md")
ADDRESS = "http://127.0.0.1:8000"
WORD = "interno"  # of the clip
N_CLIPS = 12  # of the folder that is looked through

# What is not run here, why, and which test shows it; whoever adds a command to a page adds it to one of the two.
NOT_RUN = {
    "make demo": (
        "8 to 20 minutes, before `make test-full`; a small one: "
        "tests/integration/test_loop.py::test_a_better_candidate_is_promoted"
    ),
    "make loop-demo": (
        "8 to 15 minutes, in `make test-full`: tests/integration/test_closed_loop.py::test_a_corrected_service_learns"
    ),
    "make test": "is what runs tests/integration/test_documents.py::test_what_is_not_run_is_still_on_a_page",
    "make setup": (
        "has installed what runs tests/integration/test_documents.py::test_what_is_not_run_is_still_on_a_page"
    ),
    "make serve": (
        "is `python -m service`, which is what is asked here: "
        "tests/integration/test_loop.py::test_the_promoted_version_is_served"
    ),
    "WHISPERLOOP_CORRECTIONS=sqlite:///runs/corrections.db make serve": (
        "the service that is asked here is started with that: "
        "tests/unit/service/test_feedback.py::test_a_correction_is_kept"
    ),
    "docker compose up --detach": "wants an engine, and images: tests/containers/__main__.py::up_from_nothing",
    "docker compose ps": "wants an engine, which is waited for: tests/containers/__main__.py::up_from_nothing",
    ".venv/bin/python -m training run --folder my-speech --language it": (
        "trains a thousand steps; until it is interrupted: "
        "tests/integration/test_training_command.py::test_a_signal_saves_and_says_how_to_go_on; to the end, a few: "
        "tests/integration/test_training_command.py::test_the_whole_command_under_torchrun"
    ),
    ".venv/bin/python -m training retrain --config it.toml": (
        "as long; a few steps: tests/integration/test_loop.py::test_retraining_twice_is_one_retraining"
    ),
    ".venv/bin/python -m service bench --audio talk.wav": (
        "a minute: tests/integration/test_command_line.py::test_bench_measures_this_machine"
    ),
    "WHISPERLOOP_MODEL=hub:my-org/calls@production make serve": (
        "a start with what was pushed: tests/integration/test_hub.py::test_the_service_serves_what_was_pushed"
    ),
}
EXIT_STATUSES = {"training lint": {0, 3}}  # 3: so few clips are too few, which is what lint is there to say


def blocks(language):
    """Return the pages' blocks in a language, with where they are."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for i, (name, block) in enumerate(re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
            if name == language:
                found.append(pytest.param(block, id=f"{page}-{i}"))
    return found


def commands(block):
    """Return a block's commands, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    stripped = (re.sub(r"\s+# .*$", "", line).strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


ALL = [command for block in blocks("sh") for command in commands(block.values[0])]


@pytest.fixture(scope="module")
def hub_environment(base, tmp_path_factory):
    """Return the environment in which the Hub is one of the test's own, with whisper-base as `openai/whisper-small`."""
    server = HubServer()
    server.new_repo("openai/whisper-small", private=False)
    files = {
        path.name: File(path.read_bytes(), path.suffix == ".safetensors")
        for path in base.path.iterdir()
        if path.is_file() and path.name not in {"manifest.json", "provenance.json"}
    }
    server.repos["openai/whisper-small"].commit("main", files)
    yield {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    server.close()


@pytest.fixture(scope="module")
def folder(registry, base, base_source, italian, tmp_path_factory):
    """Return a newcomer's folder: `.venv`, a registry with two versions, and the files that the pages name."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name, line in {"python": f'exec {sys.executable} "$@"', "ffmpeg": "cat clip.wav"}.items():
        # Where there is no ffmpeg, the other end of its pipe is still ours.
        if name == "python" or shutil.which(name) is None:
            place = folder / ".venv" / "bin" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"#!/bin/sh\n{line}\n")
            place.chmod(0o755)

    shutil.copytree(registry.root, folder / "runs" / "registry")
    store = Registry(folder / "runs" / "registry")
    again = folder / "again"
    shutil.copytree(base.path, again, ignore=shutil.ignore_patterns("manifest.json"))
    (again / "README.md").write_text("another one\n")
    second = store.publish("whisper", again, context={"elastic": False, "margin": 0})
    shutil.rmtree(again)
    store.move_alias("whisper", "production", second.id, expected=base.id, reason="so that there is a previous one")

    clip = CLIPS / "it-agent-newlocation.wav"
    for name in ("clip.wav", "talks/a.wav", "talk.wav", "film.mkv"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(clip, folder / name)
    (folder / "calls" / "monday").mkdir(parents=True)
    shutil.copyfile(CLIPS / "it-agent-newlocation.ogg", folder / "calls" / "monday" / "one.opus")
    shutil.copyfile(CLIPS / "it-agent-newlocation.m4a", folder / "interview.mp4")
    shutil.copyfile(CLIPS / "it-agent-newlocation.mp3", folder / "meeting.mp3")
    (folder / "path" / "to").mkdir(parents=True)
    for name, source in {
        "ctranslate2-or-transformers-folder": base_source,
        "faster-whisper-small": base_source,
        "checkpoint": base.path,
    }.items():
        (folder / "path" / "to" / name).symlink_to(source.resolve())
    (folder / "it.toml").write_text('[[sources]]\nkind = "folder"\npath = "my-speech"\nlanguage = "it"\n')

    header = re.search(r"^```csv\n(.*)\n", (ROOT / "README.md").read_text(), re.MULTILINE)[1]
    (folder / "my-speech" / "clips").mkdir(parents=True)
    with (folder / "my-speech" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(header + "\n")
        for i, utterance in enumerate([one for one in italian if 2 <= one.audio.duration <= 6][:N_CLIPS]):
            shutil.copyfile(utterance.audio.path, folder / "my-speech" / "clips" / f"{i:03}.wav")
            csv.writer(file).writerow([f"clips/{i:03}.wav", utterance.text])
    return folder


@pytest.fixture(scope="module")
def server(folder, free_port):
    """Return the address of a service on that folder's registry, with jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHISPERLOOP_DATABASE", f"sqlite:///{folder}/runs/service.db")
        patch.setenv("WHISPERLOOP_CORRECTIONS", f"sqlite:///{folder}/runs/corrections.db")
        patch.setenv("WHISPERLOOP_WATCH_SECONDS", "0")  # the commands of this test move its aliases about
        with serving(folder / "runs" / "registry", free_port(), folder / "service.log") as (_, address):
            yield address


@pytest.fixture(scope="module")
def run(folder, server, base, hub_environment):
    """Return a function that runs a program's text as it stands, but for what nobody can know beforehand."""
    jobs = []

    def run(program, text):
        text = text.replace(ADDRESS, server).replace("whisper@ID", base.ref)
        if "job_…" in text:
            text = text.replace("job_…", jobs[-1])
            wait_for(f"{server}/v1/jobs/{jobs[-1]}")
        paths = os.pathsep.join((str(folder / ".venv" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
        environment = {**os.environ, **hub_environment, "PATH": paths, "PYTHONPATH": str(ROOT)}
        environment.pop("WHISPERLOOP_REGISTRY", None)
        result = subprocess.run(
            [*program, text], cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=600
        )
        allowed = next((ok for part, ok in EXIT_STATUSES.items() if part in text), {0})
        assert result.returncode in allowed, f"{text}\n{result.stdout}{result.stderr}"
        if "/v1/jobs" in text and (made := re.search(r"job_[\w-]+", result.stdout)):
            jobs.append(made[0])
        return result.stdout

    return run


def wait_for(job):
    """Wait until a job is done."""
    deadline = time.monotonic() + 300
    while httpx.get(job).raise_for_status().json()["status"] in {"queued", "running"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", blocks("sh"))
def test_a_block_of_commands_works(run, folder, block):
    """Each of its commands ends well, in their order; transcripts have the words of the clip."""
    for command in commands(block):
        if command in NOT_RUN:
            continue
        printed = run(["bash", "-euo", "pipefail", "-c"], command)
        if "/transcribe" in command or command.endswith("/result"):
            assert WORD in printed
            if "response_format" not in command:
                assert json.loads(printed)["segments"]
        if "/v1/feedback" in command:
            assert json.loads(printed)["correction"]
        if "service transcribe talks/" in command:
            assert WORD in (folder / "talks" / "a.txt").read_text()
            assert "-->" in (folder / "talks" / "a.srt").read_text()
        if "> film.vtt" in command:
            assert (folder / "film.vtt").read_text().startswith("WEBVTT")
        if "-o transcripts" in command:
            assert {path.suffix for path in (folder / "transcripts").rglob("one.*")} >= {
                ".txt",
                ".srt",
                ".vtt",
                ".json",
            }


@pytest.mark.parametrize("block", blocks("python"))
def test_a_block_of_python_prints_the_words(run, block):
    """It is a whole program, and prints what is said in the clip."""
    assert WORD in run([sys.executable, "-c"], block)


def test_what_is_not_run_is_still_on_a_page():
    """A reason for a command that is gone is taken away with it."""
    assert set(NOT_RUN) <= set(ALL)


@pytest.mark.parametrize("reason", [pytest.param(reason, id=command) for command, reason in NOT_RUN.items()])
def test_a_reason_names_tests_that_are_there(reason):
    """What is not run here is shown by another test, which the reason names by file and function; both exist."""
    named = re.findall(r"tests/\S*", reason)
    assert named, "which test shows it?"
    for one in named:
        path, _, function = one.rstrip(";,").partition("::")
        assert (ROOT / path).is_file(), one
        written = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^ *(?:async )?def {re.escape(function)}\(", written, re.MULTILINE), one
