"""Every example of docs/migrating-from-whisper-1.md is run as it stands there, but for the server's address."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.openai_form import TranscriptionForm

PAGE = (Path(__file__).parents[2] / "docs" / "migrating-from-whisper-1.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"
WORD = "conferenza"  # of the clip


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    """Return a folder with the clip that the examples send."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(clip.audio.path, folder / "clip.wav")
    return folder


@pytest.fixture(scope="module")
def run(address, folder):
    """Return a function that runs an example and returns what it printed."""

    def run(program, block, ending):
        path = folder / f"example{ending}"
        path.write_text(block.replace(ADDRESS, address))
        programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        environment = {**os.environ, "PATH": programs}
        result = subprocess.run(
            [*program, path], cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=600
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


def examples(language):
    """Return the page's blocks in a language."""
    return [pytest.param(block, id=f"{i}") for i, (name, block) in enumerate(BLOCKS) if name == language]


@pytest.mark.parametrize("block", examples("python"))
def test_python_examples_print_the_words(run, block):
    """With OpenAI's client: as text, with times, streamed."""
    assert WORD in run([sys.executable], block, ".py")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", examples("sh"))
def test_shell_examples_work(run, block):
    """With curl: as text, as subtitles, with a warning."""
    printed = run(["bash", "-euo", "pipefail"], block, ".sh")
    assert WORD in printed
    if "/translations" in block:
        assert "WEBVTT" in printed
    if "--dump-header" in block:
        (told,) = re.findall(r"^x-whisperloop-warnings: .*$", PAGE, re.MULTILINE)
        assert told in printed.replace("\r", "")


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not installed")
@pytest.mark.parametrize("block", examples("javascript"))
def test_node_examples_print_the_words(run, folder, block):
    """With OpenAI's client for Node."""
    subprocess.run(["npm", "install", "--silent", "--prefix", folder, "openai@6"], check=True, timeout=300)
    assert WORD in run(["node"], block, ".mjs")


def test_every_field_is_in_the_table():
    """A field that the form takes has a line that says how it differs."""
    named = {name for line in PAGE.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)", line)}
    assert set(TranscriptionForm.model_fields) | {"file"} <= named


def test_the_page_has_no_example_that_is_not_run():
    """Its blocks are Python, shell and JavaScript; what a program prints has no language."""
    assert {name for name, _ in BLOCKS} == {"python", "sh", "javascript"}
    assert json.dumps(PAGE).count("```") == 2 * (len(BLOCKS) + 1)
