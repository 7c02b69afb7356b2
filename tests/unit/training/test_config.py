"""The config of a training run."""

from pathlib import Path

import pytest

import training
from training.config import ConfigError, make_config, read_config
from training.data.sources.config import FolderSource

SHIPPED = sorted((Path(training.__file__).parent / "configs").glob("*.toml"))
SOURCE = {"kind": "folder", "path": "speech", "language": "it"}


def test_there_are_shipped_recipes():
    """The package ships recipes to start from."""
    assert {path.name for path in SHIPPED} >= {"demo.toml", "small.toml"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(path):
    """Every shipped recipe loads."""
    assert read_config(path).sources


def test_the_default_base_is_whisper_small():
    """Whoever names no base gets openai's whisper-small."""
    assert make_config("x", {"sources": [SOURCE]}).base == "hub:openai/whisper-small"


def test_a_folder_is_relative_to_its_file(tmp_path):
    """A recipe and its folder can be moved together."""
    path = tmp_path / "mine.toml"
    path.write_text('[[sources]]\nkind = "folder"\npath = "speech"\n')
    (source,) = read_config(path).sources
    assert isinstance(source, FolderSource)
    assert source.path == tmp_path / "speech"


def test_an_override_replaces_a_field(tmp_path):
    """What the command line names goes before the file, and what it does not name leaves it alone."""
    path = tmp_path / "mine.toml"
    path.write_text('name = "a"\nmax_steps = 70\n[[sources]]\nkind = "folder"\npath = "speech"\n')
    config = read_config(path, name="b", max_steps=None)
    assert (config.name, config.max_steps) == ("b", 70)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"lerning_rate": 1e-5}, "lerning_rate"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"full_context_share": 1.5}, "full_context_share"),
        ({"sources": []}, "sources"),
        ({"sources": [{"kind": "url", "path": "x"}]}, "sources"),
        ({"train_margins_s": []}, "train_margins_s"),
        ({"train_margins_s": [0.5], "serving_margin_s": 1.0}, "serving_margin_s"),
        ({"warmup_steps": 100, "max_steps": 100}, "warmup_steps"),
    ],
)
def test_a_wrong_field_is_named(content, field):
    """Unknown fields, impossible values and contradictions are refused with the field's name."""
    with pytest.raises(ConfigError, match=field):
        make_config("mine.toml", {"sources": [SOURCE], **content})


def test_what_is_not_toml_is_named(tmp_path):
    """A file that cannot be read is named in the error."""
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        read_config(path)
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        read_config(tmp_path / "missing.toml")


@pytest.mark.parametrize(("max_steps", "warmup"), [(1, 0), (10, 1), (200, 20), (5000, 50)])
def test_the_warm_up_fits_the_run(max_steps, warmup):
    """Whoever says nothing of the warm-up gets a tenth of the steps, and 50 at most."""
    assert make_config("x", {"sources": [SOURCE], "max_steps": max_steps}).warmup == warmup


def test_margins_are_positions():
    """Seconds in the file are encoder positions of 20 ms in the code."""
    config = make_config("x", {"sources": [SOURCE], "train_margins_s": [0.2, 1.0, 30], "serving_margin_s": 1.3})
    assert config.train_margins == (10, 50, 1500)
    assert config.serving_margin == 65
