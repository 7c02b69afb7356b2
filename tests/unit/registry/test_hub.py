"""The Hub: only safe files come home, at one commit, and failures are one line."""

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors

from registry import HubReference, NotFoundError, RegistryError, download_snapshot
from registry.hub import ALLOWED

REF = HubReference("org/name", "v1")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A stand-in for the Hub: its cache, and what it was asked for."""
    folder = tmp_path / "cache" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (tmp_path / "blob").write_bytes(b"weights")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    (folder / "config.json").write_text("{}")

    def snapshot_download(repo, *, revision, allow_patterns):
        assert (repo, revision, allow_patterns) == ("org/name", "v1", list(ALLOWED))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return folder


def test_a_snapshot_is_copied_with_its_commit(cache, tmp_path):
    """The files are real ones, not links into the cache, and the commit is the resolved one."""
    assert cache.exists()
    snapshot = download_snapshot(REF, tmp_path / "into")
    assert snapshot == (tmp_path / "into", COMMIT)
    assert (snapshot.folder / "model.safetensors").read_bytes() == b"weights"
    assert not any(path.is_symlink() for path in snapshot.folder.rglob("*"))


def test_what_others_left_in_the_cache_stays_there(cache, tmp_path):
    """A pickle or a script that another program fetched is not taken along."""
    for name in ("pytorch_model.bin", "modeling.py", "weights.pt"):
        (cache / name).write_bytes(b"x")
    snapshot = download_snapshot(REF, tmp_path / "into")
    assert sorted(path.name for path in snapshot.folder.iterdir()) == ["config.json", "model.safetensors"]


def test_nothing_that_runs_code_is_asked_for():
    """The patterns admit weights, configuration and vocabulary alone."""
    assert set(ALLOWED) == {"*.safetensors", "*.json", "*.txt", "*.model"}


def test_a_repository_without_safetensors_is_refused(cache, tmp_path):
    """Pickled weights alone are no model for us."""
    (cache / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="no safetensors"):
        download_snapshot(REF, tmp_path / "into")


def response(status):
    """Make the answer that the Hub's errors carry."""
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.GatedRepoError("x\ny", response=response(403)), "gated"),
        (errors.RevisionNotFoundError("x\ny", response=response(404)), "no such revision"),
        (errors.RepositoryNotFoundError("x\ny", response=response(404)), "no such repository"),
        (errors.LocalEntryNotFoundError("x\ny"), "cannot be reached"),
        (errors.OfflineModeIsEnabled("x\ny"), "x"),
        (errors.HfHubHTTPError("x\ny", response=response(500)), "could not fetch"),
        (OSError(28, "No space left on device"), "No space"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_failure_is_one_clear_line(monkeypatch, tmp_path, error, expected):
    """Whatever goes wrong at the Hub is a registry error that names the reference in one line."""

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(RegistryError, match=expected) as caught:
        download_snapshot(REF, tmp_path / "into")
    assert "\n" not in str(caught.value)
    assert str(REF) in str(caught.value)
    assert not (tmp_path / "into").exists()
