"""Can this machine serve, as it is set? What is there, what is missing, and how to mend it.

Each check looks at one thing and changes nothing; no model is loaded, and no host is asked but this one. What training
needs, too, is in `speech.machine`.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import stat
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from registry import Registry, RegistryError
from service.command_line import misspelt
from service.keys import KeysError, read_keys
from service.lookup import EXPORT, is_on_hub, reason
from service.settings import Settings, is_loopback
from speech import machine
from speech.context import ElasticContext
from speech.device import takes_gpu
from speech.machine import Finding
from speech.smoke import SMOKE

FREE_GB = (1, 5)
"""Below the first it is an error, below the second a warning: a whisper-small is 1.5 GB, and twice that while it is
imported."""

MEMORY_GB = (0.8, 2)
"""As above: whisper-base takes 0.5 GB with 30 minutes of audio, whisper-small 1 GB; twice while versions are swapped.
"""

OLDEST = {
    "alembic": (1, 18),
    "ctranslate2": (4, 8, 5),
    "fastapi": (0, 165),
    "httpx": (0, 28),
    "prometheus-client": (0, 26),
    "python-multipart": (0, 0, 34),
    "sqlalchemy": (2, 1),
    "uvicorn": (0, 54),
}
"""As pyproject.toml has them: who installed over an environment that was there may have kept older ones."""

OLDEST_GRADIO = (6, 31)
"""Of the extra `console`, without which the service serves."""


def examine(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """Run all checks.

    Args:
        settings: as the service would read them.
        environment: the process's, for what in it only looks like a setting.
    """
    checks: list[Callable[[], Finding]] = [
        machine.python,
        packages,
        lambda: variables(environment),
        lambda: device(settings),
        memory,
        lambda: disk(settings),
        machine.audio,
        machine.voice_detector,
        lambda: machine.writable("cache", _cache(settings), "WHISPERLOOP_CACHE"),
        lambda: jobs(settings),
        lambda: corrections(settings),
        lambda: model(settings),
        lambda: port(settings),
        lambda: keys(settings),
        lambda: console(settings),
        machine.threads,
        machine.quota,
    ]
    return machine.look(checks)


def packages(installed: Callable[[str], str] = importlib.metadata.version) -> Finding:
    """All that the `service` extra names is there, and not too old."""
    missing, old = [], []
    for name, oldest in OLDEST.items():
        try:
            found = installed(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if _numbers(found) < oldest:
            old.append(f"{name} {found} (at least {_dotted(oldest)})")
    if missing or old:
        faults = [
            *(["missing: " + ", ".join(missing)] if missing else []),
            *(["older than was tried: " + ", ".join(old)] if old else []),
        ]
        mend = f"make setup, or {machine.how_to_install('service')}"
        return Finding("Packages", "error" if missing else "warning", "; ".join(faults), mend)
    return Finding("Packages", "ok", ", ".join(f"{name} {installed(name)}" for name in OLDEST))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def variables(environment: Mapping[str, str]) -> Finding:
    """No variable looks like a setting and is none."""
    if wrong := misspelt(environment):
        return Finding("Settings", "warning", "; ".join(wrong), "python -m service --help lists all of them")
    count = sum(name.upper().startswith("WHISPERLOOP_") for name in environment)
    return Finding("Settings", "ok", f"{count} set by the environment" if count else "all at their defaults")


def device(settings: Settings) -> Finding:
    """Where it will compute; and why not on the GPU that somebody paid for.

    torch is imported, which takes seconds, only where there is a GPU for it.
    """
    import ctranslate2

    count = ctranslate2.get_cuda_device_count()
    has_torch = importlib.util.find_spec("torch") is not None
    if settings.device == "cpu" or (count == 0 and settings.device == "auto" and not shutil.which("nvidia-smi")):
        return Finding("Device", "ok", f"CPU, {machine.cores()} cores")
    if count and not has_torch:
        state: machine.State = "error" if settings.device == "cuda" else "warning"
        mend = f"{machine.how_to_install('service,gpu')}; until then the CPU computes"
        return Finding("Device", state, f"{count} GPU, and no torch to drive it", mend)
    if count == 0:
        found = "no GPU that CUDA can use" + (", though nvidia-smi is here" if shutil.which("nvidia-smi") else "")
        mend = (
            "does nvidia-smi answer? In a container: docker run --gpus all, or compose's profile gpu "
            "(docs/deploying.md); or WHISPERLOOP_DEVICE=cpu"
        )
        return Finding("Device", "error" if settings.device == "cuda" else "warning", found, mend)
    return _driven_by_torch(count)


def _driven_by_torch(count: int) -> Finding:
    """Ask torch for the GPUs that the driver tells of: the service takes them, and would not be ready without."""
    rather_cpu = "or WHISPERLOOP_DEVICE=cpu"
    try:
        import torch
    except (ImportError, OSError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        mend = f"{machine.how_to_install('service,gpu')} --force-reinstall; {rather_cpu}"
        return Finding("Device", "error", f"{count} GPU, and torch cannot be imported: {said}", mend)
    version, cuda = str(torch.__version__), torch.version.cuda
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in which torch says what is said here
        if torch.cuda.is_available():
            return Finding("Device", "ok", f"{count} GPU, driven by torch {version}")
    if cuda is None:
        found = f"{count} GPU, and torch {version} is built for CPUs only"
        bare = version.partition("+")[0]
        mend = f"pip install --force-reinstall torch=={bare}, from an index whose wheels have CUDA; {rather_cpu}"
    else:
        found = f"{count} GPU, of which torch {version} can use none"
        mend = f"is the driver new enough for this torch (CUDA {cuda})? does nvidia-smi answer? {rather_cpu}"
    return Finding("Device", "error", found, mend)


def memory() -> Finding:
    """Enough main memory for a model, and for its successor beside it."""
    mend = "close what else runs, or serve a smaller model; hours of audio need some of it, too"
    return machine.memory(error=MEMORY_GB[0], warning=MEMORY_GB[1], mend=mend)


def disk(settings: Settings) -> Finding:
    """Room for what is imported."""
    return machine.disk(
        settings.registry,
        error=FREE_GB[0],
        warning=FREE_GB[1],
        mend="make room, or name another disk's with WHISPERLOOP_REGISTRY",
    )


def _cache(settings: Settings) -> Path:
    try:
        return settings.cache.expanduser()
    except RuntimeError:  # nobody's home, as in some containers
        return settings.cache


def jobs(settings: Settings) -> Finding:
    """The database of jobs can be written to, as far as that can be seen without making it."""
    if not settings.database:
        return Finding("Jobs", "ok", "none are taken: WHISPERLOOP_DATABASE is empty")
    return _database("Jobs", settings.database, "WHISPERLOOP_DATABASE")


def corrections(settings: Settings) -> Finding:
    """The database of corrections can be written to, as far as that can be seen without making it."""
    if not settings.corrections:
        mend = "WHISPERLOOP_CORRECTIONS=sqlite:///runs/corrections.db keeps them (docs/corrections.md)"
        return Finding("Corrections", "ok", f"not kept. {mend}")
    return _database("Corrections", settings.corrections, "WHISPERLOOP_CORRECTIONS")


def _database(what: str, address: str, setting: str) -> Finding:
    from sqlalchemy import make_url

    url = make_url(address)
    if url.get_backend_name() != "sqlite":
        return Finding(what, "ok", f"kept in {url.render_as_string(hide_password=True)}, which is not asked here")
    return _file(what, Path(url.database or ""), setting)


def _file(what: str, file: Path, setting: str) -> Finding:
    """The file can be written to, or be made."""
    found = machine.writable(what.lower(), file.parent, setting)
    if found.state != "ok":
        return found
    if file.is_dir():
        return Finding(what, "error", f"{file} is a folder", f"name a file with {setting}")
    if file.exists() and not os.access(file, os.W_OK):
        mend = f"give it to who runs this (chown, chmod), or name another with {setting}"
        return Finding(what, "error", f"{file} cannot be written to", mend)
    return Finding(what, "ok", f"kept in {file}")


def model(settings: Settings) -> Finding:
    """The version to serve is there, byte by byte as it was published."""
    if is_on_hub(settings.model):
        found = f"{settings.model} will be imported at the start, if it is not here yet"
        return Finding("Model", "ok", found)
    if not os.path.isdir(settings.registry):  # noqa: PTH112 - Path.is_dir raises if it may not look
        found = f"there is no registry at {settings.registry}"
        return Finding(
            "Model", "error", found, "make demo, or python -m registry import (see python -m registry --help)"
        )
    registry = Registry(settings.registry)
    try:
        version = registry.resolve(settings.model)
        if takes_gpu(settings.device):  # as `loading` does it
            registry.verify(version)
        else:
            registry.verify(version, under=EXPORT)
            registry.verify(version, under=SMOKE)
    except (RegistryError, OSError) as error:
        said = reason(settings, error) if isinstance(error, RegistryError) else f"{settings.registry}: {error.strerror}"
        return Finding("Model", "error", f"{settings.model} cannot be served", said)
    context = ElasticContext.from_manifest(version.manifest.context)
    if not context.elastic:
        mend = f"python -m training elasticize {version.ref} --audio FOLDER makes short clips cost what they last"
        return Finding("Model", "warning", f"{version.ref}, whole; every clip costs 30 s", mend)
    return Finding("Model", "ok", f"{version.ref}, whole, elastic with margin {context.margin}")


def port(settings: Settings) -> Finding:
    """Nobody listens where the service shall; if it is this service already, say so."""
    host, where = settings.host, f"{settings.host}:{settings.port}"
    if settings.port == 0:
        return Finding("Port", "ok", f"any that is free on {host}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        socket.create_server(address, family=family).close()
    except OSError as error:
        if version := _served_at(settings):
            return Finding("Port", "ok", f"a Whisperloop is at {where} already, with {version}")
        why = str(error.strerror).partition(" (")[0]
        return Finding("Port", "error", f"cannot listen on {where}: {why}", "choose another with WHISPERLOOP_PORT")
    return Finding("Port", "ok", f"{where} is free")


def _served_at(settings: Settings) -> str | None:
    """Return what a Whisperloop at the service's own address serves; None if it is something else."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - compared only
    import httpx

    try:
        answer = httpx.get(f"http://{host}:{settings.port}/version", timeout=3)
        content = answer.json()
        if answer.status_code == 401 and content["error"]["code"] == "invalid_api_key":
            return "what it tells whoever has a key"
        return str((content["model"] or {}).get("ref", "no model yet")) if "whisperloop" in content else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def keys(settings: Settings) -> Finding:
    """Whoever can reach it needs a key, and the keys can be read by this user only."""
    if settings.keys is None:
        if is_loopback(settings.host):
            return Finding("API keys", "ok", "none; it listens to this machine only")
        mend = "WHISPERLOOP_KEYS=keys.jsonl python -m service keys add NAME, and start with WHISPERLOOP_KEYS"
        return Finding("API keys", "warning", f"whoever reaches {settings.host} may ask, without a key", mend)
    try:
        found = read_keys(settings.keys)
    except KeysError as error:
        return Finding("API keys", "error", "the service will not start without its keys", str(error))
    if not found:
        mend = f"WHISPERLOOP_KEYS={settings.keys} python -m service keys add NAME"
        return Finding("API keys", "warning", f"{settings.keys} is empty: nobody is let in", mend)
    if settings.keys.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mend = f"chmod 600 {settings.keys}"
        return Finding("API keys", "warning", f"{settings.keys} can be written to by others", mend)
    return Finding("API keys", "ok", f"{len(found)}, of which {sum(key.admin for key in found)} for admins")


def console(settings: Settings) -> Finding:
    """The page at / can be made, and its votes be written down; and whether what is corrected there is kept.

    None of it is an error: the API serves without.
    """
    from service.console.mount import is_installed

    if not settings.console:
        return Finding("Console", "ok", "off, by WHISPERLOOP_CONSOLE")
    if not is_installed():
        return Finding("Console", "warning", "Gradio is not installed", machine.how_to_install("service,console"))
    gradio = importlib.metadata.version("gradio")
    if _numbers(gradio) < OLDEST_GRADIO:
        found = f"Gradio {gradio} is too old (at least {_dotted(OLDEST_GRADIO)})"
        return Finding("Console", "warning", found, machine.how_to_install("service,console"))
    votes = "counted in memory only"
    if settings.console_votes is not None:
        kept = _file("Votes", settings.console_votes, "WHISPERLOOP_CONSOLE_VOTES")
        if kept.state != "ok":
            return replace(kept, state="warning")
        votes = kept.found
    corrected = "refused, for WHISPERLOOP_CORRECTIONS is not set"
    if settings.corrections:
        corrected = "kept" if corrections(settings).state == "ok" else "refused, for the reason above"
    return Finding("Console", "ok", f"at /; what is corrected there is {corrected}; votes are {votes}")
