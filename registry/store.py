"""The registry on disk: immutable versions, the aliases that name them, and their verdicts.

::

    <root>/models/<name>/versions/<id>/...      a version; its manifest.json is written last
    <root>/models/<name>/aliases/<alias>.json   which version an alias names
    <root>/models/<name>/verdicts/*.json        <candidate>-vs-<base>-<n>.json, never overwritten
    <root>/models/<name>/log.jsonl              every alias move, hash-chained
    <root>/models/<name>/.lock                  held by whoever writes
    <root>/.tmp/<uuid>/                         versions in the making

Readers take no lock: whatever they find is whole. It moves bytes, and knows nothing of what is in
a model, of what makes one better, or of who may publish.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from pydantic import JsonValue

from registry import publish, verdicts
from registry.aliases import Alias, Aliases, alias_file
from registry.copies import Copy
from registry.errors import DamagedVersionError, NotFoundError, RegistryError
from registry.files import Progress, locked, make_folder
from registry.log import LogEntry, MoveLog
from registry.manifest import MANIFEST
from registry.names import Reference, check_name, check_version_id
from registry.version import Version, read_version, verify_version

Stamp = tuple[int, int, int]
"""An alias's file as the file system tells it apart from the one before."""


class Registry:
    """All models in one folder.

    Attributes:
        root: The folder; created by the first `publish`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(
        self,
        name: str,
        source: Path,
        *,
        parent: str | None = None,
        base: str | None = None,
        context: Mapping[str, JsonValue],
        normalizer_version: str | None = None,
        extra: Mapping[str, JsonValue] | None = None,
        progress: Progress | None = None,
    ) -> Version:
        """Make a folder's files a version, all or nothing.

        The same content with the same parent, base and context is published once: the version
        that is already there comes back.

        Args:
            name: The model's name.
            source: The folder to copy; it must not hold a ``manifest.json``.
            parent: The version that its training started from, if any.
            base: The version or model that it is to be compared with, if any.
            context: What the encoder's context may be, such as ``{"elastic": true, "margin": 50}``.
            normalizer_version: Of the text normaliser that its scores were measured with.
            extra: Anything else to keep in the manifest.
            progress: Told of bytes; each byte counts three times: hashed, copied and checked.

        Returns:
            The version, on the disk for good.

        Raises:
            PublishError: The folder cannot become a version, or the disk refused.
        """
        check_name(name)
        origin = publish.Origin(parent, base, dict(context), normalizer_version, dict(extra or {}))
        return publish.publish(self.root, name, source, origin, progress)

    def adopt(self, source: Path, copy: Copy, *, progress: Progress | None = None) -> Version:
        """Take in a version that was published elsewhere, all or nothing, with its name, its id and its manifest.

        Args:
            source: The folder that holds its manifest, and its files but those that stayed behind.
            copy: Where it came from, and what stayed there.
            progress: Told of bytes; each byte counts twice: copied and checked.

        Returns:
            The version; the one that is already there, if it has the same manifest.

        Raises:
            PublishError: It could not be taken in, or another version has its name and id.
            DamagedVersionError: Its files are not those of its manifest.
        """
        return publish.adopt(self.root, source, copy, progress)

    def models(self) -> list[str]:
        """List the names of all models, sorted."""
        models = self.root / "models"
        return [name for name in _folders(models) if _folders(models / name / "versions")]

    def version_ids(self, name: str) -> list[str]:
        """List the ids of a model's versions without reading any, oldest first to the second."""
        return _folders(self._model(name) / "versions")

    def versions(self, name: str) -> list[Version]:
        """Read the manifests of all versions of a model, oldest first."""
        found = [self.version(name, version_id) for version_id in self.version_ids(name)]
        return sorted(found, key=lambda version: (version.manifest.created_at, version.id))

    def version(self, name: str, version_id: str) -> Version:
        """Read one version's manifest.

        Raises:
            NotFoundError: There is no such model or version.
            DamagedVersionError: The manifest is not what was written.
        """
        path = self._model(name) / "versions" / check_version_id(version_id)
        if not path.is_dir():
            there = [*self.aliases(name), *self.version_ids(name)]
            raise NotFoundError.listing(
                f"version or alias {version_id!r} of model {name!r}", there, "python -m registry list"
            )
        return read_version(path, name, version_id)

    def resolve(self, ref: str | Reference) -> Version:
        """Find the version that a reference names. Its files are not hashed: see `verify`.

        Args:
            ref: ``name@alias`` or ``name@id``.

        Returns:
            The version.

        Raises:
            InvalidNameError: The reference breaks the grammar.
            NotFoundError: It names nothing.
            DamagedVersionError: The manifest is not the one that was published.
        """
        ref = Reference.parse(ref) if isinstance(ref, str) else ref
        alias = self.alias(ref.name, ref.selector) if ref.is_alias else None
        if alias is None:
            return self.version(ref.name, ref.selector)
        version = self.version(ref.name, alias.version)
        sha256 = version.manifest_sha256()
        if sha256 != alias.manifest_sha256:
            raise DamagedVersionError(version.ref, MANIFEST, alias.manifest_sha256, sha256)
        return version

    def verify(self, version: Version, progress: Progress | None = None, *, under: str = "") -> None:
        """Hash all files of a version, or those in one of its folders, and compare them with its manifest.

        Raises:
            DamagedVersionError: Names the first file that is not as published.
        """
        verify_version(version, progress, under)

    def aliases(self, name: str) -> dict[str, Alias]:
        """Read all aliases of a model that exist."""
        return self._aliases(name).all()

    def alias(self, name: str, alias: str) -> Alias | None:
        """Read one alias; None where it does not exist."""
        return self._aliases(name).get(alias)

    def alias_stamp(self, name: str, alias: str) -> Stamp | None:
        """Return what changes whenever an alias moves, without reading it; None where it does not exist.

        Cheap enough to be asked every second: one file is looked up, and no folder is listed.
        """
        path = self.root / "models" / check_name(name) / "aliases" / alias_file(alias)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def move_alias(
        self,
        name: str,
        alias: str,
        version_id: str,
        *,
        expected: str | None,
        reason: str,
        verdict: str | None = None,
        progress: Progress | None = None,
    ) -> Alias:
        """Point an alias at a whole version, if the alias is where the caller believes it to be.

        Moving ``production`` makes ``previous`` the version that it leaves. See
        `registry.aliases` for what a crash can leave behind.

        Args:
            name: The model's name.
            alias: One of `registry.names.ALIASES`.
            version_id: The version that it shall name.
            expected: The version id that it names now; None if it must not exist.
            reason: Why, for the log.
            verdict: The file name of the verdict that allows the move.
            progress: Told how many of the version's bytes were just checked.

        Returns:
            The alias, moved.

        Raises:
            AliasConflictError: It is elsewhere; nothing was moved.
            NotFoundError: There is no such version or verdict.
            DamagedVersionError: The version is not whole; nothing was moved.
        """
        aliases = self._aliases(name)
        aliases.get(alias)
        version = self.version(name, version_id)
        if verdict is not None:
            self.verdict(name, verdict)
        # A published version does not change, so the long part needs no lock.
        verify_version(version, progress)
        with self._writing(name, f"move {name}@{alias}"):
            make_folder(aliases.folder)
            return aliases.move(
                alias, version.id, version.manifest_sha256(), expected=expected, reason=reason, verdict=verdict
            )

    def rollback(self, name: str, *, reason: str) -> Alias:
        """Swap ``production`` and ``previous``; return ``production``.

        Raises:
            NotFoundError: There is no previous version.
        """
        with self._writing(name, f"settle {name}"):
            aliases = self._aliases(name)
            aliases.settle()
            production, previous = aliases.get("production"), aliases.get("previous")
        if production is None or previous is None:
            raise NotFoundError.listing(
                f"previous version of model {name!r} to roll back to",
                self.aliases(name),
                f"python -m registry log {name}",
            )
        return self.move_alias(name, "production", previous.version, expected=production.version, reason=reason)

    def record_verdict(self, name: str, candidate: str, base: str, verdict: Mapping[str, JsonValue]) -> Path:
        """Keep the outcome of comparing two versions, for good.

        Args:
            name: The model's name.
            candidate: The id of the version that was judged.
            base: The id of the version that it was compared with.
            verdict: The outcome.

        Returns:
            The new file; its name is what `move_alias` takes.
        """
        self.version(name, candidate)
        with self._writing(name, f"record a verdict on {name}@{candidate}"):
            folder = make_folder(self._model(name) / "verdicts")
            return verdicts.record_verdict(folder, candidate, base, verdict)

    def verdicts(self, name: str) -> list[Path]:
        """List the verdicts of a model, by versions and then by number."""
        return verdicts.list_verdicts(self._model(name) / "verdicts")

    def verdict(self, name: str, file_name: str) -> dict[str, JsonValue]:
        """Read one verdict, by the file name that `verdicts` lists.

        Raises:
            NotFoundError: There is no such verdict.
            DamagedRecordError: It is not what was written.
        """
        paths = {path.name: path for path in self.verdicts(name)}
        if file_name not in paths:
            raise NotFoundError.listing(
                f"verdict {file_name!r} of model {name!r}", paths, f"python -m registry verdicts {name}"
            )
        return verdicts.read_verdict(paths[file_name])

    def log(self, name: str) -> list[LogEntry]:
        """Read all alias moves of a model, oldest first; `verify_log` tells what to believe."""
        return self._aliases(name).log.entries()

    def verify_log(self, name: str) -> None:
        """Check a model's log: its chain, and each alias against it.

        Raises:
            DamagedRecordError: A line or an alias was changed by another hand.
        """
        with self._writing(name, f"check the log of {name}"):
            self._aliases(name).verify()

    def collect_garbage(self, older_than: timedelta = timedelta(hours=1)) -> list[Path]:
        """Remove what stopped writers left behind; versions are never removed.

        Args:
            older_than: What was written to more recently may still have a living writer.

        Returns:
            The folders and files that were removed.
        """
        return publish.collect_garbage(self.root, older_than)

    def _model(self, name: str) -> Path:
        path = self.root / "models" / check_name(name)
        if not _folders(path / "versions"):
            raise NotFoundError.listing(f"model {name!r}", self.models(), "python -m registry import --help")
        return path

    def _aliases(self, name: str) -> Aliases:
        model = self._model(name)
        return Aliases(name, model / "aliases", MoveLog(model / "log.jsonl"))

    @contextmanager
    def _writing(self, name: str, what: str) -> Iterator[None]:
        try:
            with locked(self._model(name) / ".lock"):
                yield
        except OSError as error:
            raise RegistryError(f"could not {what}: {error}") from error


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return sorted(path.name for path in parent.iterdir() if path.is_dir() and path.name[0] != ".")
