"""Everything that can go wrong in the registry, as exceptions with one clear line each.

It does not print, log or recover: whoever calls decides what a failure means to its user.
"""

from collections.abc import Iterable


class RegistryError(Exception):
    """The root of the registry's errors; catch it to catch them all.

    ::

        RegistryError
        ├── InvalidNameError      a name, version, alias or reference breaks the grammar
        ├── NotFoundError         no such model, version, alias, verdict or Hub repository
        ├── DamagedVersionError   a version's bytes are not those that were published
        ├── DamagedRecordError    an alias, a verdict or the log is not what was written
        ├── AliasConflictError    somebody else moved the alias first
        ├── PublishError          a folder cannot become a version
        └── PushError             the Hub did not take a version (in `registry.push`)
    """


class InvalidNameError(RegistryError):
    """A name, version id, alias or reference breaks the grammar of `registry.names`."""


class NotFoundError(RegistryError):
    """What was asked for does not exist; the message says what does, and what to run."""

    @classmethod
    def listing(cls, missing: str, existing: Iterable[str], run: str) -> "NotFoundError":
        """Name what is missing, what exists instead and the command to run next.

        Args:
            missing: What was asked for, such as ``model 'tiny'``.
            existing: The names that would have worked.
            run: A command line that helps.

        Returns:
            The error, ready to raise.
        """
        there = ", ".join(existing) or "nothing"
        return cls(f"no {missing}; there is: {there}; run: {run}")


class DamagedVersionError(RegistryError):
    """A file of a version is not what its manifest (or the alias that names it) promised.

    Attributes:
        ref: The version, as ``name@id``.
        file: The damaged file, relative to the version's folder.
        expected: What was promised.
        found: What is there.
    """

    def __init__(self, ref: str, file: str, expected: str, found: str) -> None:
        super().__init__(f"{ref} is damaged: {file}: expected {expected}, found {found}")
        self.ref, self.file, self.expected, self.found = ref, file, expected, found


class DamagedRecordError(RegistryError):
    """An alias, a verdict or the log of moves is not what the registry wrote."""


class AliasConflictError(RegistryError):
    """A compare-and-swap lost: the alias is not where the caller believed it to be.

    Attributes:
        alias: The alias, as ``name@alias``.
        expected: The version id that the caller believed in; None for "does not exist".
        found: The version id that the alias names; None for "does not exist".
    """

    def __init__(self, alias: str, expected: str | None, found: str | None) -> None:
        super().__init__(
            f"{alias} has moved: expected {expected or 'no such alias'}, "
            f"found {found or 'no such alias'}; look again before moving it"
        )
        self.alias, self.expected, self.found = alias, expected, found


class PublishError(RegistryError):
    """A folder cannot become a version, or the disk refused; nothing was published."""
