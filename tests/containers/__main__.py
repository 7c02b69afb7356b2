"""Build and run the containers on a real engine: `tests/containers/run`.

Starts from nothing: an engine of its own, a base image made here, the images built, `up`, `curl`. Each step says what
it promises; a table tells which held. As root, on Debian. `--engine` takes an engine that is there, and its cache.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from tests.containers.engine import PROFILES, ROOT, SUITE, Engine, EngineError, install_packages, new_engine

CLIP = ROOT / "tests" / "conformance" / "clips" / "it-agent-newlocation.wav"
WORD = "interno"  # is said in it
CLIENTS = 4
RECIPE = """\
name = "noisy"
base = "noisy@production"
learning_rate = 5e-5
warmup_steps = 3
max_steps = 24
batch_size = 4
full_context_share = 0.0
[[sources]]
kind = "folder"
path = "."
language = "it"
"""


class Steps:
    """Runs steps, and remembers what became of each."""

    def __init__(self, only):
        self.only, self.rows = only, []

    def __call__(self, step, *arguments):
        """Run a step, unless only others are asked for; one that fails leaves the next ones to be run."""
        name = step.__name__.replace("_", " ")
        if self.only and not any(wanted in name for wanted in self.only):
            return
        print(f"--- {name}", flush=True)
        started = time.monotonic()
        try:
            result = step(*arguments)
            self.rows.append(("pass", name, time.monotonic() - started, result or ""))
        except (EngineError, AssertionError, httpx.HTTPError, OSError, subprocess.CalledProcessError) as error:
            self.rows.append(("FAIL", name, time.monotonic() - started, f"{type(error).__name__}: {error}"))
        print(f"    {self.rows[-1][0]} in {self.rows[-1][2]:.0f} s: {self.rows[-1][3]}", flush=True)
        return

    def table(self):
        """Return what became of the steps, as Markdown."""
        lines = ["| | step | seconds | |", "|---|---|--:|---|"]
        lines += [
            f"| {sign} | {name} | {s:.0f} | {what.splitlines()[0] if what else ''} |"
            for sign, name, s, what in self.rows
        ]
        return "\n".join(lines)


class Run:
    """The steps, in their order; each one's docstring is its promise."""

    def __init__(self, engine, base, folder):
        self.engine, self.base, self.folder = engine, base, folder
        self.address = "http://" + engine.settings["WHISPERLOOP_ADDRESS"]

    def build(self, target):
        """The target is built from the one base image; it has no pip and no compiler, and its user is not root."""
        started = time.monotonic()
        size = self.engine.build(target, self.base)
        seconds = time.monotonic() - started
        found = self.shell(target, "id -u; which pip pip3 gcc cc make ld || true")
        assert found.split() == ["10001"], found
        return f"{size / 1e6:.0f} MB in {seconds:.0f} s"

    def shell(self, target, script):
        """Run a shell's script in an image."""
        return self.engine.docker(
            "run", "--rm", "--entrypoint", "sh", f"whisperloop/{target}:{self.engine.tag}", "-c", script
        )

    def service_image(self):
        """The service's image is built, without torch and without transformers."""
        told = self.build("service")
        found = self.shell("service", "ls /opt/whisperloop/lib/python3*/site-packages")
        assert {"torch", "transformers", "pip", "setuptools"}.isdisjoint(found.split())
        assert {"ctranslate2", "gradio"} <= set(found.split())
        return told

    def postgres_image(self):
        """PostgreSQL's image is built."""
        return self.build("postgres")

    def prometheus_image(self):
        """Prometheus' image is built, and takes its settings and alerts."""
        told = self.build("prometheus")
        image = f"whisperloop/prometheus:{self.engine.tag}"
        self.engine.docker(
            *("run", "--rm", "--entrypoint", "sh", image, "-c"),
            "touch /run/whisperloop/key && promtool check config /etc/whisperloop/prometheus.yml",
        )
        return told

    def trainer_image(self):
        """The trainer's image is built, and its command line answers."""
        told = self.build("trainer")
        assert "retrain" in self.engine.docker("run", "--rm", f"whisperloop/trainer:{self.engine.tag}", "--help")
        return told

    def service_cuda_image(self):
        """The image for GPUs is built, and its torch is the one with CUDA."""
        told = self.build("service-cuda")
        return (
            told + ", CUDA " + self.shell("service-cuda", "python -c 'import torch; print(torch.version.cuda)'").strip()
        )

    def compose_file(self):
        """Compose takes the file with each profile; GPUs are reserved by the profile, and without it by nobody."""
        default = self.engine.config()["services"]
        running = {name for name, service in default.items() if not service.get("profiles")}
        assert running == {"service"}, running
        assert "deploy" not in default["service"]
        for profile in PROFILES:
            services = self.engine.config(profile)["services"]
            assert any(profile in service.get("profiles", []) for service in services.values()), profile
            for name, service in services.items():
                built = service["image"].startswith("whisperloop/")
                assert built == ("build" in service), f"{name} is neither ours nor upstream's"
                assert built or name == "grafana", name
        for profile, name in (("gpu", "service-gpu"), ("training-gpu", "trainer-gpu")):
            devices = self.engine.config(profile)["services"][name]["deploy"]["resources"]["reservations"]["devices"]
            assert devices[0]["driver"] == "nvidia"
            assert devices[0]["capabilities"] == ["gpu"]
        return f"{len(PROFILES)} profiles, {self.engine.compose('version', '--short').strip()}"

    def up_from_nothing(self):
        """With empty volumes, `up` imports the base, and `curl` gets the words."""
        self.engine.compose("down", "--volumes")
        started = time.monotonic()
        self.engine.compose("up", "--detach", "--no-build", "service")
        self.engine.wait_healthy("service")
        seconds = time.monotonic() - started
        command = ["curl", "--silent", "--fail", "-F", f"file=@{CLIP}", f"{self.address}/transcribe"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert WORD in said, said
        assert self.engine.logs("service").count("importing /models/") == 1
        return f"healthy after {seconds:.1f} s, then a transcript"

    def settings_of_the_container(self):
        """It runs as user 10001 without capabilities, and its volumes are its own."""
        container = self.engine.container("service")
        status = self.engine.docker(
            "exec",
            container,
            "sh",
            "-c",
            "id -u; grep CapEff /proc/self/status; touch /data/registry/x && rm /data/registry/x",
        )
        assert status.split() == ["10001", "CapEff:", "0000000000000000"], status
        memory = self.engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container)
        return f"memory {memory.split('/')[0].strip()}"

    def console(self):
        """At / is the page for people, which nobody waited for."""
        started = time.monotonic()
        wait_until(lambda: "gradio" in httpx.get(self.address, timeout=30).text, 120)
        return f"there after {time.monotonic() - started:.1f} s"

    def restart(self):
        """After `restart`, the version is the same, nothing is imported again, and it answers."""
        version = self.version()
        started = time.monotonic()
        self.engine.compose("restart", "service")
        self.wait_ready()
        seconds = time.monotonic() - started
        assert self.version() == version
        assert self.engine.logs("service").count("importing /models/") == 1
        assert WORD in self.transcribe()
        return f"ready again after {seconds:.1f} s"

    def new_container(self):
        """`down` and `up` make a new container that has the old one's versions."""
        version = self.version()
        self.engine.compose("down")
        self.engine.compose("up", "--detach", "--no-build", "service")
        self.wait_ready()
        assert self.version() == version
        assert "importing" not in self.engine.logs("service")
        return version

    def killed_under_load(self):
        """Killed while it answers, it comes back by itself, and answers whoever asks again."""
        container = self.engine.container("service")
        before = self.engine.inspect(container, ".RestartCount")
        with self.load() as counts:
            wait_until(lambda: counts["answered"] >= CLIENTS)
            killed = time.monotonic()
            os.kill(self.pid(container), signal.SIGKILL)
            answered = counts["answered"]
            self.wait_ready()
            seconds = time.monotonic() - killed
            wait_until(lambda: counts["answered"] >= answered + 2)
        assert self.engine.inspect(container, ".RestartCount") == before + 1
        assert counts["wrong"] == 0
        return (
            f"ready again after {seconds:.1f} s; {counts['answered']} answered, {counts['refused']} tries got no answer"
        )

    def stopped_in_order(self):
        """`stop` lets who was let in be answered, breaks off no connection, and the exit status is 0."""
        container = self.engine.container("service")
        # Not by the published port: whoever comes too late is let in there, by the engine, and then hung up on.
        network = next(iter(self.engine.inspect(container, ".NetworkSettings.Networks").values()))
        with self.load(address=f"http://{network['IPAddress']}:8000") as counts:
            wait_until(lambda: counts["answered"] >= CLIENTS)
            started = time.monotonic()
            self.engine.compose("stop", "service")
            seconds = time.monotonic() - started
        assert self.engine.inspect(container, ".State.ExitCode") == 0
        assert counts["broken"] == 0, counts
        self.engine.compose("start", "service")
        self.wait_ready()
        return f"stopped in {seconds:.1f} s, {counts['answered']} answered, none broken off"

    def prometheus(self):
        """Prometheus finds the service by its name, and has its metrics."""
        self.engine.compose("--profile", "monitoring", "up", "--detach", "--no-build", "prometheus")
        self.engine.wait_healthy("prometheus")
        self.transcribe()
        address = "http://" + self.engine.settings["PROMETHEUS_ADDRESS"]

        def asked(query):
            return httpx.get(f"{address}/api/v1/query", params={"query": query}).json()["data"]["result"]

        wait_until(lambda: asked('whisperloop_requests_total{path="/transcribe"}'), 90)
        assert asked('up{job="whisperloop"}')[0]["value"][1] == "1"
        groups = httpx.get(f"{address}/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert rules, "Prometheus has no alerts"
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        series = asked('{job="whisperloop"}')
        return f"{len(rules)} alerts, {len(series)} series"

    def keys(self):
        """A key is made in a container; then the service wants one, and Prometheus has it."""
        file = {"WHISPERLOOP_KEYS": "/data/service/keys.jsonl"}
        key = self.engine.compose("run", "--rm", "-T", "service", "keys", "add", "prometheus", **file).split()[-1]
        options = ("--profile", "monitoring", "up", "--detach", "--no-build", "service", "prometheus")
        try:
            self.engine.compose(*options, **file)
            self.wait_ready()
            assert httpx.get(f"{self.address}/metrics").status_code == httpx.codes.UNAUTHORIZED
            wait_until(lambda: self.up() == "0", 90)
            self.engine.compose(*options, **file, PROMETHEUS_KEY=key)
            wait_until(lambda: self.up() == "1", 90)
        finally:
            self.engine.compose(*options)
            self.wait_ready()

    def up(self):
        """Return whether Prometheus has the service's metrics: "1", "0" or nothing yet."""
        with contextlib.suppress(httpx.HTTPError, ValueError):  # which is not ready, says so in no JSON
            address = "http://" + self.engine.settings["PROMETHEUS_ADDRESS"]
            found = httpx.get(f"{address}/api/v1/query", params={"query": 'up{job="whisperloop"}'}).json()
            return found["data"]["result"][0]["value"][1] if found["data"]["result"] else None
        return None

    def postgres(self):
        """PostgreSQL asks for a password, makes its database, and keeps what was written over a restart."""
        options = ("--profile", "postgres")
        self.engine.compose(*options, "up", "--detach", "--no-build", "postgres", POSTGRES_PASSWORD="")
        wait_until(lambda: "set POSTGRES_PASSWORD" in self.engine.logs("postgres"))
        self.engine.compose(*options, "up", "--detach", "--no-build", "postgres")
        seconds = self.engine.wait_healthy("postgres")
        self.sql("create table kept (id integer); insert into kept values (7)")
        self.engine.compose(*options, "restart", "postgres")
        self.engine.wait_healthy("postgres")
        wait_until(lambda: self.sql("select id from kept").strip() == "7", 60)
        return f"healthy after {seconds:.1f} s; {self.sql('show server_version').strip()}"

    def corrections_in_postgres(self):
        """What is corrected over HTTP is in PostgreSQL, and is still there when both are new containers."""
        password = self.engine.settings["POSTGRES_PASSWORD"]
        url = {"WHISPERLOOP_CORRECTIONS": f"postgresql://whisperloop:{password}@postgres/whisperloop"}
        self.engine.compose("--profile", "postgres", "up", "--detach", "--no-build", "postgres", "service", **url)
        self.engine.wait_healthy("postgres")
        self.wait_ready()
        said = {"hypothesis": "in terno", "correction": "Interno.", "language": "it", "consent": "true"}
        answer = httpx.post(f"{self.address}/v1/feedback", files={"file": CLIP.read_bytes()}, data=said, timeout=60)
        assert answer.is_success, answer.text
        self.engine.compose("--profile", "postgres", "down")
        self.engine.compose("--profile", "postgres", "up", "--detach", "--no-build", "postgres", "service", **url)
        self.engine.wait_healthy("postgres")
        self.wait_ready()
        rows = httpx.get(f"{self.address}/v1/feedback", timeout=60).json()["data"]
        assert [row["correction"] for row in rows] == ["Interno."], rows
        audio = httpx.get(f"{self.address}/v1/feedback/{rows[0]['id']}/audio", timeout=60)
        assert audio.content.startswith(b"fLaC"), audio.text[:200]
        return f"{rows[0]['seconds']:.1f} s kept"

    def sql(self, statement):
        """Run a statement as a client on the network would: with the password."""
        container = self.engine.container("postgres")
        address = f"postgresql://whisperloop:{self.engine.settings['POSTGRES_PASSWORD']}@127.0.0.1/whisperloop"
        with contextlib.suppress(EngineError):
            return self.engine.docker("exec", container, "psql", "--no-psqlrc", "-At", address, "-c", statement)
        return ""

    def retraining_that_swaps(self):
        """A retraining in the trainer's container promotes; the service changes over, and no request fails."""
        self.noisy_model()
        noisy = {"WHISPERLOOP_MODEL": "noisy@production", "BASE_MODEL": "/models/noisy"}
        self.engine.compose("up", "--detach", "--no-build", "service", **noisy)
        self.wait_ready()
        before = self.version()
        # What trains needs the cores: one client, and no second tries at what so bad a model hears.
        with self.load(word="", clients=1, pause=30, guard="keep") as counts:
            started = time.monotonic()
            profile = ("--profile", "training")
            told = self.engine.compose(
                *profile, "run", "--rm", "-T", "trainer", "retrain", "--config", "/data/speech/recipe.toml"
            )
            (self.folder / "retrain.log").write_text(told)
            seconds = time.monotonic() - started
            wait_until(lambda: self.version() != before, 120)
            answered = counts["answered"]
            wait_until(lambda: counts["answered"] >= answered + 2)
        assert counts["refused"] == counts["broken"] == counts["wrong"] == 0, counts
        self.engine.compose("--profile", "training", "up", "--detach", "--no-build", "trainer")
        wait_until(lambda: "next" in self.engine.logs("trainer"), 60)
        return f"{before} → {self.version()} in {seconds:.0f} s; {counts['answered']} requests meanwhile, none failed"

    def noisy_model(self):
        """Write a base that a few steps make better, and clips to make it better with."""
        from tests.noisy import write_folder, write_noisy
        from training.data.sources.asterisk import fetch, read_asterisk

        models, speech = Path(self.engine.settings["MODELS"]), Path(self.engine.settings["SPEECH"])
        if (models / "noisy").exists():
            return
        registry = self.folder / "registry"
        command = [sys.executable, "-m", "registry", "import", str(models / "base"), "--name", "base"]
        subprocess.run([*command, "--alias", "candidate", "--registry", str(registry)], check=True, capture_output=True)
        from registry import Registry

        write_noisy(Registry(registry).resolve("base@candidate").path, models / "noisy")
        runs = ROOT / "runs" / "data"
        utterances, _ = read_asterisk(fetch(["it"], runs / "asterisk"), "it", runs / "asterisk-audio")
        write_folder(sorted(utterances, key=lambda utterance: utterance.id), speech)
        (speech / "recipe.toml").write_text(RECIPE)
        subprocess.run(["chmod", "-R", "a+rX", str(models), str(speech)], check=True)

    def version(self):
        """Return the version that answers."""
        return httpx.get(f"{self.address}/version").json()["model"]["ref"]

    def transcribe(self, address=None, timeout=120, **fields):
        """Return the text of the clip."""
        address = address or self.address
        answer = httpx.post(f"{address}/transcribe", files={"file": CLIP.read_bytes()}, data=fields, timeout=timeout)
        answer.raise_for_status()
        return answer.json()["text"]

    def wait_ready(self, timeout=300):
        """Wait until the service is ready."""

        def ready():
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.address}/health/ready", timeout=5).status_code == httpx.codes.OK
            return False

        wait_until(ready, timeout)

    def pid(self, container):
        """Return the service's process, as this machine numbers it."""
        for line in self.engine.docker("top", container, "-o", "pid,args").splitlines():
            if "-m service" in line and "tini" not in line and "docker-init" not in line:
                return int(line.split()[0])
        raise EngineError("the container has no service")

    @contextlib.contextmanager
    def load(self, word=WORD, address=None, clients=CLIENTS, pause=0, **fields):
        """Send the clip from several clients, each as soon as it was answered, and count what comes of it."""
        counts = {"answered": 0, "refused": 0, "broken": 0, "wrong": 0}
        stop, lock = threading.Event(), threading.Lock()

        def client():
            while not stop.is_set():
                try:
                    outcome = "answered" if word in self.transcribe(address, **fields) else "wrong"
                except (httpx.ConnectError, httpx.HTTPStatusError):
                    outcome = "refused"
                    stop.wait(0.2)
                except httpx.HTTPError:
                    outcome = "broken"
                with lock:
                    counts[outcome] += 1
                stop.wait(pause)

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield counts
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def wait_until(there, timeout=300):
    """Wait until something is so, and fail if it never is."""
    end = time.monotonic() + timeout
    while not there():
        if time.monotonic() > end:
            raise EngineError(f"did not come within {timeout} s")
        time.sleep(0.25)


def free_address():
    """Return an address of this machine that nothing listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def parser():
    """Return the command line."""
    made = argparse.ArgumentParser(prog="tests/containers/run", description=__doc__)
    made.add_argument("--engine", metavar="ADDRESS", help="an engine that runs (unix:///…); it is not stopped")
    made.add_argument("--base-image", metavar="IMAGE", help="to build on; made with debootstrap if not said")
    made.add_argument("--mirror", default="http://deb.debian.org/debian", help="Debian's packages (%(default)s)")
    made.add_argument("--compose", default="docker-compose", help="'docker compose' for version 2 (%(default)s)")
    made.add_argument("--model", type=Path, help="a CTranslate2 folder to start from; the demonstration's if not said")
    made.add_argument(
        "--folder", type=Path, default=ROOT / "runs" / "containers", help="for logs and images (%(default)s)"
    )
    made.add_argument("--trainer", action="store_true", help="build the trainer, too (7 GB), and retrain with it")
    made.add_argument("--cuda", action="store_true", help="build the service for GPUs, too (7 GB)")
    made.add_argument("--only", action="append", default=[], metavar="WORDS", help="steps whose names contain this")
    return made


def main():
    """Run the steps; exit status 1 if one failed."""
    arguments = parser().parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    install_packages()
    models, speech = folder / "models", folder / "speech"
    for fresh in (models, speech, folder / "registry"):
        shutil.rmtree(fresh, ignore_errors=True)
    speech.mkdir()
    shutil.copytree(arguments.model or demo_base(), models / "base")
    subprocess.run(["chmod", "-R", "a+rX", str(models), str(speech)], check=True)
    settings = {
        "MODELS": str(models),
        "SPEECH": str(speech),
        "BASE_MODEL": "/models/base",
        "POSTGRES_PASSWORD": "of-a-test",
        "WHISPERLOOP_ADDRESS": free_address(),
        "PROMETHEUS_ADDRESS": free_address(),
    }
    started = time.monotonic()
    steps = Steps(arguments.only)
    with contextlib.ExitStack() as stack:
        log = folder / "dockerd.log"
        address = arguments.engine or stack.enter_context(new_engine(folder / "engine", log))
        engine = Engine(address, folder, tag="test", compose=arguments.compose, settings=settings)
        base = arguments.base_image
        if base is None:
            print(f"--- base image: Debian {SUITE}, by debootstrap", flush=True)
            base = engine.make_base(arguments.mirror)
        run = Run(engine, base, folder)
        try:
            steps(run.compose_file)
            steps(run.service_image)
            steps(run.up_from_nothing)
            steps(run.settings_of_the_container)
            steps(run.console)
            steps(run.restart)
            steps(run.new_container)
            steps(run.killed_under_load)
            steps(run.stopped_in_order)
            steps(run.prometheus_image)
            steps(run.prometheus)
            steps(run.keys)
            steps(run.postgres_image)
            steps(run.postgres)
            steps(run.corrections_in_postgres)
            if arguments.trainer:
                steps(run.trainer_image)
                steps(run.retraining_that_swaps)
            if arguments.cuda:
                steps(run.service_cuda_image)
        finally:
            with contextlib.suppress(EngineError):
                profiles = [option for profile in PROFILES for option in ("--profile", profile)]
                engine.compose(*profiles, "down", "--volumes")
    print(f"\n{steps.table()}\n\n{time.monotonic() - started:.0f} s in all")
    sys.exit(any(row[0] == "FAIL" for row in steps.rows))


def demo_base():
    """Return the CTranslate2 folder of whisper-base, as the demonstration downloads it."""
    from training.demo import fetch_base
    from training.shell import Shell

    (ROOT / "runs" / "demo").mkdir(parents=True, exist_ok=True)
    return fetch_base(ROOT / "runs" / "demo", Shell())


if __name__ == "__main__":
    main()
