"""Which versions are served, whole as they were published; and what to say where there is none.

Nothing here computes, so it can be run while numpy and the web framework are still being imported.
"""

from typing import NamedTuple

from registry import ALIASES, DamagedVersionError, NotFoundError, Reference, Registry, RegistryError, Stamp, Version
from service.settings import Settings

EXPORT = "ctranslate2"
"""The folder of a version that is served on CPUs."""


def find_version(settings: Settings) -> Version:
    """Resolve the version that the settings name, and verify its export; what GPUs load beside it is left to them.

    What is on the Hub (`hub:org/name@revision`) is imported into the registry first, unless it is there already.

    Raises:
        RegistryError: there is none, or its bytes are not those that were published; none of them was parsed then.
    """
    registry = Registry(settings.registry)
    if is_on_hub(settings.model):
        from registry.importing import import_model

        version = import_model(settings.model, None, registry)
    else:
        version = registry.resolve(settings.model)
    registry.verify(version, under=EXPORT)
    return version


class Target(NamedTuple):
    """The version that a place names."""

    ref: str  # name@id
    manifest_sha256: str | None  # as the alias has it; None for a place that is no alias


def is_on_hub(place: str) -> bool:
    """Say whether a reference names something on the Hub; which revision that is, is looked up once, at the start."""
    return place.startswith("hub:")


def is_alias(place: str) -> bool:
    """Say whether a reference may name another version one day."""
    try:
        return Reference.parse(place).is_alias
    except RegistryError:
        return False


def beside(place: str, selector: str) -> str:
    """Return the reference for an alias of the same model; a whole reference is returned as it is."""
    return selector if "@" in selector else f"{place.partition('@')[0]}@{selector}"


def stamp(settings: Settings, place: str) -> Stamp | None:
    """Return what changes whenever a place may name another version: one look at one small file.

    Raises:
        OSError: the registry cannot be looked at.
    """
    if not is_alias(place):
        return None
    ref = Reference.parse(place)
    return Registry(settings.registry).alias_stamp(ref.name, ref.selector)


def target(settings: Settings, place: str) -> Target | None:
    """Return what a place names; None if it names nothing. What is damaged is found out by who loads it."""
    if not is_alias(place):
        return Target(place, None)
    ref = Reference.parse(place)
    try:
        alias = Registry(settings.registry).alias(ref.name, ref.selector)
    except NotFoundError:
        return None
    except RegistryError:
        return Target(place, None)
    return None if alias is None else Target(f"{ref.name}@{alias.version}", alias.manifest_sha256)


def how_to_serve(name: str) -> str:
    """Say how to have a version served that is not."""
    if name.rpartition("@")[2] in ALIASES or "@" in name:
        return f" If the registry has it, the service serves it by name with WHISPERLOOP_ALSO={name}."
    return ""


def reason(settings: Settings, error: RegistryError) -> str:
    """Say what is wrong and what to run."""
    if is_on_hub(settings.model):
        return f"{settings.model} cannot be served: {error}. When that is mended, start again."
    name = settings.model.partition("@")[0]
    watched = is_alias(settings.model) and settings.watch_seconds > 0
    if isinstance(error, NotFoundError):
        return (
            f"There is no {settings.model} to serve ({error}). Make one with `make demo`, or import one with "
            f"`python -m registry import <folder or hub:org/name> --name {name} --alias production`; "
            f"{'the service loads it as soon as it is there' if watched else 'then restart the service'}."
        )
    if isinstance(error, DamagedVersionError):
        return (
            f"{error}. It is not loaded. Publish it again, or go back: "
            f"`python -m registry rollback {name} --reason damaged`."
        )
    return f"{settings.model} cannot be served: {error}"
