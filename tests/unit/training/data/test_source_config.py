"""The promises of the sources' settings."""

import ast
import inspect

import pytest
from pydantic import ValidationError

from training.config import ConfigError, make_config, read_config
from training.data.sources import config as settings
from training.data.sources.config import AnySource, CommonVoiceSource, HubSource, NemoSource, SubtitlesSource

TOKEN = "hf_" + "aB3" * 11
HUB = {"kind": "hub", "dataset": "google/fleurs", "revision": "a" * 40, "language": "it"}


def test_a_source_is_told_by_its_kind():
    """Each kind has its own settings, and the field of one is unknown to another."""
    sources = [
        HUB,
        {"kind": "common_voice", "path": "cv.tar.gz", "splits": "validated"},
        {"kind": "nemo", "path": "train.json", "weight": 0.5},
        {"kind": "kaldi", "path": "data/train", "use": "train"},
        {"kind": "subtitles", "path": "talks", "keep_silence": True},
        {"kind": "folder", "path": "speech"},
        {"kind": "asterisk", "languages": ["it"]},
    ]
    read = make_config("x", {"sources": sources}).sources
    assert [source.kind for source in read] == [source["kind"] for source in sources]
    with pytest.raises(ConfigError, match=r"sources\.0\.folder\.languages"):
        make_config("x", {"sources": [{"kind": "folder", "path": "speech", "languages": ["it"]}]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "folder"}, "either dataset"),
        ({"dataset": None}, "either dataset"),
        ({"revision": None}, "revision must be the commit"),
        ({"revision": "main"}, "revision must be the commit"),
        ({"dataset": None, "path": "folder"}, "revision is of a dataset on the Hub"),
        ({"language": None}, "either language"),
        ({"language_column": "lang"}, "either language"),
        ({"streaming": True}, "streaming needs a bound"),
        ({"streaming": True, "max_hours": 1, "split": "train[:10%]"}, "whole splits"),
        ({"use": "train"}, "name that split"),
        ({"weight": 0}, "weight"),
        ({"max_hours": 0}, "max_hours"),
    ],
)
def test_contradictions_of_a_hub_source_are_refused(change, message):
    """What cannot be meant is refused, with what to do."""
    with pytest.raises(ValidationError, match=message):
        HubSource.model_validate(HUB | change)


@pytest.mark.parametrize("name", ["token", "hf_token", "HF-TOKEN", "api_key", "apikey", "password", "use_auth_token"])
@pytest.mark.parametrize("place", ["top", "source"])
def test_a_token_in_a_config_is_refused_and_not_shown(tmp_path, name, place):
    """Failure: a token in a file that is committed, copied and published. The error does not show it, either."""
    line = f'"{name}" = "{TOKEN}"\n'
    path = tmp_path / "mine.toml"
    top, source = (line, "") if place == "top" else ("", line)
    path.write_text(f'{top}[[sources]]\nkind = "folder"\npath = "speech"\n{source}')
    with pytest.raises(ConfigError, match=f"{name} looks like a secret.*HF_TOKEN.*hf auth login") as caught:
        read_config(path)
    assert TOKEN not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": TOKEN},
        {"split": f"train {TOKEN}"},
        {"dataset": "https://me:secret@huggingface.co/datasets/a/b"},
    ],
)
def test_a_token_by_another_name_is_refused_too(change):
    """A value that has a token's form is one, wherever it stands; an address with a password in it is no better."""
    with pytest.raises(ConfigError, match="looks like a secret") as caught:
        make_config("x", {"sources": [HUB | change]})
    assert not any(str(value) in repr(caught.value) for value in change.values())


def test_no_setting_is_taken_for_a_secret():
    """None of the fields that exist is refused by its name."""
    names = {name for model in AnySource.__subclasses__() for name in model.model_fields}
    assert len(names) > 20
    assert not [name for name in names if settings.SECRET_NAME.search(name)]


def test_paths_are_relative_to_the_config(tmp_path):
    """A recipe and its data can be moved together, whatever kind of path it is."""
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[sources]]\nkind = "nemo"\npath = "train.json"\nroot = "audio"\n'
        '[[sources]]\nkind = "common_voice"\npath = "cv.tar.gz"\n'
        '[[sources]]\nkind = "subtitles"\npath = "/talks"\n'
    )
    nemo, voices, talks = read_config(path).sources
    assert isinstance(nemo, NemoSource)
    assert (nemo.path, nemo.root) == (tmp_path / "train.json", tmp_path / "audio")
    assert isinstance(voices, CommonVoiceSource)
    assert voices.path == tmp_path / "cv.tar.gz"
    assert isinstance(talks, SubtitlesSource)
    assert str(talks.path) == "/talks"


def test_every_setting_is_explained():
    """Below each field stands what it means."""
    tree = ast.parse(inspect.getsource(settings))
    silent = {"kind", "model_config"}
    unexplained = [
        f"{model.name}.{field.target.id}"
        for model in tree.body
        if isinstance(model, ast.ClassDef)
        for field, after in zip(model.body, [*model.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id not in silent
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]
    assert unexplained == []
