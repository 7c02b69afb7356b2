"""Dockerfile, docker-compose.yml and what they name, read without an engine: `tests/containers/run` has one."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
STAGES = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
ENTRYPOINT = ROOT / "docker" / "service-entrypoint"


def test_every_stage_stands_on_the_one_base_image():
    """Whoever replaces one argument has replaced every image that is fetched."""
    names = {"${BASE_IMAGE}"}
    for base, name in STAGES:
        assert base in names
        names.add(name)
    assert len(STAGES) == len(re.findall(r"^FROM ", DOCKERFILE, re.MULTILINE))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_built_from_a_stage_of_ours(name):
    """All but Grafana are, and their images are called after the stage."""
    service = SERVICES[name]
    if name == "grafana":
        assert "build" not in service
        return
    target = service["build"]["target"]
    assert target in {stage for _, stage in STAGES}
    assert service["image"].startswith(f"whisperloop/{target}:")
    assert set(service["build"]["args"]) == {"BASE_IMAGE"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_nothing_but_the_service_starts_by_itself():
    """`up` without a profile is the service on CPUs; GPUs are reserved only by a profile that says so."""
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["service"]
    reserved = [name for name, service in SERVICES.items() if "deploy" in service]
    assert reserved == ["service-gpu", "trainer-gpu"]
    assert all("gpu" in SERVICES[name]["profiles"][0] for name in reserved)


def test_volumes_are_named_and_ports_are_this_machines():
    """What is kept is in a volume that is declared; nothing listens to others unless it is told to."""
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            source = re.sub(r"^\$\{\w+", "", source).strip(":-}") if source.startswith("$") else source
            default = re.match(r"\$\{\w+:-([^}]+)\}", volume)
            source = default[1] if default else source
            assert source.startswith("./docker/") or source in COMPOSE["volumes"]
        for port in service.get("ports", []):
            assert re.match(r"\$\{\w+:-127\.0\.0\.1:\d+\}:\d+$", port)


def test_every_variable_is_a_setting():
    """A WHISPERLOOP_ variable of the images or the composition has an effect."""
    known = {f"WHISPERLOOP_{name.upper()}" for name in Settings.model_fields}
    known |= {"WHISPERLOOP_ADDRESS", "WHISPERLOOP_RETRAIN_WEBHOOK"}  # Compose's own; the trainer's
    named = set(re.findall(r"WHISPERLOOP_[A-Z_]+[A-Z]", DOCKERFILE + COMPOSE_TEXT))
    assert named <= known


def test_what_the_console_tells_to_set_can_be_set():
    """Each variable that a page of the console names is handed on, and so are the console's own switch and file."""
    named = set()
    for path in (ROOT / "service" / "console").glob("*.py"):
        named |= set(re.findall(r"WHISPERLOOP_[A-Z_]+[A-Z]", path.read_text()))
    assert named | {"WHISPERLOOP_CONSOLE", "WHISPERLOOP_CONSOLE_VOTES"} <= set(SERVICES["service"]["environment"])


def test_what_is_not_set_is_as_without_containers(monkeypatch):
    """The composition's defaults are the program's: an empty variable is one that is not set."""
    for name, value in SERVICES["service"]["environment"].items():
        if name.startswith("WHISPERLOOP_"):
            default = re.fullmatch(r"\$\{" + name + r":-(.*)\}", value)[1]
            monkeypatch.setenv(name, default)
    handed_on = Settings()
    for name in SERVICES["service"]["environment"]:
        monkeypatch.delenv(name, raising=False)
    assert handed_on == Settings()


def test_every_variable_is_explained():
    """docs/deploying.md names what the composition takes from the environment."""
    page = (ROOT / "docs" / "deploying.md").read_text()
    for name in set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT)) - {"GRAFANA_VERSION"}:
        assert f"`{name}`" in page


def test_no_image_runs_as_root():
    """Each stage that is run ends as user 10001, and no final stage is one that builds."""
    final = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    bodies = dict(re.findall(r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
    parents = {name: base for base, name in STAGES}
    for name in final:
        chain, stage = [], name
        while stage in bodies:
            chain.append(stage)
            stage = parents[stage]
        users = [user for stage in reversed(chain) for user in re.findall(r"^USER (\S+)$", bodies[stage], re.MULTILINE)]
        assert users[-1] == "10001:10001"
        assert "build" not in chain


def test_what_is_pinned_has_no_address():
    """requirements.txt is names and versions: where they come from is each machine's affair."""
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[\w.+!-]+( ; .+)?", line)


def test_the_engine_is_sent_no_more_than_it_needs():
    """The context begins with nothing; every line that lets something in names what is there."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    assert {name for name in allowed if not (ROOT / name).exists()} == set()
    copied = set(
        re.findall(
            r"[\w.]+\.(?:toml|txt|md)|LICENSE|docker", " ".join(re.findall(r"^COPY (.*)", DOCKERFILE, re.MULTILINE))
        )
    )
    assert copied <= allowed


@pytest.fixture
def start(tmp_path):
    """Return a function that runs the entrypoint with a `python` that only says how it was called."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)

    def run(*arguments, **environment):
        environment = {
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "WHISPERLOOP_REGISTRY": str(tmp_path),
            **environment,
        }
        result = subprocess.run(
            ["sh", ENTRYPOINT, *arguments], env=environment, check=True, capture_output=True, text=True
        )
        return [line for line in result.stdout.splitlines() if line.startswith("-m")]

    return run


def test_an_empty_registry_is_given_a_base(start):
    """The first start imports the default base under the alias that is served, and then serves."""
    assert start() == [
        "-m registry import hub:openai/whisper-small --name whisper --alias production",
        "-m service",
    ]
    assert start(BASE_MODEL="/models/mine", WHISPERLOOP_MODEL="calls@production")[0] == (
        "-m registry import /models/mine --name calls --alias production"
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"BASE_MODEL": ""},
        {"WHISPERLOOP_MODEL": "hub:org/name@production"},
        {"WHISPERLOOP_MODEL": "whisper@20261126T175514Z-6d25b670"},
    ],
)
def test_nothing_is_imported_where_none_is_wanted(start, environment):
    """Without a base, with a model that the service imports itself, with an id, it only serves."""
    assert start(**environment) == ["-m service"]


def test_what_is_there_is_left_alone(start, tmp_path):
    """An alias that exists is never moved by a start, whatever it names."""
    alias = tmp_path / "models" / "whisper" / "aliases" / "production.json"
    alias.parent.mkdir(parents=True)
    alias.write_text("{}")
    assert start() == ["-m service"]


def test_other_commands_import_nothing(start):
    """`docker run … keys add` is a command of the service, and no start of it."""
    assert start("keys", "add", "app") == ["-m service keys add app"]
    assert start("--port", "9000")[1] == "-m service --port 9000"


def test_a_failed_import_serves_nothing(start, tmp_path):
    """The container ends, so that it starts again, and is not healthy without a model."""
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(subprocess.CalledProcessError):
        start()
