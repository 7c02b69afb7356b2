"""Which version is served, whole as it was published; and what to say where there is none.

Nothing here computes, so it can be run while numpy and the web framework are still being imported.
"""

from registry import DamagedVersionError, NotFoundError, Registry, RegistryError, Version
from service.settings import Settings

EXPORT = "ctranslate2"
"""The folder of a version that is served on CPUs."""


def find_version(settings: Settings) -> Version:
    """Resolve the version that the settings name, and verify its export; what GPUs load beside it is left to them.

    Raises:
        RegistryError: there is none, or its bytes are not those that were published; none of them was parsed then.
    """
    registry = Registry(settings.registry)
    version = registry.resolve(settings.model)
    registry.verify(version, under=EXPORT)
    return version


def reason(settings: Settings, error: RegistryError) -> str:
    """Say what is wrong and what to run."""
    name = settings.model.partition("@")[0]
    if isinstance(error, NotFoundError):
        return (
            f"There is no {settings.model} to serve ({error}). Make one with `make demo`, or import one with "
            f"`python -m registry import <folder or hub:org/name> --name {name} --alias production`; "
            "then restart the service."
        )
    if isinstance(error, DamagedVersionError):
        return (
            f"{error}. It is not loaded. Publish it again, or go back: "
            f"`python -m registry rollback {name} --reason damaged`."
        )
    return f"{settings.model} cannot be served: {error}"
