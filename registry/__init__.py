"""Model versions on disk and on the Hub: publish, verify, resolve, move aliases.

The registry moves bytes. It does not know what a model is, how one is trained or served, or which
of two is better; it imports none of the other rooms.
"""

from registry.aliases import Alias
from registry.copies import Copy
from registry.errors import (
    AliasConflictError,
    DamagedRecordError,
    DamagedVersionError,
    InvalidNameError,
    NotFoundError,
    PublishError,
    RegistryError,
)
from registry.hub import Snapshot, download_snapshot
from registry.hub_writing import PushError
from registry.log import Change, LogEntry
from registry.manifest import FileEntry, Manifest, content_digest, describe, hash_file
from registry.names import ALIASES, HubReference, Reference, parse_reference
from registry.push import Pushed, files_to_push, push_version
from registry.push_space import PushedSpace, holds_version, push_space
from registry.store import Registry, Stamp
from registry.version import Version

__all__ = [
    "ALIASES",
    "Alias",
    "AliasConflictError",
    "Change",
    "Copy",
    "DamagedRecordError",
    "DamagedVersionError",
    "FileEntry",
    "HubReference",
    "InvalidNameError",
    "LogEntry",
    "Manifest",
    "NotFoundError",
    "PublishError",
    "PushError",
    "Pushed",
    "PushedSpace",
    "Reference",
    "Registry",
    "RegistryError",
    "Snapshot",
    "Stamp",
    "Version",
    "content_digest",
    "describe",
    "download_snapshot",
    "files_to_push",
    "hash_file",
    "holds_version",
    "parse_reference",
    "push_space",
    "push_version",
]
