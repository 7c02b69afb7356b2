"""Fetch a model from the Hugging Face Hub, at one commit, without anything that can run code.

It does not convert or publish what it fetched, and never uploads.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from registry.errors import NotFoundError, RegistryError
from registry.names import HubReference

ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What is fetched: weights, configuration and vocabulary, but no pickle and no code."""


class Snapshot(NamedTuple):
    """What was fetched.

    Attributes:
        folder: Holds the files.
        commit: The commit that the reference's revision named.
    """

    folder: Path
    commit: str


def download_snapshot(ref: HubReference, into: Path) -> Snapshot:
    """Fetch a model's files, from the Hub or from its cache on this machine.

    Args:
        ref: The repository and revision.
        into: The folder to fill, which must not exist.

    Returns:
        The same folder, and the commit.

    Raises:
        NotFoundError: There is no such repository or revision, or it holds no safetensors.
        RegistryError: It is gated, or the Hub cannot be reached.
    """
    # Imported here: it takes longer than all of `python -m registry list`.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        cached = Path(snapshot_download(ref.repo, revision=ref.revision, allow_patterns=list(ALLOWED)))
    except GatedRepoError as error:
        raise RegistryError(f"{ref} is gated: accept its terms on its Hub page, then run: hf auth login") from error
    except RevisionNotFoundError as error:
        raise NotFoundError(f"{ref}: the repository has no such revision") from error
    except RepositoryNotFoundError as error:
        raise NotFoundError(f"{ref}: no such repository, or it is private") from error
    except LocalEntryNotFoundError as error:
        raise RegistryError(
            f"{ref} is not on this machine and the Hub cannot be reached; give a local folder instead"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        line = str(error).strip().split("\n")[0]
        raise RegistryError(f"could not fetch {ref}: {line}") from error

    if not any(cached.rglob("*.safetensors")):
        raise NotFoundError(f"{ref} holds no safetensors weights")
    # Copied, since the cache is made of links and changes under later downloads.
    for path in cached.rglob("*"):
        if path.is_file() and any(path.match(pattern) for pattern in ALLOWED):
            target = into / path.relative_to(cached)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    # The cache keeps each commit in a folder of its name.
    return Snapshot(into, cached.name)
