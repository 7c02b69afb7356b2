"""The config of a training run."""

import ast
import importlib
import re
import tomllib
from pathlib import Path
from string import Formatter

import pytest

import training
from training.config import ConfigError, make_config, read_config
from training.data.sources.config import FolderSource
from training.loop_demo import RECIPE

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((Path(training.__file__).parent / "configs").glob("*.toml"))
MEASURED = sorted((ROOT / "benchmarks" / "recipe").glob("*.toml"))
SOURCE = {"kind": "folder", "path": "speech", "language": "it"}
SHOWN = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{i}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for i, block in enumerate(re.findall(r"^```toml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))
]


def test_there_are_shipped_recipes():
    """The package ships recipes to start from."""
    assert {path.stem for path in SHIPPED} == {"demo", "small", "lora-8gb", "multi-gpu"}


@pytest.mark.parametrize("path", [*SHIPPED, *MEASURED], ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(path):
    """Every shipped recipe loads, and so do those that the measurements name."""
    assert read_config(path).sources


@pytest.mark.parametrize("block", SHOWN)
def test_what_a_page_shows_is_a_recipe(block):
    """It can be copied: it is valid, and nothing in it is unknown; a few fields that stand alone lack a source only."""
    assert make_config("page", {"sources": [SOURCE], **tomllib.loads(block)}).sources


def test_pages_of_training_show_recipes():
    """The two that teach how to write one have several: if they were not found, nothing would be looked at."""
    counted = [str(one.id).rpartition("-")[0] for one in SHOWN]
    assert counted.count("docs/training/own-data.md") >= 3
    assert counted.count("docs/training/data.md") >= 8


def test_the_demonstration_of_the_loop_learns_by_a_recipe():
    """Whatever is put into it; else, it would be refused when all of its clips are corrected."""
    fields = {name: name for _, name, _, _ in Formatter().parse(RECIPE) if name}
    config = make_config("loop.toml", tomllib.loads(RECIPE.format(**fields)))
    assert [source.kind for source in config.sources] == ["corrections", "folder"]


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


EVALUATED_TWICE = {"max_steps": 100, "eval_steps": 50}


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        ({"replay_share": 0.2}, ["replay_share", "replay names no source"]),
        ({"replay": [SOURCE], "replay_share": 0.0}, ["replay names sources", "replay_share"]),
        ({"replay": [SOURCE], "replay_share": 0.6, "no_speech_share": 0.4}, ["replay_share", "no_speech_share"]),
        ({**EVALUATED_TWICE, "early_stopping_patience": 2}, ["early_stopping_patience", "max_steps", "eval_steps"]),
        ({"early_stopping_min_delta": 0.01}, ["early_stopping_min_delta", "early_stopping_patience"]),
        ({"early_stopping_patience": 2, "select": "last"}, ["early_stopping_patience", "select"]),
        ({**EVALUATED_TWICE, "average_checkpoints": 3}, ["average_checkpoints", "max_steps", "eval_steps"]),
        ({"alphas": []}, ["alphas"]),
        ({"augment": {"noise_folder": "noise"}}, ["noise_folder", "noise_share", "no_speech_share"]),
        ({"augment": {"noise_snr_db": [20, 10]}}, ["noise_snr_db", "20", "10"]),
        ({"lora": {"layers": []}}, ["lora.layers"]),
        ({"lora": {"layers": ["proj_out"]}}, ["lora.layers"]),
    ],
)
def test_a_contradiction_names_both_fields(content, fields):
    """What cannot be meant together is refused, and the message names all fields that are concerned."""
    with pytest.raises(ConfigError) as error:
        make_config("mine.toml", {"sources": [SOURCE], **content})
    assert all(field in str(error.value) for field in fields), error.value


def test_what_is_said_twice_is_no_contradiction():
    """A config that was written out, with all its defaults, is read back as itself."""
    config = make_config("x", {"sources": [SOURCE], "replay": [SOURCE], "guards": [SOURCE], "lora": {}})
    assert make_config("x", config.model_dump(mode="json")) == config


@pytest.mark.parametrize("module", ["training.config", "training.data.sources.config", "training.rules"])
def test_every_field_is_documented(module):
    """Whoever opens the config finds a sentence below every field."""
    tree = ast.parse(Path(importlib.import_module(module).__file__).read_text(encoding="utf-8"))
    undocumented = [
        f"{section.name}.{field.target.id}"
        for section in ast.walk(tree)
        if isinstance(section, ast.ClassDef)
        for field, following in zip(section.body, [*section.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign) and not _is_text(following) and field.target.id != "kind"
    ]
    assert undocumented == []


def _is_text(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_guards_bring_alphas_and_replay_brings_its_share():
    """Whoever names guards gets the sweep, whoever names replay its usual share; nobody else gets either."""
    plain = make_config("x", {"sources": [SOURCE]})
    assert (plain.alphas_to_try, plain.share_of_replay) == ((1.0,), 0.0)
    careful = make_config("x", {"sources": [SOURCE], "replay": [SOURCE], "guards": [SOURCE]})
    assert (careful.alphas_to_try, careful.share_of_replay) == ((0.3, 0.5, 0.7, 0.85, 1.0), 0.3)


def test_every_folder_is_relative_to_its_file(tmp_path):
    """Replay, guards and noise move with the recipe as its sources do."""
    path = tmp_path / "mine.toml"
    tables = [f'[[{name}]]\nkind = "folder"\npath = "{name}"\n' for name in ("sources", "replay", "guards")]
    path.write_text("".join(tables) + '[augment]\nnoise_share = 0.1\nnoise_folder = "noise"\n')
    config = read_config(path)
    assert config.replay[0].path == tmp_path / "replay"
    assert config.guards[0].path == tmp_path / "guards"
    assert config.augment.noise_folder == tmp_path / "noise"


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
