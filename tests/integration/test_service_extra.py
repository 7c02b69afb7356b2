"""What a CPU host installs: the `service` extra alone."""

import os
import subprocess
import venv
from pathlib import Path

import httpx
import pytest

from training.demo import wait_until_ready

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the interpreter of an environment in which only `whisperloop[service]` is installed, pinned."""
    folder = tmp_path_factory.mktemp("service-extra")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    command = [str(interpreter), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "requirements.txt")]
    subprocess.run([*command, f"{ROOT}[service]"], check=True)
    return interpreter


def test_the_service_extra_transcribes_without_torch(python, registry, free_port, italian, tmp_path):
    """The extra brings neither torch nor transformers, and a service started from it transcribes."""
    listed = subprocess.run([str(python), "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    installed = {line.split()[0] for line in listed.lower().splitlines()}
    assert installed.isdisjoint({"torch", "transformers", "datasets", "jiwer"})
    port = free_port()
    environment = {**os.environ, "WHISPERLOOP_REGISTRY": str(registry.root)}
    command = [str(python), "-m", "service", "--port", str(port)]
    with (tmp_path / "service.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(process, address, tmp_path / "service.log")
            content = Path(italian[0].audio.path).read_bytes()
            answer = httpx.post(f"{address}/transcribe", files={"file": content}, timeout=120)
        finally:
            process.terminate()
            process.wait(timeout=60)
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["text"]
