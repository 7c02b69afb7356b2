"""An engine of one's own: Debian's docker.io on a socket of its own, a base image from debootstrap, and Compose.

Nothing of the host's Docker is touched, if it has one. Needs root, and Debian's apt.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}
SUITE = "bookworm"  # its Python is 3.11, for which requirements.txt is pinned
PROFILES = ("gpu", "training", "training-gpu", "postgres", "monitoring")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")


class EngineError(Exception):
    """The engine does not do what is needed; the message says what it printed."""


def install_packages():
    """Install what is missing of Debian's engine, compose and debootstrap."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise EngineError(f"{', '.join(missing)} must be installed; as root, with apt, this is done here")
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing, "iptables"]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        subprocess.run(["apt-get", "update", "--quiet"], check=True, capture_output=True)
        subprocess.run(command, check=True)


@contextlib.contextmanager
def new_engine(folder, log):
    """Start an engine that has nothing, its images in `folder`; yield its address; stop it and remove all it made."""
    short = Path(tempfile.mkdtemp(prefix="whisperloop-"))  # sockets' names have 108 bytes at most
    address = f"unix://{short}/docker.sock"
    command = ["dockerd", "--host", address, "--data-root", str(folder), "--exec-root", str(short / "exec")]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--pidfile", str(short / "pid")], stdout=output, stderr=output)
    try:
        for _ in range(120):
            if process.poll() is not None:
                raise EngineError(f"dockerd has stopped: {log.read_text()[-1000:]}")
            if subprocess.run([docker(), "--host", address, "info"], check=False, capture_output=True).returncode == 0:
                break
            time.sleep(0.5)
        else:
            raise EngineError(f"dockerd does not answer: {log.read_text()[-1000:]}")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(short, ignore_errors=True)


def docker():
    """Return the command line's path; Debian's has BuildKit in it, newer ones want a plugin for it."""
    return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"


class Engine:
    """A running engine, its images and its composition."""

    def __init__(self, address, folder, *, tag, compose, settings):
        self.address, self.folder, self.tag = address, folder, tag
        self.compose_command = shlex.split(compose)
        self.settings = {"TAG": tag, "COMPOSE_PROJECT_NAME": f"whisperloop-{tag}-{os.getpid()}", **settings}

    def environment(self, **settings):
        """Return the environment of a command."""
        return {**os.environ, "DOCKER_HOST": self.address, "DOCKER_BUILDKIT": "1", **self.settings, **settings}

    def docker(self, *arguments, log=None):
        """Run the engine's command line and return what it printed."""
        return _run([docker(), *map(str, arguments)], self.environment(), log)

    def compose(self, *arguments, **settings):
        """Run Compose on the project's file and return what it printed."""
        command = [*self.compose_command, *arguments]
        return _run(command, self.environment(**settings), None)

    def config(self, *profiles):
        """Return the composition with some profiles, as Compose understood it."""
        options = [option for profile in profiles for option in ("--profile", profile)]
        return yaml.safe_load(self.compose(*options, "config"))

    def make_base(self, mirror):
        """Make a base image of Debian's own packages, with no other registry's help."""
        root = self.folder / "debian"
        shutil.rmtree(root, ignore_errors=True)
        with (self.folder / "debootstrap.log").open("wb") as log:
            subprocess.run(
                ["debootstrap", "--variant=minbase", SUITE, str(root), mirror], check=True, stdout=log, stderr=log
            )
        # As Debian's own images: no downloaded packages and no lists of them.
        shutil.rmtree(root / "var" / "cache" / "apt" / "archives", ignore_errors=True)
        shutil.rmtree(root / "var" / "lib" / "apt" / "lists", ignore_errors=True)
        image = f"whisperloop-base:{SUITE}"
        packed = subprocess.Popen(["tar", "--create", "--directory", str(root), "."], stdout=subprocess.PIPE)
        subprocess.run(
            [docker(), "import", "-", image],
            stdin=packed.stdout,
            check=True,
            env=self.environment(),
            capture_output=True,
        )
        if packed.wait() != 0:
            raise EngineError("tar could not pack the base image")
        shutil.rmtree(root, ignore_errors=True)
        return image

    def build(self, target, base):
        """Build one of the Dockerfile's targets; return its size in bytes."""
        image = f"whisperloop/{target}:{self.tag}"
        arguments = ["build", "--progress", "plain", "--network", "host", "--target", target, "--tag", image]
        arguments += ["--build-arg", f"BASE_IMAGE={base}"]
        arguments += [option for name in PROXIES if name in os.environ for option in ("--build-arg", name)]
        with tempfile.TemporaryDirectory() as secrets:
            arguments += pip_secrets(Path(secrets))
            self.docker(*arguments, ROOT, log=self.folder / f"build-{target}.log")
        return int(self.docker("image", "inspect", "--format", "{{.Size}}", image))

    def container(self, service):
        """Return the id of a service's container."""
        return self.compose("ps", "--quiet", service).strip()

    def inspect(self, container, what):
        """Return what the engine says of a container."""
        return json.loads(self.docker("inspect", "--format", "{{json " + what + "}}", container))

    def wait_healthy(self, service, timeout=600):
        """Wait until a service's container is healthy; return the seconds that it took."""
        started = time.monotonic()
        while time.monotonic() - started < timeout:
            container = self.container(service)
            status = self.inspect(container, ".State.Health.Status") if container else None
            if status == "healthy":
                return time.monotonic() - started
            time.sleep(0.5)
        raise EngineError(f"{service} is not healthy after {timeout} s:\n{self.logs(service)[-2000:]}")

    def logs(self, service):
        """Return what a service printed."""
        return self.compose("logs", "--no-color", service)


def pip_secrets(folder):
    """Return the options that let pip in a build reach its packages the way that this machine's pip does."""
    options = []
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    settings = dict(line.split("=", 1) for line in listed.stdout.splitlines() if "=" in line)
    by_key = {name.rpartition(".")[2]: value.strip("'\"") for name, value in settings.items()}
    lines = ["[global]"]
    for key in PIP_KEYS:
        addresses = [part for part in by_key.get(key, "").split() if not part.startswith("file:")]
        if addresses:
            lines.append(f"{key} = {' '.join(addresses)}")
    certificates = by_key.get("cert")
    if certificates and Path(certificates).is_file():
        lines.append("cert = /run/secrets/ca")
        options += ["--secret", f"id=ca,src={certificates}"]
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    return [*options, "--secret", f"id=pip,src={folder / 'pip.conf'}"]


def _run(command, environment, log):
    if log is None:
        result = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
        said = result.stderr[-2000:] or result.stdout[-2000:]
    else:
        with log.open("w") as output:
            result = subprocess.run(
                command, cwd=ROOT, env=environment, check=False, stdout=output, stderr=output, text=True
            )
        said = log.read_text()[-2000:]
    if result.returncode != 0:
        raise EngineError(f"{' '.join(command)} ended with {result.returncode}:\n{said}")
    return result.stdout or ""
