"""WHISPERLOOP_MODEL=hub:org/name@revision: imported at the start, served, or a clear word why not."""

import time

import pytest
from fastapi.testclient import TestClient
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from registry import Registry, RegistryError, push_version
from service.app import create_app
from service.lookup import find_version, reason
from service.settings import Settings

# The warning is the Hub's client's.
pytestmark = [pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"), pytest.mark.usefixtures("hub")]

REPO = "org/tiny"


@pytest.fixture
def version(tiny, tmp_path):
    """A version that was pushed from somewhere, as production."""
    source = Registry(tmp_path / "home").publish("tiny", tiny.checkpoint, context={"elastic": True, "margin": 32})
    push_version(source, REPO, aliases=["production"])
    return source


def settings(tmp_path, model=f"hub:{REPO}@production"):
    """Name a model on the Hub, and an empty registry."""
    return Settings(
        model=model, registry=tmp_path / "registry", cache=tmp_path / "cache", database="", device="cpu", threads=1
    )


def answers(client, path, status):
    """Wait until a path answers with a status; return the answer."""
    for _ in range(600):
        response = client.get(path)
        if response.status_code == status:
            return response.json()
        time.sleep(0.05)
    raise AssertionError(response.text)


def test_it_is_imported_and_served(version, tmp_path):
    """On an empty registry the service becomes ready, and names the version that was pushed, to the manifest."""
    with TestClient(create_app(settings(tmp_path))) as client:
        answers(client, "/health/ready", 200)
        about = client.get("/version").json()["model"]
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert (about["ref"], about["manifest_sha256"]) == (version.ref, version.manifest_sha256())
    assert about["context"] == {"elastic": True, "margin": 32}
    assert {f"hub:{REPO}", f"hub:{REPO}@production", version.ref, "whisper-1"} <= set(names)


def test_a_second_start_fetches_no_weights(hub, version, tmp_path):
    """What was imported at one start is served at the next without another download."""
    first = find_version(settings(tmp_path))
    hub.requests.clear()
    assert find_version(settings(tmp_path)) == first
    assert first.ref == version.ref
    assert hub.count("GET", "safetensors") == 0


@pytest.mark.parametrize("model", [f"hub:{REPO}@nonsense", "hub:org/nothing", "hub:nonsense"])
def test_what_is_not_there_is_said(version, tmp_path, model):
    """A wrong revision, repository or name leaves the service live, not ready, with a reason that names it."""
    with TestClient(create_app(settings(tmp_path, model))) as client:
        for _ in range(600):
            said = client.get("/health/ready").text
            if "start again" in said:
                break
            time.sleep(0.05)
        assert client.get("/health/live").status_code == 200
    assert model in said
    assert "start again" in said
    assert "make demo" not in said
    assert version.id not in said


def test_without_the_hub_it_is_said(hub, version, tmp_path, monkeypatch):
    """A Hub that cannot be reached, with nothing on this machine, is a clear word; with the cache, it is no matter."""
    assert find_version(settings(tmp_path)).ref == version.ref
    hub.close()
    close_session()  # with it, the connection that is still open
    assert find_version(settings(tmp_path)).ref == version.ref
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(RegistryError, match="the Hub cannot be reached") as caught:
        find_version(settings(tmp_path))
    assert "start again" in reason(settings(tmp_path), caught.value)
