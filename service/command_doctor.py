"""``python -m service doctor``: can this machine serve, as it is set?"""

import os
from typing import Annotated

import typer

from service.command_line import DeviceOption, ModelOption, RegistryOption, option, read_settings


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    host: Annotated[str | None, option("host")] = None,
    port: Annotated[int | None, option("port")] = None,
    model: ModelOption = None,
    registry: RegistryOption = None,
    device: DeviceOption = None,
) -> None:
    """Check machine, packages, GPU, memory, disk, permissions, the model, keys and known traps; say how to mend each.

    Exit status 1 if the service would not serve; warnings do not count. The service may be running.

    For example:

        python -m service doctor

        python -m service doctor --model whisper@candidate --device cuda
    """
    settings = read_settings(host=host, port=port, model=model, registry=registry, device=device)
    from service.doctor import examine
    from speech.machine import report

    if not report(examine(settings, os.environ), as_json=as_json):
        raise typer.Exit(1)
