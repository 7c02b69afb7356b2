"""One clip, one model: curl, OpenAI's clients for Python and Node, and the command line say the same words."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from speech.scores import corpus_rate, word_errors
from speech.text import normalize


@pytest.fixture(scope="module")
def text(address, clip):
    """Return what OpenAI's Python client gets for the clip."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as client:
        return client.audio.transcriptions.create(file=Path(clip.audio.path), model="whisper-1", language="it").text


def printed(*command):
    """Run a command and return what it prints."""
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, timeout=600).stdout


def test_the_words_are_the_clips(clip, text):
    """What all of them are compared with is what was said."""
    assert corpus_rate([word_errors(clip.text, text)]) <= 0.35


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/transcribe"])
def test_curl_gets_the_same(address, clip, text, path):
    """From OpenAI's endpoint and from our own."""
    form = ["-F", f"file=@{clip.audio.path}", "-F", "language=it"]
    model = ["-F", "model=whisper-1"] if path.startswith("/v1/") else []
    assert json.loads(printed("curl", "--silent", "--fail-with-body", *form, *model, address + path))["text"] == text


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not installed")
def test_node_gets_the_same(address, clip, text, tmp_path):
    """From the newest client that runs on Node 20."""
    printed("npm", "install", "--silent", "--prefix", tmp_path, "openai@6")
    script = tmp_path / "say.mjs"
    script.write_text(
        """
        import fs from "node:fs";
        import OpenAI from "openai";
        const [baseURL, path] = process.argv.slice(2);
        const client = new OpenAI({ baseURL, apiKey: "-", maxRetries: 0 });
        const file = fs.createReadStream(path);
        const answer = await client.audio.transcriptions.create({ file, model: "whisper-1", language: "it" });
        console.log(answer.text);
        """
    )
    assert printed("node", script, f"{address}/v1", clip.audio.path).strip() == text


def test_the_command_line_gets_the_same(registry, clip, text):
    """Without a server, from the same version."""
    where = ("--registry", registry.root, "--language", "it", "--format", "text", "--output-dir", "-")
    said = printed(sys.executable, "-m", "service", "transcribe", clip.audio.path, *where)
    # The words: another process may round otherwise, which moves a comma where two tokens are as probable.
    assert normalize(said) == normalize(text)
