"""How a folder becomes a version, all or nothing, and how to clean up after writers that died.

Copied into a staging folder on the same file system, forced to the disk, read back, sealed with a
manifest, forced to the disk again, then renamed: a reader finds the whole version or none. It
does not judge what it publishes, and never changes or removes a version.
"""

import shutil
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import JsonValue, ValidationError

from registry.copies import COPY, Copy
from registry.errors import DamagedVersionError, PublishError
from registry.files import Progress, copy_file, fsync_dir, fsync_tree, locked, make_folder, walk, write_synced
from registry.manifest import MANIFEST, FileEntry, Manifest, content_digest, describe, may_run_code, to_json, version_id
from registry.names import check_name, check_version_id
from registry.version import Version, read_version, verify_version

STAGING = ".tmp"
"""The folder, in the registry's root, of versions in the making."""


@dataclass(frozen=True)
class Origin:
    """Where a version came from, as its manifest tells it (see `registry.manifest.Manifest`)."""

    parent: str | None
    base: str | None
    context: dict[str, JsonValue]
    normalizer_version: str | None
    extra: dict[str, JsonValue]


def publish(root: Path, name: str, source: Path, origin: Origin, progress: Progress | None = None) -> Version:
    """Make a folder's files a version; see `registry.store.Registry.publish`.

    Args:
        root: The registry's folder.
        name: The model's name, already checked.
        source: The folder to copy.
        origin: What the manifest says besides the files.
        progress: Told of bytes as they are hashed, copied and checked.

    Returns:
        The new version, or the one that already holds just this.

    Raises:
        PublishError: Nothing was published.
    """
    if not source.is_dir():
        raise PublishError(f"{source.name!a} is no folder")
    if MANIFEST in {path.name for path in source.iterdir()}:
        raise PublishError(f"{source.name!a} already holds a {MANIFEST}; the registry writes it")
    try:
        files = describe(source, progress)
        if not files:
            raise PublishError(f"{source.name!a} holds no files")
        return _find(root, name, files, origin) or _copy(root, name, source, files, origin, progress=progress)
    except ValidationError as error:
        raise PublishError(f"{name}: {error.errors()[0]['msg']}") from error
    except OSError as error:
        raise PublishError(f"could not publish {name}: {error}") from error


def adopt(root: Path, source: Path, copy: Copy, progress: Progress | None = None) -> Version:
    """Take in a version that was published elsewhere, as it is; see `registry.store.Registry.adopt`.

    Args:
        root: The registry's folder.
        source: Holds the manifest and the files that are here.
        copy: Where it came from, and what stayed there.
        progress: Told of bytes as they are copied and checked.

    Returns:
        The version; the one that is already there, if it has the same manifest.

    Raises:
        PublishError: It could not be taken in; nothing was.
        DamagedVersionError: Its files are not those of its manifest.
    """
    manifest_bytes = (source / MANIFEST).read_bytes()
    try:
        manifest = Manifest.model_validate_json(manifest_bytes)
    except ValidationError as error:
        raise PublishError(f"{source.name!a} holds no manifest of a version") from error
    name, version = check_name(manifest.name), check_version_id(manifest.version)
    for file in manifest.files:
        if may_run_code(file):
            raise PublishError(f"{name}@{version}: {file} could run code when it is loaded; it is not taken in")
    staging = root / STAGING / uuid.uuid4().hex
    try:
        make_folder(staging)
        for file in manifest.files.keys() - set(copy.absent):
            target = staging / file
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(source / file, target, progress)
            target.chmod(0o444)
        for record, content in ((MANIFEST, manifest_bytes), (COPY, to_json(copy))):
            (staging / record).write_bytes(content)
            (staging / record).chmod(0o444)
        fsync_tree(staging)
        verify_version(Version(name, version, staging, manifest), progress)
        versions = make_folder(root / "models" / name / "versions")
        with locked(versions.parent / ".lock"):
            if not (versions / version).exists():
                staging.rename(versions / version)
            _fsync_up(root, name)
    except OSError as error:
        raise PublishError(f"could not take in {name}@{version}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    there = read_version(versions / version, name, version)
    if there.manifest != manifest:
        raise PublishError(f"{there.ref} is there already, and is another version than the one of {copy.repo}")
    return there


def collect_garbage(root: Path, older_than: timedelta) -> list[Path]:
    """Remove what stopped writers left behind; see `registry.store.Registry.collect_garbage`.

    Args:
        root: The registry's folder.
        older_than: What was written to more recently may still have a living writer.

    Returns:
        The folders and files that were removed.
    """
    limit = time.time() - older_than.total_seconds()
    leftovers = [*root.glob(f"{STAGING}/*"), *root.glob("models/*/*/.*.tmp")]
    removed = [path for path in leftovers if _newest(path) < limit]
    for path in removed:
        # Renamed first: a writer that lives after all then fails, and publishes nothing torn.
        doomed = root / STAGING / f"{uuid.uuid4().hex}.removed"
        make_folder(doomed.parent)
        path.rename(doomed)
        if doomed.is_dir():
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            doomed.unlink()
    return removed


def _copy(
    root: Path, name: str, source: Path, files: dict[str, FileEntry], origin: Origin, *, progress: Progress | None
) -> Version:
    staging = make_folder(root / STAGING) / uuid.uuid4().hex
    try:
        staging.mkdir()
        for file in files:
            target = staging / file
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(source / file, target, progress)
            target.chmod(0o444)
        fsync_tree(staging)
        staged = describe(staging, progress)
        for file, entry in files.items():
            if staged.get(file) != entry:
                raise PublishError(f"{file} changed while it was copied; publish it again")
        return _seal(root, name, staging, files, origin)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _seal(root: Path, name: str, staging: Path, files: dict[str, FileEntry], origin: Origin) -> Version:
    versions = make_folder(root / "models" / name / "versions")
    with locked(versions.parent / ".lock"):
        if there := _find(root, name, files, origin):
            return there
        created_at = datetime.now(UTC)
        while (versions / version_id(created_at, files)).exists():
            created_at += timedelta(seconds=1)
        manifest = Manifest(
            name=name,
            version=version_id(created_at, files),
            created_at=created_at,
            parent=origin.parent,
            base=origin.base,
            context=origin.context,
            normalizer_version=origin.normalizer_version,
            extra=origin.extra,
            files=files,
        )
        write_synced(staging / MANIFEST, to_json(manifest))
        (staging / MANIFEST).chmod(0o444)
        fsync_dir(staging)
        path = staging.rename(versions / manifest.version)
        _fsync_up(root, name)
    return Version(name, manifest.version, path, manifest)


def _find(root: Path, name: str, files: dict[str, FileEntry], origin: Origin) -> Version | None:
    """Find an intact version with the same content and origin."""
    versions = root / "models" / name / "versions"
    for path in sorted(versions.glob(f"*-{content_digest(files)[:8]}")):
        try:
            version = read_version(path, name, path.name)
            verify_version(version)
        except DamagedVersionError:
            continue
        there = version.manifest
        if (there.files, there.parent, there.base, there.context) == (
            files,
            origin.parent,
            origin.base,
            origin.context,
        ):
            # Its writer may have died between the rename and these.
            _fsync_up(root, name)
            return version
    return None


def _fsync_up(root: Path, name: str) -> None:
    models = root / "models"
    for folder in (models / name / "versions", models / name, models, root):
        fsync_dir(folder)


def _newest(path: Path) -> float:
    try:
        times = [path.lstat().st_mtime]
        if path.is_dir():
            times += [status.st_mtime for _, status in walk(path)]
    except FileNotFoundError:
        # Its writer has just finished with it.
        return time.time()
    return max(times)
