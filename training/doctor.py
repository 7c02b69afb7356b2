"""Is this machine fit to train? What is there, what is missing, and how to mend it.

Each check is a plain function that looks at one thing and changes nothing. The network is not asked. What serving
needs, too, is in `speech.machine`.
"""

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from registry import Registry, RegistryError
from speech import machine
from speech.machine import Finding

FREE_GB = (5, 20)
"""Below the first it is an error, below the second a warning: whisper-small with optimiser states takes 3 GB a
checkpoint, of which two are kept, and a version is 1.5 GB."""

MEMORY_GB = (4, 8)
"""As above: whisper-small in float32 with AdamW's two moments and gradients is 4 GB before the first clip."""

OLDEST = {"transformers": (5, 3), "torch": (2, 10), "datasets": (5, 0)}
"""Older ones run code from files that they load (transformers: CVE-2026-4372; torch: CVE-2026-24747); datasets before 5
has another API."""


def examine(registry: Path, runs: Path) -> list[Finding]:
    """Run all checks.

    Args:
        registry: folder of the model registry.
        runs: folder for caches, checkpoints and logs.
    """
    checks: list[Callable[[], Finding]] = [
        machine.python,
        packages,
        torch_and_torchaudio,
        device,
        memory,
        lambda: machine.writable("runs", runs, "--runs"),
        lambda: machine.writable("registry", registry, "--registry"),
        lambda: disk(runs),
        machine.audio,
        machine.voice_detector,
        lambda: versions(registry),
        hub_login,
        machine.threads,
        machine.quota,
    ]
    return machine.look(checks)


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
        return Finding("Packages", "error", found, f"make setup, or {machine.how_to_install('training')}")
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


def memory() -> Finding:
    """Enough main memory for weights, gradients and moments."""
    mend = "close what else runs, or start from a smaller base (--base hub:openai/whisper-base)"
    return machine.memory(error=MEMORY_GB[0], warning=MEMORY_GB[1], mend=mend)


def disk(runs: Path) -> Finding:
    """Room for checkpoints and versions."""
    return machine.disk(
        runs,
        error=FREE_GB[0],
        warning=FREE_GB[1],
        mend="make room, or name another disk's folder with --runs and --registry",
    )


def versions(registry: Path) -> Finding:
    """What the aliases name is there and can be read; `python -m registry verify` looks at every byte."""
    if not os.path.isdir(registry):  # noqa: PTH112 - Path.is_dir raises if it may not look
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
