"""What the doctor looks at, what it finds wrong, and that it says how to mend it."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from registry import Registry
from speech import machine
from training import doctor
from training.doctor import examine

ROOT = Path(__file__).parents[3]
INSTALLED = {"transformers": "5.23.1", "torch": "2.14.1+cu130", "datasets": "5.2.0"}


def test_this_machine_can_train(tmp_path):
    """Nothing that the tests need is an error, each finding says what was found, and each fault how to mend it."""
    findings = examine(tmp_path / "registry", tmp_path / "runs")
    assert [finding for finding in findings if finding.state == "error"] == []
    assert all(finding.found for finding in findings)
    assert all(finding.mend for finding in findings if finding.state != "ok")
    assert list(tmp_path.iterdir()) == []  # it changes nothing


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("transformers", "4.57.1", "too old: transformers 4.57.1 (at least 5.3)"),
        ("torch", "2.9.1", "too old: torch 2.9.1 (at least 2.10)"),
        ("datasets", None, "missing: datasets"),
    ],
)
def test_packages_that_are_missing_or_old(name, version, says):
    """By name and version, with the command that installs them."""

    def installed(asked):
        found = version if asked == name else INSTALLED[asked]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(asked)
        return found

    finding = doctor.packages(installed)
    assert (finding.state, finding.found) == ("error", says)
    assert "pip install" in finding.mend


def test_an_alias_of_nothing(tmp_path):
    """A registry whose production is gone is found before a night's training is."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    store = Registry(tmp_path / "registry")
    version = store.publish("whisper", source, context={"elastic": False, "margin": 0})
    store.move_alias("whisper", "production", version.id, expected=None, reason="test")
    assert doctor.versions(store.root).found == "1 models, 1 aliases"
    (version.path / "manifest.json").unlink()
    finding = doctor.versions(store.root)
    assert (finding.state, version.id in finding.found) == ("error", True)
    assert "rollback" in finding.mend


def test_a_token_is_not_shown(monkeypatch):
    """That there is one is all that is said."""
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    finding = doctor.hub_login()
    assert (finding.state, finding.found) == ("ok", "a token is there")


def run(*arguments):
    """Run the command."""
    command = [sys.executable, "-m", "training", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_command(tmp_path):
    """A line a finding; with --json, all of it; status 1 where something stands in the way."""
    (tmp_path / "file").write_text("")
    broken = run("--runs", tmp_path / "file", "--registry", tmp_path, "--json")
    assert broken.returncode == 1
    found = {finding["what"]: finding for finding in json.loads(broken.stdout)}
    assert found["Folder runs"]["state"] == "error"
    assert found["Python"]["state"] == "ok"


def test_failure_15_a_decoder_that_lacks_something_is_named(monkeypatch):
    """Which formats could not be read, or that none can, and what to install."""
    monkeypatch.setattr("av.codecs_available", {"flac", "aac", "vorbis"})
    lacking = machine.audio()
    assert (lacking.state, lacking.found) == ("warning", "FFmpeg without opus, mp3")
    monkeypatch.setitem(sys.modules, "av", None)
    missing = machine.audio()
    assert missing.state == "error"
    assert "pip install" in missing.mend
