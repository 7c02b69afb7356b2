"""What the commands of ``python -m service`` share: their settings, their model, and how they fail: in one line."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from registry import RegistryError
from service.lookup import find_version, reason
from service.settings import Settings
from speech.machine import how_to_install

if TYPE_CHECKING:
    from service.loading import Model


def option(name: str, *spellings: str) -> Any:
    """Return a setting as an option of the command line."""
    field = Settings.model_fields[name]
    return typer.Option(*spellings, help=f"{field.description} (WHISPERLOOP_{name.upper()}, {field.default})")


ModelOption = Annotated[str | None, option("model")]
RegistryOption = Annotated[Path | None, option("registry")]
DeviceOption = Annotated[str | None, option("device")]


def read_settings(**given: Any) -> Settings:
    """Return the settings; what is given and not None goes before the environment, whose misspelt ones are told."""
    for warning in misspelt(os.environ):
        typer.echo(f"warning: {warning}", err=True)
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise stop(f"{first['loc'][0]} (WHISPERLOOP_{str(first['loc'][0]).upper()}): {first['msg']}") from error
    except ImportError as error:
        raise stop(f"{error}: install what the service needs: {how_to_install('service')}") from error


def misspelt(environment: Iterable[str]) -> list[str]:
    """Say which variables look like settings and are none: WHISPERLOOP_KEY would leave a service open in silence."""
    known = {f"WHISPERLOOP_{name.upper()}" for name in Settings.model_fields}
    warnings = []
    for name in sorted(environment):
        if name.upper().startswith("WHISPERLOOP_") and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            warnings.append(f"{name} is no setting and has no effect" + (f"; {near[0]} is one" if near else ""))
    return warnings


def load(settings: Settings) -> "Model":
    """Load the model that the service would serve."""
    try:
        version = find_version(settings)
        from service.loading import load_model

        return load_model(settings, version)
    except RegistryError as error:
        raise stop(reason(settings, error)) from error
    except RuntimeError as error:  # a GPU was asked for, and there is none
        raise stop(str(error)) from error


def stop(message: str) -> typer.Exit:
    """Print an error, and return what ends the program."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(1)
