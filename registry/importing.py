"""How a model from elsewhere becomes a version: a folder, a Hub repository, or a version that was pushed to the Hub.

The one module of the registry that knows of `speech`, which checks and converts what comes from outside; the exception
is named in the contract of the rooms (pyproject.toml).
"""

import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path

from pydantic import JsonValue

from registry import report
from registry.copies import Copy
from registry.errors import DamagedVersionError, NotFoundError, RegistryError
from registry.hub import Commit, download_snapshot, look_up
from registry.manifest import Manifest, hash_file, to_json
from registry.names import HubReference, check_name
from registry.store import Registry
from registry.version import Version


def default_name(source: str) -> str:
    """Name a model after the last part of where it came from.

    Args:
        source: A folder, or ``hub:org/name@revision``.

    Returns:
        Lower-case letters, digits, dots and dashes; may still be no model name.
    """
    is_hub = source.startswith("hub:")
    last = HubReference.parse(source).repo.split("/")[1] if is_hub else Path(source).resolve().name
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._") else "-" for c in last.lower())
    return kept.strip("-._")


def import_model(source: str, name: str | None, registry: Registry) -> Version:
    """Make a Whisper model from elsewhere a version: checkpoint, CTranslate2 export, provenance.

    What was pushed from a registry is taken in as it was published: its name, its id, its manifest to the byte.
    It takes minutes, and says on stderr how far it is.

    Args:
        source: A transformers or CTranslate2 folder, or ``hub:org/name@revision``.
        name: The model's name; None for `default_name`, or the one that it was pushed with.
        registry: Where to publish it.

    Returns:
        The version; the one that is already there, if this source was imported before.

    Raises:
        RegistryError: The source cannot be fetched, is no Whisper model, or is unsafe.
    """
    if source.startswith("hub:"):
        reference = HubReference.parse(source)
        commit = look_up(reference)
        if commit.manifest is not None:
            return _take_in(reference, commit, commit.manifest, name, registry)
        name = check_name(name or default_name(source))
        if there := _imported_before(reference, commit.id, name, registry):
            return there
    with tempfile.TemporaryDirectory(prefix="whisperloop-import-") as temporary:
        work = Path(temporary)
        if source.startswith("hub:"):
            with report.stage(f"downloading {reference}"):
                folder = download_snapshot(reference, work / "download", commit).folder
            return _convert(folder, str(reference), commit.id, check_name(name or default_name(source)), registry)
        folder = Path(source).resolve()
        if not folder.is_dir():
            raise NotFoundError(f"no folder {source!r}; give a folder or hub:org/name")
        return _convert(folder, folder.name, None, check_name(name or default_name(source)), registry)


def is_elastic(version: Version) -> bool:
    """Say whether clips cost what they last; of a version that nobody has taught that, each costs 30 s."""
    from speech.context import ElasticContext

    return ElasticContext.from_manifest(version.manifest.context).elastic


def _take_in(
    reference: HubReference, commit: Commit, manifest: Manifest, name: str | None, registry: Registry
) -> Version:
    ref = f"{manifest.name}@{manifest.version}"
    if name not in {None, manifest.name}:
        raise RegistryError(f"{reference} is {ref}, and what was pushed keeps its name: leave out --name")
    if manifest.name in registry.models() and manifest.version in registry.version_ids(manifest.name):
        there = registry.version(manifest.name, manifest.version)
        if there.manifest == manifest:
            return there
    from speech import checkpoint

    with tempfile.TemporaryDirectory(prefix="whisperloop-import-") as temporary:
        with report.stage(f"downloading {reference}"):
            snapshot = download_snapshot(reference, Path(temporary) / "download", commit)
        try:
            checkpoint.check_checkpoint(snapshot.folder)
        except checkpoint.CheckpointError as error:
            raise RegistryError(f"cannot import {reference}: {error}") from error
        copy = Copy(repo=reference.repo, commit=snapshot.commit, absent=snapshot.absent)
        report.say(f"taking in {ref}: {report.megabytes(manifest.size)}")
        try:
            with report.bar("taking in", 2 * manifest.size) as progress:
                return registry.adopt(snapshot.folder, copy, progress=progress)
        except DamagedVersionError as error:
            raise RegistryError(
                f"{reference} was changed on the Hub after it was pushed: {error.file} is not what the manifest says; "
                f"as it was pushed, it is hub:{reference.repo}@{manifest.version}"
            ) from error


def _imported_before(reference: HubReference, commit: str, name: str, registry: Registry) -> Version | None:
    """Find what an import of the same commit made: a service that starts again need not convert it again."""
    for version_id in registry.version_ids(name) if name in registry.models() else []:
        path = registry.root / "models" / name / "versions" / version_id / "provenance.json"
        try:
            provenance = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        from_hub = str(provenance.get("source", "")).partition("@")[0] == f"hub:{reference.repo}"
        if from_hub and provenance.get("commit") == commit:
            return registry.version(name, version_id)
    return None


def _convert(folder: Path, label: str, commit: str | None, name: str, registry: Registry) -> Version:
    from speech import checkpoint, convert

    is_ctranslate2 = convert.is_ctranslate2(folder)
    weights = [folder / "model.bin"] if is_ctranslate2 else folder.glob("*.safetensors")
    with report.stage(f"reading {label}"):
        hashes: dict[str, JsonValue] = {path.name: hash_file(path) for path in sorted(weights)}
    provenance: dict[str, JsonValue] = {
        "source": label,
        "commit": commit,
        "weights_sha256": hashes,
        "packages": {
            package: importlib.metadata.version(package) for package in ("ctranslate2", "numpy", "safetensors")
        },
    }
    with tempfile.TemporaryDirectory(prefix="whisperloop-import-") as temporary:
        staged = Path(temporary) / "version"
        try:
            with report.stage("making its checkpoint" if is_ctranslate2 else "checking its checkpoint"):
                if is_ctranslate2:
                    convert.checkpoint_from_ctranslate2(folder, staged)
                else:
                    _copy_checkpoint(folder, staged)
            with report.stage("making its CTranslate2 export"):
                convert.export_ctranslate2(staged, staged / "ctranslate2")
        except checkpoint.CheckpointError as error:
            raise RegistryError(f"cannot import {label}: {error}") from error
        (staged / "provenance.json").write_bytes(to_json(provenance))

        size = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
        report.say(f"publishing {name}: {report.megabytes(size)}")
        with report.bar("publishing", 3 * size) as progress:
            return registry.publish(name, staged, context={"elastic": False, "margin": 0}, progress=progress)


def _copy_checkpoint(folder: Path, staged: Path) -> None:
    from speech import checkpoint

    checkpoint.check_checkpoint(folder)
    staged.mkdir()
    for file in checkpoint.checkpoint_files(folder):
        shutil.copyfile(file, staged / file.name)
    checkpoint.complete_generation_config(staged)
