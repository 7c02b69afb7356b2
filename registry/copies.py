"""What of a version may leave home, and what a copy that came back from the Hub says about where it was.

A copy has the manifest of the original, to the byte, and so its id; files that stayed at home are missing from it, and
`copy.json` beside the manifest names them. Nothing that a model is run with may be missing.
"""

import fnmatch
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

COPY = "copy.json"
"""Beside the manifest of a version that came from the Hub, and not of its files."""

PUBLIC = (
    *("*.safetensors", "model.safetensors.index.json"),
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
    *("ctranslate2/config.json", "ctranslate2/model.bin", "ctranslate2/preprocessor_config.json"),
    *("ctranslate2/tokenizer.json", "ctranslate2/vocabulary.json"),
    *("README.md", "provenance.json", "data.json", "metrics.json", "curves/*.png"),
)
"""The files that may be seen by others: what runs the model, and what tells of it. All others hold what people said,
or nobody has looked whether they do: they stay at home unless they are asked for."""


def is_public(path: str) -> bool:
    """Say whether a file of a version may leave home unasked.

    Args:
        path: Relative to the version's folder, with forward slashes.
    """
    # A star stands for no slash: a folder's private files are not let out by a pattern for the root.
    return any(path.count("/") == p.count("/") and fnmatch.fnmatchcase(path, p) for p in PUBLIC)


class Copy(BaseModel):
    """Where a copy of a version came from.

    Attributes:
        repo: The Hub repository, as ``org/name``.
        commit: Of that repository.
        absent: The files of the manifest that stayed at home.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: str
    commit: str
    absent: tuple[str, ...] = ()

    @field_validator("absent")
    @classmethod
    def _may_be_absent(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if is_public(path):
                raise ValueError(f"{path!a} may not be missing from a copy")
        return paths


def read_copy(version: Path) -> Copy | None:
    """Read where a version came from; None if it was published here.

    Args:
        version: The version's folder.

    Raises:
        ValidationError: The record is not what was written.
    """
    try:
        return Copy.model_validate_json((version / COPY).read_bytes())
    except FileNotFoundError:
        return None
