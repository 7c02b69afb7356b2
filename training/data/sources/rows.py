"""What sources share in reading rows: errors, names of columns and splits, and paths that stay where they should."""

from pathlib import Path

from training.data.manifest import SplitName

TEXT_COLUMNS = ("transcription", "transcript", "sentence", "text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "validation": "dev",
    "dev": "dev",
    "test": "test",
}


class SourceError(ValueError):
    """A source as a whole cannot be read; the message says what it lacks."""


class UnusableRowError(Exception):
    """A row that cannot even be looked up."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def locate(root: Path, folder: Path, name: str, *, absolute: bool = False) -> Path:
    """Return a clip's real path, which lies under `root`, links followed.

    Args:
        root: itself without links in it.
        folder: what a relative name starts from.
        name: as the row has it.
        absolute: whether the format knows absolute names; these must lie under `root`, too.

    Raises:
        UnusableRowError: no name, one that no file can have, or one that leads out of `root`.
    """
    if not name:
        raise UnusableRowError("missing_file", "no file_name")
    if ".." in Path(name).parts or (Path(name).is_absolute() and not absolute):
        raise UnusableRowError("outside_root", f"{name!r} is no plain path inside the folder")
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        raise UnusableRowError("missing_file", f"{name!r}: {error}") from error
    if not path.is_relative_to(root):
        raise UnusableRowError("outside_root", f"{name!r} leads out of {root}")
    return path


def read_lines(path: Path) -> list[str]:
    """Return a text file's lines; only a line feed, after a carriage return or not, ends one.

    Raises:
        SourceError: no such file, or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: {error}") from error
    return [line.removesuffix("\r") for line in text.split("\n")]


def short_language(name: str | None) -> str | None:
    """Return the language of a locale such as "zh-CN" or "it_it"; anything else as it is."""
    return (name or "").strip().replace("_", "-").split("-")[0].lower() or None
