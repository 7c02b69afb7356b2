"""Where a version comes from: all that is needed to make it again, and nothing private."""

import json
import subprocess
from pathlib import Path

import pytest

from training.config import ConfigError, make_config
from training.data.manifest import AudioSlice, Utterance, fingerprint
from training.data.report import DataReport, Dropped
from training.provenance import command_line, cost, describe_data, device, git_state, settings, versions

CLIPS = [
    Utterance(
        id=f"secret-{i}",
        audio=AudioSlice(path=f"/secret/{i}.wav", duration=360, sha256=f"{i:064x}"),
        text=f"a secret sentence {i}",
        language=language,
        split=split,
        source=source,
        licence=licence,
        speaker=speaker,
    )
    for i, (language, split, source, licence, speaker) in enumerate(
        [
            ("it", "train", "folder:a", "CC0-1.0", "anna"),
            ("it", "test", "folder:a", "CC0-1.0", "luigi"),
            ("ru", "train", "folder:b", None, None),
        ]
    )
]
REPORT = DataReport.of(CLIPS, [Dropped(id="secret-9", source="folder:a", reason="silence", detail="a secret")])


@pytest.fixture
def repository(tmp_path):
    """A git repository with one commit, and a function that runs git in it."""

    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    return tmp_path, git


def test_the_commit_is_named(repository):
    """A clean tree is its commit alone."""
    root, git = repository
    assert git_state(root) == {"commit": git("rev-parse", "HEAD"), "dirty": False, "diff_sha256": None}


def test_a_change_is_told_from_another(repository):
    """A changed tree is dirty, and each change has a hash of its own; a new file makes it dirty, too."""
    root, _ = repository
    hashes = set()
    for text in ("2\n", "3\n"):
        (root / "code.py").write_text(text)
        state = git_state(root)
        assert state["dirty"]
        hashes.add(state["diff_sha256"])
    assert len(hashes) == 2
    (root / "code.py").write_text("1\n")
    (root / "new.py").write_text("1\n")
    assert git_state(root)["dirty"]


def test_without_a_repository_of_its_own_there_is_no_commit(repository, tmp_path_factory):
    """Code outside git, or installed somewhere in another repository, has no commit, and not that one's."""
    root, _ = repository
    (root / "site-packages").mkdir()
    assert git_state(root / "site-packages") is None
    assert git_state(tmp_path_factory.mktemp("nowhere")) is None


def test_packages_and_device_are_named():
    """The versions of what computes are there, and the machine's kind, cores and name of its processor."""
    assert {"python", "torch", "transformers", "ctranslate2", "tokenizers", "numpy"} <= set(versions())
    about = device()
    assert about["cores"] >= 1
    assert about["type"] in {"cpu", "cuda"}
    assert about["name"]
    json.dumps(about)


def test_no_path_of_this_machine_is_published():
    """A config is told whole but for paths, wherever they are in it."""
    config = make_config("test", {"seed": 7, "sources": [{"kind": "folder", "path": "/secret/x", "language": "it"}]})
    told = settings(config)
    assert told["seed"] == 7
    assert (told["sources"][0]["kind"], told["sources"][0]["language"]) == ("folder", "it")
    nested = settings({"a": [Path("/secret/a"), 1], "b": {"c": Path("/secret/c"), "d": (1.5, None)}})
    assert nested == {"a": [1], "b": {"d": [1.5, None]}}
    assert "secret" not in json.dumps(told)


def test_no_address_of_the_corrections_is_published():
    """It is a path, or a host of one's own; and no password may be in it, wherever in the address."""
    source = {"kind": "corrections", "url": "postgresql://me@db.internal/corrections", "language": "it"}
    folder = {"kind": "folder", "path": "clips", "language": "it"}
    told = settings(make_config("test", {"sources": [source, folder]}))
    assert "internal" not in json.dumps(told)
    assert told["sources"][0]["language"] == "it"
    source["url"] += "?password=hunter2"
    with pytest.raises(ConfigError, match="url") as refused:
        make_config("test", {"sources": [source, folder]})
    assert "hunter2" not in str(refused.value)


def test_time_is_money():
    """The stages' seconds make hours, and hours at a price make a cost; without a price there is none."""
    assert cost({"training": 3600, "publishing": 1800}, 2.0) == {
        "wall_time_s": {"training": 3600, "publishing": 1800},
        "hours": 1.5,
        "price_per_hour": 2.0,
        "cost": 3.0,
    }
    assert cost({"training": 60}, None)["cost"] is None


def test_the_command_has_no_arguments(monkeypatch):
    """The command is named; what was given to it may be a path of this machine."""
    monkeypatch.setattr("sys.argv", ["training", "run", "--folder", "/secret"])
    assert command_line() == "python -m training run"


def test_data_is_told_by_its_fingerprints():
    """The whole, each split and each source has a fingerprint, counts, hours, languages, speakers and licences."""
    told = describe_data(CLIPS, REPORT)
    assert told["fingerprint"] == fingerprint(CLIPS)
    assert told["splits"]["train"] == {
        "fingerprint": fingerprint([CLIPS[0], CLIPS[2]]),
        "clips": 2,
        "hours": 0.2,
        "languages": ["it", "ru"],
        "speakers": 1,
        "licences": ["CC0-1.0"],
    }
    assert told["sources"]["folder:a"]["speakers"] == 2
    assert told["sources"]["folder:b"]["licences"] == []
    assert told["licences"] == {"CC0-1.0": 2, "not stated": 1}
    assert told["report"]["faulty"] == {"silence": 1}


def test_data_tells_no_secrets():
    """No sentence, path, id or speaker of a clip is published, of the clips that were left out neither."""
    told = json.dumps(describe_data(CLIPS, REPORT))
    for private in ("secret", "anna", "luigi"):
        assert private not in told
