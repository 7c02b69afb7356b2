"""Fetch a model from the Hugging Face Hub, at one commit, without anything that can run code.

A version that was pushed from a registry (`registry.push`) comes with its manifest and all files that were pushed; of
any other repository, weights, configuration and vocabulary are fetched. It does not convert or publish what it
fetched, and never uploads.
"""

import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from registry.copies import is_public
from registry.errors import NotFoundError, RegistryError
from registry.manifest import MANIFEST, Manifest, may_run_code
from registry.names import HubReference

ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What is fetched of any repository: weights, configuration and vocabulary, but no pickle and no code."""


class Commit(NamedTuple):
    """What a reference names now.

    Attributes:
        id: Of the commit.
        manifest: Of the version that it holds; None if it was not pushed from a registry.
    """

    id: str
    manifest: Manifest | None


class Snapshot(NamedTuple):
    """What was fetched.

    Attributes:
        folder: Holds the files.
        commit: The commit that the reference's revision named.
        absent: The files of the version's manifest that the repository does not hold.
    """

    folder: Path
    commit: str
    absent: tuple[str, ...] = ()


def look_up(ref: HubReference) -> Commit:
    """Find out what a reference names, from the Hub or, where that cannot be reached, from its cache on this machine.

    Args:
        ref: The repository and revision.

    Returns:
        The commit, and the manifest of the version that it holds.

    Raises:
        NotFoundError: There is no such repository or revision.
        RegistryError: It is gated, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with _one_line_errors(ref):
        # The config is asked for, too: a repository that has neither is worth the library's warning.
        cached = Path(snapshot_download(ref.repo, revision=ref.revision, allow_patterns=[MANIFEST, "config.json"]))
    # The cache keeps each commit in a folder of its name.
    return Commit(cached.name, _read_manifest(cached))


def download_snapshot(ref: HubReference, into: Path, commit: Commit | None = None) -> Snapshot:
    """Fetch a model's files, from the Hub or from its cache on this machine.

    Args:
        ref: The repository and revision.
        into: The folder to fill, which must not exist.
        commit: As `look_up` found it; None looks it up.

    Returns:
        The same folder, and the commit.

    Raises:
        NotFoundError: There is no such repository or revision, or it holds no safetensors.
        RegistryError: It is gated, the Hub cannot be reached, or the version that was pushed there is not whole.
    """
    # Imported here: it takes longer than all of `python -m registry list`.
    from huggingface_hub import snapshot_download

    commit = commit or look_up(ref)
    wanted = list(ALLOWED)
    if commit.manifest is not None:
        wanted = [MANIFEST, *(glob.escape(file) for file in commit.manifest.files if not may_run_code(file))]
    with _one_line_errors(ref):
        cached = Path(snapshot_download(ref.repo, revision=commit.id, allow_patterns=wanted))

    if not any(cached.rglob("*.safetensors")):
        raise NotFoundError(f"{ref} holds no safetensors weights")
    if commit.manifest is None:
        found = [path for path in cached.rglob("*") if any(path.match(pattern) for pattern in ALLOWED)]
    else:
        found = [cached / file for file in (MANIFEST, *commit.manifest.files)]
    # Copied, since the cache is made of links and changes under later downloads.
    for path in found:
        if path.is_file():
            target = into / path.relative_to(cached)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return Snapshot(into, commit.id, _absent(ref, commit.manifest, into))


def _absent(ref: HubReference, manifest: Manifest | None, folder: Path) -> tuple[str, ...]:
    absent = () if manifest is None else tuple(file for file in manifest.files if not (folder / file).is_file())
    for file in absent:
        if is_public(file):
            raise RegistryError(f"{ref} lacks {file}, which its {MANIFEST} lists; push the version again")
    return absent


def _read_manifest(folder: Path) -> Manifest | None:
    """Return a version's manifest; None for whatever else others call so."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


@contextmanager
def _one_line_errors(ref: HubReference) -> Iterator[None]:
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise RegistryError(f"{ref} is gated: accept its terms on its Hub page, then run: hf auth login") from error
    except RevisionNotFoundError as error:
        raise NotFoundError(f"{ref}: the repository has no such revision") from error
    except RepositoryNotFoundError as error:
        raise NotFoundError(
            f"{ref}: no such repository, or it is private and HF_TOKEN or `hf auth login` names nobody who may read it"
        ) from error
    except LocalEntryNotFoundError as error:
        raise RegistryError(
            f"{ref} is not on this machine and the Hub cannot be reached; give a local folder instead"
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        line = str(error).strip().split("\n")[0]
        raise RegistryError(f"could not fetch {ref}: {line}") from error
