"""What the peers need: an environment of their own, and the version's weights in the forms that they read."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from registry import Version
from speech.audio import SAMPLE_RATE
from speech.context import ElasticContext
from speech.engine.tuning import Tuning, cache_file, read_cached, write_cached
from training.shell import Shell, StepError

REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")


def peers_python(folder: Path, shell: Shell) -> Path:
    """Make the peers' environment, unless it is there with these very requirements; return its interpreter.

    Raises:
        StepError: pip could not install them.
    """
    python = folder / "bin" / "python"
    marker = folder / ".installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if marker.is_file() and marker.read_text(encoding="ascii") == wanted:
        return python
    shell.say(f"installing the peers into {folder}")
    # --no-deps: the file lists them all, but for torch, which is not installed twice.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, "-r", str(REQUIREMENTS)]):
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            raise StepError(f"`{' '.join(command)}` failed; its message is above")
    marker.write_text(wanted, encoding="ascii")
    return python


def site_packages(python: Path) -> Path:
    """Return where the peers' packages are."""
    return next(python.parent.parent.glob("lib/python3.*/site-packages"))


def tune(version: Version, cache: Path, shell: Shell) -> Tuning:
    """Return how our CPU engine is best run here, measured as the service does it when it is idle.

    The service would measure in the middle of somebody else's round; with the answer in `cache` it does not.
    """
    context = ElasticContext.from_manifest(version.manifest.context)
    positions = context.positions(3 * SAMPLE_RATE)
    path = cache_file(cache, version.manifest_sha256(), positions)
    tuning = read_cached(path)
    if tuning is None:
        shell.say("tuning our engine, as the service does when it is idle")
        command = [sys.executable, "-m", "speech.engine.tuning", str(version.path / "ctranslate2"), str(positions)]
        done = subprocess.run(command, check=True, capture_output=True)
        tuning = Tuning(**json.loads(done.stdout)[0]["tuning"])
        write_cached(path, tuning)
    return tuning


def converted(version: Version, path: Path, write: Callable[[Path, Path], None]) -> Path:
    """Return the version in a peer's form at `path`, written by one of `benchmarks.formats` when first asked for."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(version.path, path)
    return path
