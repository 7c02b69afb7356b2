"""The real base model, real speech and a real server; what is downloaded is kept in `runs/`, as the demo keeps it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from registry import Registry
from speech.machine import cores
from training.data.sources.asterisk import SourceUnavailableError, fetch, read_asterisk
from training.demo import fetch_base, serving
from training.shell import Shell

RUNS = Path(__file__).parents[2] / "runs"

if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # Workers have cores of their own, and so has all that they start: threads of several models on the same cores wait
    # for each other most of their time.
    share = sorted(os.sched_getaffinity(0))[int(worker[2:]) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    os.sched_setaffinity(0, share or os.sched_getaffinity(0))

os.environ["WHISPERLOOP_DATABASE"] = ""  # no jobs but those of a test
os.environ["WHISPERLOOP_CONSOLE"] = "false"  # its import would run beside what is measured
# A service that thinks it is idle would measure in the middle of other tests.
os.environ["WHISPERLOOP_THREADS"] = str(min(cores(), 2))


def pytest_collection_modifyitems(items):
    """Begin with the file that takes longest: one worker would be at it alone when all others are done."""
    items.sort(key=lambda item: item.path.name != "test_loop.py")


@pytest.fixture(scope="session")
def chromium(from_debian):
    """Return a function that starts a headless Chromium with more arguments, which notes what pages log and ask for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium")
    driven_by = from_debian(lambda: shutil.which("chromedriver"), "chromium", "chromium-driver")
    usual = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1400", "--no-first-run")

    def start(*arguments):
        options = webdriver.ChromeOptions()
        for argument in (*usual, "--disable-background-networking", "--disable-component-update", *arguments):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(driven_by))

    return start


@pytest.fixture(scope="session")
def one_at_a_time():
    """Return a lock for what the tests of several workers would download or install at once."""
    RUNS.mkdir(exist_ok=True)
    return FileLock(RUNS / ".lock")


@pytest.fixture(scope="session")
def from_debian(one_at_a_time):
    """Return a function that finds what Debian's packages have; in CI they are installed, elsewhere it skips a test."""

    def get(find, *packages):
        with one_at_a_time:
            found = find()
            if not found and os.environ.get("CI") and shutil.which("apt-get") and os.geteuid() == 0:
                subprocess.run(["apt-get", "update", "-qq"], check=True)
                subprocess.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages], check=True)
                found = find()
        if not found:
            pytest.skip(f"not on this machine: apt-get install {' '.join(packages)}")
        return found

    return get


@pytest.fixture(scope="session")
def base_source(one_at_a_time):
    """Return the CTranslate2 folder of whisper-base, float16, as Systran published it."""
    (RUNS / "demo").mkdir(parents=True, exist_ok=True)
    with one_at_a_time:
        return fetch_base(RUNS / "demo", Shell())


@pytest.fixture(scope="session")
def prompts(one_at_a_time):
    """Return a function that gives the utterances of a language's Asterisk prompts, with absolute audio paths."""

    def read(language):
        try:
            with one_at_a_time:
                root = fetch([language], RUNS / "data" / "asterisk")
                utterances, _ = read_asterisk(root, language, RUNS / "data" / "asterisk-audio")
        except SourceUnavailableError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no speech on this machine: {error}")
        return sorted(utterances, key=lambda utterance: utterance.id)

    return read


@pytest.fixture(scope="session")
def italian(prompts):
    """Return the Italian utterances."""
    return prompts("it")


@pytest.fixture(scope="session")
def clip(italian):
    """Return a short clip of which whisper-base is sure, each token at 0.8 or more.

    Of others, one of two words is as probable as the other: processors, int8 and float32, and even two processes on
    one machine, round differently, and hear now this one, now that.
    """
    return next(utterance for utterance in italian if utterance.id.endswith("/conf-userswilljoin"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory, base_source):
    """Return a registry that holds whisper-base, imported by the command line, in production."""
    root = tmp_path_factory.mktemp("registry")
    command = [sys.executable, "-m", "registry", "import", str(base_source), "--name", "whisper"]
    subprocess.run([*command, "--alias", "production", "--registry", str(root)], check=True)
    return Registry(root)


@pytest.fixture(scope="session")
def base(registry):
    """Return the imported version."""
    return registry.resolve("whisper@production")


@pytest.fixture(scope="session")
def address(registry, tmp_path_factory, free_port):
    """Return the address of a running service with whisper-base in production."""
    log = tmp_path_factory.mktemp("service") / "service.log"
    with serving(registry.root, free_port(), log) as (_, where):
        yield where


@pytest.fixture(scope="session")
def free_port():
    """Return a function that finds a free port on the loopback interface."""
    import socket

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find
