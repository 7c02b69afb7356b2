"""`python -m training space`: the files of a Space, and the command that writes and pushes them."""

import ast
import json

import pytest
import yaml
from typer.testing import CliRunner

from registry import Registry
from training.__main__ import app
from training.space.files import APP, PACKAGES, write_space

MODEL, SPACE = "org/calls", "org/calls-demo"


@pytest.fixture
def version(tmp_path):
    """A version that learned Italian and Russian, by its data.json."""
    source = tmp_path / "version"
    source.mkdir()
    (source / "config.json").write_text("{}")
    data = {"sources": {"folder:calls": {"languages": ["ru"]}, "folder:talks": {"languages": ["it"]}}}
    (source / "data.json").write_text(json.dumps(data))
    return Registry(tmp_path / "registry").publish("whisper", source, context={"elastic": False, "margin": 0})


def test_a_space_names_its_model_and_languages(version, tmp_path):
    """Four files: the application as it is, what it needs pinned without addresses, a card that the Hub reads."""
    folder = tmp_path / "space"
    assert write_space(version, MODEL, folder) == ["README.md", "app.py", "requirements.txt", "space.json"]
    about = json.loads((folder / "space.json").read_text())
    assert (about["model"], about["revision"]) == (MODEL, version.id)
    assert about["languages"] == {"it": "Italian", "ru": "Russian"}
    assert (folder / "app.py").read_bytes() == APP.read_bytes()
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines] == list(PACKAGES)
    assert all(line.partition("==")[2] and "+" not in line and "/" not in line for line in lines)
    header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (header["sdk"], header["app_file"], header["models"]) == ("gradio", "app.py", [MODEL])
    assert header["sdk_version"][0].isdigit()


def test_a_version_of_unknown_languages_offers_all(tmp_path):
    """An imported version says nothing of languages: the page offers Whisper's."""
    source = tmp_path / "imported"
    source.mkdir()
    (source / "config.json").write_text("{}")
    imported = Registry(tmp_path / "registry").publish("base", source, context={"elastic": False, "margin": 0})
    write_space(imported, MODEL, tmp_path / "space", title="Base")
    about = json.loads((tmp_path / "space" / "space.json").read_text())
    assert about["title"] == "Base"
    assert {"en", "it", "ru", "zh"} <= about["languages"].keys()


def test_the_application_stands_alone():
    """It imports nothing of this project, which a Space has not."""
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(APP.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert {name.partition(".")[0] for name in imported} <= {
        *("json", "pathlib", "typing", "gradio", "numpy", "torch", "transformers")
    }


def test_a_space_of_a_version_that_is_not_there_is_not_pushed(hub, version, tmp_path):
    """The Space could not load it: one line that says what to push first; with the version there, it is pushed."""
    registry = str(tmp_path / "registry")
    arguments = ["space", version.ref, "--model", MODEL, "--into", str(tmp_path / "space"), "--registry", registry]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert hub.requests == []  # nothing was asked for
    repo = hub.new_repo(MODEL, private=True)
    refused = CliRunner().invoke(app, [*arguments, "--push", SPACE])
    assert f"push it first: python -m training push {version.ref} --repo {MODEL}" in str(refused.exception)
    assert f"spaces/{SPACE}" not in hub.repos
    repo.tags[version.id] = repo.find("main")
    pushed = CliRunner().invoke(app, [*arguments, "--push", SPACE])
    assert pushed.exit_code == 0, pushed.output
    assert f"Space {SPACE} is there: commit" in pushed.output
    there = hub.repos[f"spaces/{SPACE}"]
    assert there.private
    assert {"app.py", "space.json", "README.md", "requirements.txt"} <= there.commits[there.find("main")].keys()
