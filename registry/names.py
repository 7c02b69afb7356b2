"""The one grammar of model names, version ids, aliases and references.

Whatever passes here is a single, harmless path segment: no separator, no "..", no escape, no
character outside ASCII. It does not look at the disk: a well-formed name may name nothing.
"""

import re
from dataclasses import dataclass

from registry.errors import InvalidNameError

ALIASES = ("candidate", "canary", "shadow", "production", "previous")
"""The aliases that a model may have; `previous` follows `production` by itself."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9a-zA-Z][0-9A-Za-z._-]{0,63}")
_HUB_PART = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,95}")
_HUB_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._/-]{0,127}")
_HUB_PREFIX = "hub:"


def check_name(text: str) -> str:
    """Return `text` if it is a model name.

    Args:
        text: Lower-case letters, digits, ``.``, ``_`` and ``-``, at most 64 of them.

    Returns:
        The same text.

    Raises:
        InvalidNameError: It is not.
    """
    return _check("model name", _NAME, text)


def check_version_id(text: str) -> str:
    """Return `text` if it is a version id.

    Args:
        text: Letters, digits, ``.``, ``_`` and ``-``, at most 64 of them.

    Returns:
        The same text.

    Raises:
        InvalidNameError: It is not.
    """
    return _check("version id", _VERSION, text)


def check_alias(text: str) -> str:
    """Return `text` if it is one of `ALIASES`.

    Args:
        text: The alias.

    Returns:
        The same text.

    Raises:
        InvalidNameError: It is not.
    """
    if text not in ALIASES:
        raise InvalidNameError(f"{_show(text)} is no alias; use one of: {', '.join(ALIASES)}")
    return text


@dataclass(frozen=True)
class Reference:
    """A version in the local registry: ``name@alias`` or ``name@id``.

    Attributes:
        name: The model's name.
        selector: One of `ALIASES`, or a version id.
    """

    name: str
    selector: str

    def __post_init__(self) -> None:
        check_name(self.name)
        check_version_id(self.selector)

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}"

    @property
    def is_alias(self) -> bool:
        """Whether the selector is an alias, which moves, and not an id, which never does."""
        return self.selector in ALIASES

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read ``name@alias`` or ``name@id``.

        Args:
            text: The reference.

        Returns:
            The reference in parts; `str` of it gives the text back.

        Raises:
            InvalidNameError: It breaks the grammar.
        """
        name, at, selector = text.partition("@")
        if not at:
            raise InvalidNameError(
                f"{_show(text)} names no version; write name@alias or name@id, such as my-model@production"
            )
        return cls(name, selector)


@dataclass(frozen=True)
class HubReference:
    """A model on the Hugging Face Hub: ``hub:org/name@revision``.

    Attributes:
        repo: The repository, as ``org/name``.
        revision: A branch, tag or commit.
    """

    repo: str
    revision: str = "main"

    def __post_init__(self) -> None:
        parts = self.repo.split("/")
        if len(parts) != 2:
            raise InvalidNameError(f"{_show(self.repo)} is no Hub repository; write org/name")
        for part in parts:
            _check("Hub name", _HUB_PART, part)
            if "--" in part or part.endswith("-"):
                raise InvalidNameError(f"{_show(part)} is no Hub name: '--' or a trailing '-'")
        _check("Hub revision", _HUB_REVISION, self.revision)
        if "//" in self.revision or self.revision.endswith("/"):
            raise InvalidNameError(f"{_show(self.revision)} is no Hub revision: an empty part")

    def __str__(self) -> str:
        return f"{_HUB_PREFIX}{self.repo}@{self.revision}"

    @classmethod
    def parse(cls, text: str) -> "HubReference":
        """Read ``hub:org/name`` or ``hub:org/name@revision``.

        Args:
            text: The reference.

        Returns:
            The reference in parts; the revision is ``main`` where none was given.

        Raises:
            InvalidNameError: It breaks the grammar.
        """
        if not text.startswith(_HUB_PREFIX):
            raise InvalidNameError(f"{_show(text)} does not start with '{_HUB_PREFIX}'")
        repo, at, revision = text.removeprefix(_HUB_PREFIX).partition("@")
        return cls(repo, revision) if at else cls(repo)


def parse_reference(text: str) -> Reference | HubReference:
    """Read any reference that a user may give for a model.

    Args:
        text: ``name@production``, ``name@<id>`` or ``hub:org/name@revision``.

    Returns:
        A `HubReference` for ``hub:``, else a `Reference`.

    Raises:
        InvalidNameError: It breaks the grammar.
    """
    return HubReference.parse(text) if text.startswith(_HUB_PREFIX) else Reference.parse(text)


def _check(kind: str, grammar: re.Pattern[str], text: str) -> str:
    if not grammar.fullmatch(text) or ".." in text or text.endswith("."):
        raise InvalidNameError(
            f"{_show(text)} is no {kind}: it must match {grammar.pattern}, without '..' and without a dot at the end"
        )
    return text


def _show(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")
