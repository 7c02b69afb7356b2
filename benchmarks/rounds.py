"""What was measured so far, one JSON object a line: a run that was interrupted goes on from there.

A line counts only under the key that it was measured with, so that a change of the code, the model or the clips
measures again. It does not know what a round is.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Round = dict[str, Any]


class Rounds:
    """The rounds of one key in a file that may hold those of others."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._done: dict[tuple[str, str, int], Round] = {}
        for line in _lines(path):
            if line["key"] == key:
                self._done[line["measure"], line["contender"], line["round"]] = line["result"]

    def get(self, measure: str, contender: str, number: int) -> Round | None:
        """Return a round that was saved, None if it has to be run."""
        return self._done.get((measure, contender, number))

    def add(self, measure: str, contender: str, number: int, result: Round) -> Round:
        """Save a round before anything else happens, and return it."""
        line = {"key": self._key, "measure": measure, "contender": contender, "round": number, "result": result}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            if file.tell() and _ends_torn(self._path):
                file.write(b"\n")
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._done[measure, contender, number] = result
        return result


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # torn by a power cut: that round is run again


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
