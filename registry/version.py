"""One published version: read its manifest, and check its files against it.

It only reads. What publishes versions and names them is `registry.store`.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from registry.copies import COPY, Copy, read_copy
from registry.errors import DamagedVersionError
from registry.files import Progress, walk
from registry.manifest import MANIFEST, Manifest, content_digest, hash_file

# A manifest of a thousand files is 100 kB; more than this is an attack or an accident.
_MANIFEST_LIMIT = 16 << 20


@dataclass(frozen=True)
class Version:
    """A version of a model, which never changes once it is published.

    Attributes:
        name: The model's name.
        id: The version's id.
        path: Its folder.
        manifest: What it consists of, and where it came from.
    """

    name: str
    id: str
    path: Path
    manifest: Manifest

    @property
    def ref(self) -> str:
        """How to name this version anywhere: ``name@id``."""
        return f"{self.name}@{self.id}"

    def manifest_sha256(self) -> str:
        """Hash the manifest on disk, and with it, in effect, the whole version.

        Returns:
            The sha256, in hexadecimal.
        """
        return hash_file(self.path / MANIFEST)

    def copy(self) -> Copy | None:
        """Read where on the Hub this version came from; None if it was published here.

        Raises:
            DamagedVersionError: The record of it is not what was written.
        """
        try:
            return read_copy(self.path)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise DamagedVersionError(self.ref, COPY, "a record of a copy", message) from error


def read_version(path: Path, name: str, version_id: str) -> Version:
    """Read a version's manifest, and check that it speaks of this version. No file is hashed.

    Args:
        path: The version's folder.
        name: The model's name.
        version_id: The version's id.

    Returns:
        The version.

    Raises:
        DamagedVersionError: The manifest is missing, unreadable or another version's.
    """
    ref = f"{name}@{version_id}"
    file = path / MANIFEST
    if path.is_symlink():
        raise DamagedVersionError(ref, ".", "a folder", "a link")
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MANIFEST_LIMIT:
            raise DamagedVersionError(ref, MANIFEST, "a small regular file", "something else")
        manifest = Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise DamagedVersionError(ref, MANIFEST, "a file", "nothing") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        found = f"{first['msg']} ({where})"
        raise DamagedVersionError(ref, MANIFEST, "a manifest", found) from error

    said = f"{manifest.name}@{manifest.version}"
    if said != ref:
        raise DamagedVersionError(ref, MANIFEST, ref, said)
    return Version(name, version_id, path, manifest)


def verify_version(version: Version, progress: Progress | None = None, under: str = "") -> None:
    """Hash all files of a version and compare them, and their names, with its manifest.

    Args:
        version: The version.
        progress: Told how many bytes were just read.
        under: Only files in this folder are hashed; of the others, names and sizes are compared.

    Raises:
        DamagedVersionError: The first file that is missing, unexpected, a link, or different.
    """
    manifest = version.manifest
    digest = content_digest(manifest.files)[:8]
    if not version.id.endswith(f"-{digest}"):
        raise DamagedVersionError(version.ref, MANIFEST, version.id[-8:], digest)
    if read_version(version.path, version.name, version.id).manifest != manifest:
        raise DamagedVersionError(version.ref, MANIFEST, "what was read before", "other content")

    found = dict(walk(version.path))
    if COPY in found and not stat.S_ISREG(found[COPY].st_mode):
        raise DamagedVersionError(version.ref, COPY, "a regular file", "a link or device")
    copy = version.copy()
    for file in sorted(found.keys() - manifest.files.keys() - {MANIFEST, COPY}):
        raise DamagedVersionError(version.ref, file, "no such file", "a file")
    for file, entry in sorted(manifest.files.items()):
        status = found.get(file)
        if status is None and copy is not None and file in copy.absent:
            continue
        if status is None:
            raise DamagedVersionError(version.ref, file, "a file", "nothing")
        if not stat.S_ISREG(status.st_mode):
            raise DamagedVersionError(version.ref, file, "a regular file", "a link or device")
        if status.st_size != entry.size:
            raise DamagedVersionError(version.ref, file, f"{entry.size} bytes", f"{status.st_size} bytes")
        if under and not file.startswith(f"{under}/"):
            continue
        sha256 = hash_file(version.path / file, progress)
        if sha256 != entry.sha256:
            raise DamagedVersionError(version.ref, file, f"sha256 {entry.sha256}", f"sha256 {sha256}")
