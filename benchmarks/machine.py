"""What was measured on, and with what: a figure without its machine says nothing."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.entries import RESULTS
from benchmarks.environment import REQUIREMENTS
from benchmarks.workers import ROOT

MACHINE = RESULTS / "machine.json"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8")
PACKAGES = ("ctranslate2", "numpy", "av", "fastapi", "uvicorn", "torch", "transformers")
PEERS = ("faster-whisper", "ctranslate2", "openai-whisper", "pywhispercpp", "onnxruntime", "av", "fastapi", "uvicorn")


def describe(version_ref: str, clips: int, tuning: Mapping[str, Any], *, full: bool) -> dict[str, Any]:
    """Return processor, memory, system, packages, commit and model."""
    cpuinfo = _read("/proc/cpuinfo")
    flags = set(_first(r"^flags\s*: (.*)$", cpuinfo).split())
    memory_kib = int(_first(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo")) or 0)
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "model": version_ref,
        "held_out_clips": clips,
        "full": full,
        "tuning": dict(tuning),
        "processor": _first(r"^model name\s*: (.*)$", cpuinfo) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(memory_kib / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "peers": {name: pinned[name] for name in PEERS},
    }


def write_machine(machine: dict[str, Any], path: Path = MACHINE) -> None:
    """Write the description beside the results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(machine, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_machine(path: Path = MACHINE) -> dict[str, Any]:
    """Read it back; an absent one says nothing."""
    machine: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return machine


def processor() -> str:
    """Return the processor's name, as part of what rounds are comparable by."""
    return _first(r"^model name\s*: (.*)$", _read("/proc/cpuinfo")) or platform.processor()


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")
