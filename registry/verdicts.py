"""Verdicts: what came of comparing two versions, one numbered file each, never overwritten.

It does not judge: what a verdict says, and what follows from it, is its writer's affair.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from registry.errors import DamagedRecordError, RegistryError
from registry.files import write_atomically
from registry.manifest import to_json
from registry.names import check_version_id


def record_verdict(folder: Path, candidate: str, base: str, verdict: Mapping[str, JsonValue]) -> Path:
    """Write a verdict under the next free number. The caller holds the model's lock.

    Args:
        folder: The model's verdicts.
        candidate: The id of the version that was judged.
        base: The id of the version that it was compared with.
        verdict: The outcome.

    Returns:
        The new file.

    Raises:
        RegistryError: The outcome cannot be written as JSON.
    """
    prefix = f"{check_version_id(candidate)}-vs-{check_version_id(base)}-"
    try:
        data = to_json(dict(verdict))
    except (TypeError, ValueError) as error:
        raise RegistryError(f"the verdict on {candidate} cannot be JSON: {error}") from error
    numbered = re.compile(rf"{re.escape(prefix)}([1-9][0-9]*)\.json")
    taken = [int(match[1]) for path in folder.iterdir() if (match := numbered.fullmatch(path.name))]
    path = folder / f"{prefix}{max(taken, default=0) + 1}.json"
    write_atomically(path, data)
    return path


def list_verdicts(folder: Path) -> list[Path]:
    """List the verdicts of a model.

    Args:
        folder: The model's verdicts; it need not exist.

    Returns:
        The files, by versions and then by number.
    """

    def order(path: Path) -> tuple[str, int]:
        pair, _, number = path.stem.rpartition("-")
        return (pair, int(number)) if number.isdecimal() else (path.stem, 0)

    return sorted((path for path in folder.glob("*-vs-*.json")), key=order)


def read_verdict(path: Path) -> dict[str, JsonValue]:
    """Read one verdict.

    Args:
        path: The file.

    Returns:
        What was recorded.

    Raises:
        DamagedRecordError: It is not what was written.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedRecordError(f"verdict {path.name} is no JSON") from error
    if not isinstance(content, dict):
        raise DamagedRecordError(f"verdict {path.name} is no JSON object")
    return content
