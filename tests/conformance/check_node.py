"""OpenAI's client for Node, where Node and npm are installed."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance.suite import Server, Skip, check, same_words

PACKAGE = "openai@6"
"""The newest that runs on Node 20."""

SCRIPT = Path(__file__).with_name("openai_node.mjs")


def _got(server: Server) -> dict[str, Any]:
    """Return what the client got, asked once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Skip("Node and npm are not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "install", "--silent", "--prefix", folder, PACKAGE]
        install = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        if install.returncode:
            raise Skip(f"npm install {PACKAGE} failed: {install.stderr[-200:]}")
        command = ["node", str(shutil.copy(SCRIPT, folder)), server.base_url, server.api_key, server.model]
        command += [str(server.clip.path)]
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=server.timeout)
    assert run.returncode == 0, f"the client failed: {run.stderr[-300:]}"
    return json.loads(run.stdout)


def _remembered(server: Server) -> dict[str, Any]:
    def ask() -> tuple[str, Any]:
        try:
            return "got", _got(server)
        except (Skip, AssertionError) as error:
            return "raised", error

    outcome, value = server.remember("node", ask)
    if outcome == "raised":
        raise value
    return value


@check("Node client", "openai-node: resources/audio/transcriptions.ts")
def node_reads_every_format(server: Server) -> None:
    """OpenAI's Node client reads json, text, srt, vtt and verbose_json, each with the same words."""
    got = _remembered(server)
    for name in ("json", "text", "verbose"):
        same_words(server.clip.text, got[name])
    assert "-->" in got["srt"], got["srt"][:80]
    assert got["vtt"].startswith("WEBVTT"), got["vtt"][:80]
    assert got["segments"] > 0, "no segments"
    assert got["logprobs"] > 0, "no logprobs"
    assert server.model in got["models"], got["models"]


@check("Node client", "openai-node: core/streaming.ts")
def node_reads_the_stream(server: Server) -> None:
    """OpenAI's Node client iterates over deltas, which are the text of the done event."""
    got = _remembered(server)
    assert got["types"][-1] == "transcript.text.done", got["types"]
    assert got["deltas"].strip() == got["done"].strip(), got
    same_words(server.clip.text, got["done"])


@check("Node client", "openai-node: core/error.ts")
def node_throws_its_errors(server: Server) -> None:
    """OpenAI's Node client throws NotFoundError and BadRequestError, with param and request id."""
    got = _remembered(server)
    for name, kind, status, param in (
        ("notFound", "NotFoundError", 404, "model"),
        ("badRequest", "BadRequestError", 400, "temperature"),
    ):
        error = got[name]
        assert (error["kind"], error["status"], error["param"]) == (kind, status, param), f"{error}"
        assert error["id"], "no request id"
