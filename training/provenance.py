"""Where a version comes from: code, packages, machine, settings, time and cost; and fingerprints of its data.

What it returns is published: no path of this machine and no text of the data is in it.
"""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from training.data.manifest import FINGERPRINT_FORMAT, Utterance, fingerprint
from training.data.report import DataReport

PACKAGES = (
    *("torch", "torchaudio", "transformers", "accelerate", "peft", "datasets", "tokenizers", "safetensors"),
    *("ctranslate2", "numpy", "jiwer", "huggingface_hub", "whisperloop"),
)
"""Those that decide what a run comes to; what is not installed is left out."""

ROOT = Path(__file__).parent.parent


def versions() -> dict[str, str]:
    """Return the versions of Python and of `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(root: Path = ROOT) -> dict[str, Any] | None:
    """Return the commit of the code that runs, whether it was changed, and the sha256 of the change; None without git.

    Args:
        root: of the code; must be the top of its repository, or a folder that happens to lie in another one would be
            taken for it.
    """
    try:
        top = _git(root, "rev-parse", "--show-toplevel").decode().strip()
        if Path(top).resolve() != root.resolve():
            return None
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        dirty = bool(_git(root, "status", "--porcelain"))
        change = hashlib.sha256(_git(root, "diff", "HEAD")).hexdigest()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": dirty, "diff_sha256": change if dirty else None}


def device() -> dict[str, Any]:
    """Return what computes here: the GPUs that torch sees, or the CPU; nothing that names the machine."""
    import torch

    about: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return {**about, "type": "cuda", "name": ", ".join(sorted(set(names))), "count": len(names)} | {
            "cuda": torch.version.cuda
        }
    return {**about, "type": "cpu", "name": _cpu_name(), "count": 1}


PRIVATE = frozenset({"url"})
"""Of a source of corrections: a path or a host of one's own."""


def settings(value: Any) -> Any:
    """Return a config as plain JSON, without the paths and addresses of this machine that are in it, however deep.

    Args:
        value: a pydantic model, or whatever is in one.
    """
    if isinstance(value, BaseModel):
        return settings({name: getattr(value, name) for name in type(value).model_fields})
    if isinstance(value, Mapping):
        return {
            str(key): settings(item) for key, item in value.items() if not isinstance(item, Path) and key not in PRIVATE
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [settings(item) for item in value if not isinstance(item, Path)]
    return value


def cost(seconds: Mapping[str, float], price_per_hour: float | None) -> dict[str, Any]:
    """Return the time that each stage took, in seconds, all of it in hours, and what that cost.

    Args:
        seconds: by stage.
        price_per_hour: of the machine, in any currency; None if nobody said.
    """
    hours = sum(seconds.values()) / 3600
    return {
        "wall_time_s": {stage: round(spent, 1) for stage, spent in seconds.items()},
        "hours": round(hours, 4),
        "price_per_hour": price_per_hour,
        "cost": None if price_per_hour is None else round(hours * price_per_hour, 4),
    }


def command_line() -> str:
    """Return the command that runs, without its arguments' values: those may be paths."""
    program = sys.argv[1:] if sys.argv[1:] and not sys.argv[1].startswith("-") else []
    return " ".join(["python -m training", *program[:1]])


def describe_data(utterances: Sequence[Utterance], report: DataReport) -> dict[str, Any]:
    """Return what a run learned from and was judged by: fingerprints, counts, hours and licences, by split and source.

    Args:
        utterances: all of the run's, with their splits.
        report: of what was left out; only its counts are taken.
    """
    return {
        "fingerprint": fingerprint(utterances),
        "fingerprint_format": FINGERPRINT_FORMAT,
        "splits": {name: _about(group) for name, group in _groups(utterances, "split")},
        "sources": describe_sources(utterances),
        "licences": dict(sorted(Counter(u.licence or "not stated" for u in utterances).items())),
        "report": report.model_dump(mode="json", exclude={"dropped"}),
    }


def describe_sources(utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Return fingerprint, counts, hours and licences of each source; also of speech that is only rehearsed."""
    return {name: _about(group) for name, group in _groups(utterances, "source")}


def _about(utterances: Sequence[Utterance]) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint(utterances),
        "clips": len(utterances),
        "hours": round(sum(u.audio.duration for u in utterances) / 3600, 4),
        "languages": sorted({u.language for u in utterances}),
        "speakers": len({u.speaker for u in utterances if u.speaker}) or None,
        "licences": sorted({u.licence for u in utterances if u.licence}),
    }


def _groups(utterances: Iterable[Utterance], field: str) -> list[tuple[str, list[Utterance]]]:
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(str(getattr(utterance, field)), []).append(utterance)
    return sorted(groups.items())


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, timeout=30).stdout


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
