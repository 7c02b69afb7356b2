"""Running the application under uvicorn: what it listens to, and how it stops."""

import ipaddress
import logging

from service.settings import Settings

logger = logging.getLogger("whisperloop.service")


def warn_if_open(settings: Settings) -> None:
    """Say so in the log if others than this machine can reach a service that asks nobody for a key."""
    if settings.keys is None and not _is_this_machine(settings.host):
        logger.warning(
            "whoever reaches %s may transcribe: make keys with `python -m service keys add NAME` and set "
            "WHISPERLOOP_KEYS, or listen on 127.0.0.1",
            settings.host,
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
