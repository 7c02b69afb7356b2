"""What `status` says of a model's loop, read from what others wrote."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry import Registry
from training.retrain import Turn, only_one, retrain
from training.schedule import Schedule
from training.status import names, status

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path):
    """Return a registry with two versions of a model, the second refused."""
    source = tmp_path / "source"
    source.mkdir()
    registry = Registry(tmp_path / "registry")
    versions = []
    for content in ("1", "2"):
        (source / "config.json").write_text(content)
        versions.append(registry.publish("whisper", source, context={"elastic": False, "margin": 0}).id)
    registry.move_alias("whisper", "production", versions[0], expected=None, reason="test")
    for hour, passed in ((3, True), (4, False)):
        verdict = {
            "candidate": f"whisper@{versions[1]}",
            "base": f"whisper@{versions[0]}",
            "passed": passed,
            "reasons": ["it: WER 0.100 → 0.110: worse"],
            "judged_at": f"2026-11-24T0{hour}:00:00Z",
        }
        registry.record_verdict("whisper", versions[1], versions[0], verdict)
    return registry


def learn(runs, result="refused"):
    """Retrain, with what it is to come to."""
    return retrain("whisper", runs, look=lambda: ("key", {"a"}), turn=lambda: Turn(result=result, detail="it: worse"))


def test_a_model_that_was_never_retrained(store, tmp_path):
    """Its aliases and the gate's last word, by when it was said."""
    found = status("whisper", store, tmp_path)
    assert list(found.aliases) == ["production"]
    assert (found.verdict.passed, found.verdict.judged_at.hour) == (False, 4)
    assert (found.last, found.decision, found.running, found.next_run) == (None, None, False, None)


def test_what_retraining_came_to(store, tmp_path):
    """The last one, and the last that decided something; whether one runs, and when the next one will."""
    learn(tmp_path)
    learn(tmp_path)
    folder = tmp_path / "retrain" / "whisper"
    soon = datetime(2026, 11, 25, 3, 30, tzinfo=UTC)
    schedule = Schedule(cron="30 3 * * *", timezone="UTC", pid=os.getpid(), next_run=soon)
    (folder / "schedule.json").write_text(schedule.model_dump_json())
    with only_one(folder):
        found = status("whisper", store, tmp_path)
    assert (found.last.result, found.decision.result) == ("no_change", "refused")
    assert (found.running, found.cron, found.next_run) == (True, "30 3 * * *", soon)
    assert not status("whisper", store, tmp_path).running


def test_a_model_that_only_failed_is_known(tmp_path):
    """Nothing was ever published of it."""
    assert names(Registry(tmp_path / "registry"), tmp_path) == []
    learn(tmp_path, "failed")
    assert names(Registry(tmp_path / "registry"), tmp_path) == ["whisper"]
    assert status("whisper", Registry(tmp_path / "registry"), tmp_path).last.result == "failed"


def test_the_command(store, tmp_path):
    """Lines for people, JSON for others; a name that there is not is an error that lists those there are."""

    def run(*arguments):
        command = [sys.executable, "-m", "training", "status", *arguments, "--registry", store.root, "--runs", tmp_path]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=ROOT)

    learn(tmp_path)
    lines = run().stdout
    assert "production  " in lines
    assert "did not pass, 2026-11-24 04:00 UTC" in lines
    assert "it: WER 0.100 → 0.110: worse" in lines
    assert "refused, it: worse" in lines
    assert json.loads(run("whisper", "--json").stdout)["last"]["result"] == "refused"
    unknown = run("small")
    assert unknown.returncode == 2
    assert "whisper" in unknown.stderr
