"""The Hub: only safe files come home, at one commit, and failures are one line."""

from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors

from registry import HubReference, NotFoundError, RegistryError, download_snapshot
from registry.hub import ALLOWED, look_up

REPO = "org/name"
REF = HubReference(REPO)


@pytest.fixture
def repo(hub):
    """A repository as others make them: weights, configuration, and what is never asked for."""
    made = hub.new_repo(REPO, private=False)
    for name in ("model.safetensors", "config.json", "pytorch_model.bin", "modeling.py", "weights.pt", "sub/x.json"):
        hub.edit(REPO, "main", name, name.encode())
    return made


def names(folder):
    """Return the files of a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_snapshot_is_copied_with_its_commit(repo, tmp_path):
    """The files are real ones, not links into the cache, and the commit is the resolved one."""
    snapshot = download_snapshot(REF, tmp_path / "into")
    assert snapshot == (tmp_path / "into", repo.branches["main"], ())
    assert (snapshot.folder / "model.safetensors").read_bytes() == b"model.safetensors"
    assert not any(path.is_symlink() for path in snapshot.folder.rglob("*"))


def test_nothing_that_runs_code_is_asked_for(hub, repo, tmp_path):
    """Weights, configuration and vocabulary alone are fetched; pickles and code are not even downloaded."""
    assert repo.branches
    assert names(download_snapshot(REF, tmp_path / "into").folder) == ["config.json", "model.safetensors", "sub/x.json"]
    assert hub.count("GET", r"\.(bin|py|pt)$") == 0
    assert set(ALLOWED) == {"*.safetensors", "*.json", "*.txt", "*.model"}


def test_what_others_left_in_the_cache_stays_there(repo, tmp_path):
    """A pickle or a script that another program fetched is not taken along."""
    assert repo.branches
    cached = huggingface_hub.snapshot_download(REPO)
    assert "modeling.py" in names(Path(cached))
    assert names(download_snapshot(REF, tmp_path / "into").folder) == ["config.json", "model.safetensors", "sub/x.json"]


def test_a_repository_without_safetensors_is_refused(hub, tmp_path):
    """Pickled weights alone are no model for us."""
    hub.new_repo(REPO, private=False)
    hub.edit(REPO, "main", "config.json", b"{}")
    hub.edit(REPO, "main", "pytorch_model.bin", b"x")
    with pytest.raises(NotFoundError, match="no safetensors"):
        download_snapshot(REF, tmp_path / "into")


def test_each_revision_is_its_own_commit(hub, repo):
    """A branch, a tag and a commit are looked up for what they name; what names nothing is said."""
    first = repo.branches["main"]
    repo.tags["v1"] = first
    second = hub.edit(REPO, "main", "config.json", b"{}")
    for revision, commit in (("v1", first), (first, first), ("main", second)):
        assert look_up(HubReference(REPO, revision)) == (commit, None)
    with pytest.raises(NotFoundError, match="no such revision"):
        look_up(HubReference(REPO, "v2"))
    with pytest.raises(NotFoundError, match="no such repository"):
        look_up(HubReference("org/other"))


@pytest.mark.parametrize("manifest", [b'{"name": "an app", "icons": []}', b"[1]", b"\xff"])
def test_others_manifests_are_not_ours(hub, repo, tmp_path, manifest):
    """A `manifest.json` that is no version's leaves the repository one like any other."""
    assert repo.branches
    hub.edit(REPO, "main", "manifest.json", manifest)
    assert look_up(REF).manifest is None
    assert "manifest.json" in names(download_snapshot(REF, tmp_path / "into").folder)


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
        (httpx2.ReadError("x\ny"), "could not fetch"),
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
