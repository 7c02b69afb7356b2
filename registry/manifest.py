"""What a version consists of: its files by sha256 and size, and where it came from.

The manifest is the last file written and the first one read. It does not know what the files
mean: `context` and `extra` are carried for others and never looked into.
"""

import hashlib
import json
import re
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from registry.errors import PublishError
from registry.files import CHUNK, Progress, walk

MANIFEST = "manifest.json"
"""The manifest's own file name, at the root of each version."""

_RUNS_CODE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".pyc")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")


def _relative(path: str) -> str:
    if _UNSAFE.search(path) or any(part in {"", ".", ".."} for part in path.split("/")):
        raise ValueError(f"{path!a} is no relative path with forward slashes")
    return path


def _finite(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(value, allow_nan=False)
    return value


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A sha256 in lower-case hexadecimal."""

_Json = Annotated[dict[str, JsonValue], AfterValidator(_finite)]


class FileEntry(BaseModel):
    """One file of a version.

    Attributes:
        sha256: Of its bytes.
        size: In bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    size: int = Field(ge=0)


class Manifest(BaseModel):
    """A version's files and origin, as stored in its ``manifest.json``.

    Attributes:
        schema_version: Of this format.
        name: The model's name.
        version: The version's id.
        created_at: When it was published.
        parent: The version that its training started from, if any.
        base: The version or model that it is to be compared with, if any.
        context: What the encoder's context may be; opaque here.
        normalizer_version: Of the text normaliser that its scores were measured with.
        extra: Anything else that its maker wants to keep; opaque here.
        files: All files but the manifest, by path relative to the version's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: str
    version: str
    created_at: AwareDatetime
    parent: str | None
    base: str | None
    context: _Json
    normalizer_version: str | None
    extra: _Json = {}
    files: dict[Annotated[str, AfterValidator(_relative)], FileEntry]

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(entry.size for entry in self.files.values())


def to_json(value: BaseModel | JsonValue) -> bytes:
    """Write a record as the registry stores it.

    Args:
        value: A model, or plain JSON.

    Returns:
        Indented JSON with sorted keys, and a newline at the end.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON does not have.
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True)
    return f"{text}\n".encode()


def hash_file(path: Path, progress: Progress | None = None) -> str:
    """Hash a file's bytes.

    Args:
        path: The file.
        progress: Told how many bytes were just read.

    Returns:
        The sha256, in hexadecimal.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()


def describe(folder: Path, progress: Progress | None = None) -> dict[str, FileEntry]:
    """Hash all files of a folder that is to become a version.

    Args:
        folder: The folder.
        progress: Told how many bytes were just read.

    Returns:
        Each file's hash and size, by path relative to `folder`.

    Raises:
        PublishError: It holds a link, a device, a file that could run code when it is loaded
            (``.bin`` is a pickle anywhere but in CTranslate2's own folder), or an odd name.
    """
    files = {}
    for path, status in walk(folder):
        if not stat.S_ISREG(status.st_mode):
            raise PublishError(f"{path} is no regular file; links and devices are not published")
        if may_run_code(path):
            raise PublishError(f"{path} could run code when it is loaded; publish safetensors")
        try:
            _relative(path)
        except ValueError as error:
            raise PublishError(f"{path!a} is a file name that other systems misread") from error
        files[path] = FileEntry(sha256=hash_file(folder / path, progress), size=status.st_size)
    return files


def content_digest(files: dict[str, FileEntry]) -> str:
    """Hash the names and contents of files, whatever their order.

    Args:
        files: What `describe` returned.

    Returns:
        The sha256, in hexadecimal.
    """
    pairs = sorted((path, entry.sha256) for path, entry in files.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def version_id(created_at: datetime, files: dict[str, FileEntry]) -> str:
    """Name a version after its time and its content.

    Args:
        created_at: When it was published.
        files: What it consists of.

    Returns:
        Such as ``20260131T235959Z-0a1b2c3d``.
    """
    stamp = created_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{content_digest(files)[:8]}"


def may_run_code(path: str) -> bool:
    """Say whether a file of this name could run code when it is loaded (``ctranslate2/*.bin`` is no pickle)."""
    *folders, name = path.lower().split("/")
    if name.endswith(".bin") and folders[-1:] == ["ctranslate2"]:
        return False
    return name.endswith(_RUNS_CODE)
