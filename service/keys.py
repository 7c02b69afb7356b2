"""Who may ask: API keys in a file, one JSON object a line, that the running service follows.

A key is 256 random bits, so its SHA-256 is all that is kept: slow, salted hashes protect what people think up, and
there is nothing to guess here. Who is let in by it, `service.authorise` says; no HTTP here.
"""

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

logger = logging.getLogger("whisperloop.service")

PREFIX = "wl-"  # by which scanners of code and logs can find a key that leaked
KEY_BYTES = 32


class KeysError(Exception):
    """The file of keys cannot be used; the message says why and what to do."""


class Key(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")  # safe as a label and in a log
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: datetime
    requests_per_minute: int | None = Field(default=None, gt=0)
    audio_seconds_per_day: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    admin: bool = False
    """Whether it may see and do what concerns others: their corrections, and which version answers."""


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys in a file; none is a valid answer, with which nobody is let in.

    Raises:
        KeysError: it cannot be read, or is not a file of keys.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeysError(f"the keys in {path} cannot be read: {why}; make some with: {_how_to_add(path)}") from error
    return _parsed(text, path)


def _parsed(text: str, path: Path) -> tuple[Key, ...]:
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            key = Key.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise KeysError(f"{path}, line {number}: {where + ': ' if where else ''}{first['msg']}") from error
        if key.name in keys:
            raise KeysError(f"{path}, line {number}: there are two keys of the name {key.name!r}: remove a line")
        keys[key.name] = key
    return tuple(keys.values())


def _how_to_add(path: Path) -> str:
    return f"WHISPERLOOP_KEYS={path} python -m service keys add NAME"


def add_key(
    path: Path,
    name: str,
    *,
    requests_per_minute: int | None = None,
    audio_seconds_per_day: float | None = None,
    admin: bool = False,
) -> str:
    """Make a key and return it: this is the only time that anybody sees it.

    Args:
        path: the file, made if there is none.
        name: of whom it is for; shown in logs and metrics.
        requests_per_minute: None for as many as come.
        audio_seconds_per_day: None for as many as come.
        admin: whether it may see and do what concerns others.

    Raises:
        KeysError: the name is taken or none, a limit is none, or the file is not one of keys.
    """
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    try:
        entry = Key(
            name=name,
            sha256=_digest(key.encode()),
            created=datetime.now(UTC).replace(microsecond=0),
            requests_per_minute=requests_per_minute,
            audio_seconds_per_day=audio_seconds_per_day,
            admin=admin,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise KeysError(f"{first['loc'][0]}: {first['msg']}") from error
    with _changing(path):
        keys = read_keys(path) if path.exists() else ()
        if any(other.name == name for other in keys):
            raise KeysError(f"there is a key of the name {name!r} already; revoke it first, or choose another name")
        _write(path, [*keys, entry])
    return key


def revoke_key(path: Path, name: str) -> None:
    """Take a key away; a running service refuses it from its next request on.

    Raises:
        KeysError: there is none of that name, or the file is not one of keys.
    """
    with _changing(path):
        keys = read_keys(path)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            raise KeysError(f"there is no key of the name {name!r} in {path}")
        _write(path, left)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Let one process at a time change the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror}") from error


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file: readers find the old keys or the new ones, and nobody but its owner finds any."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            if path.exists():  # root may change what the service's own user must go on reading
                before = path.stat()
                with suppress(PermissionError):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.writelines(key.model_dump_json(exclude_none=True, exclude_defaults=True) + "\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


class Keyring:
    """The keys in a file, as it is now; while it cannot be used, as it was when it last could."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            KeysError: it cannot be used.
        """
        self._path = path
        self._stamp = self._look()
        self._keys = read_keys(path)

    def find(self, presented: bytes) -> Key | None:
        """Return the key that was presented, if it is one; how long that takes does not tell how near it was."""
        self._follow()
        digest = _digest(presented)
        found = None
        for key in self._keys:  # to the end, whichever it is
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _follow(self) -> None:
        """Read the file again if it has changed: a stat a request, which is microseconds."""
        now = self._look()
        if now == self._stamp:
            return
        self._stamp = now
        try:
            self._keys = read_keys(self._path)
        except KeysError as error:
            logger.error("%s; the keys that were there before go on", error)
        else:
            logger.info("%d keys were read from %s", len(self._keys), self._path)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size
