"""What a run is known by, and what it takes from before: what changes its result makes another run of it."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from training.config import ConfigError, make_config
from training.evaluate import Hypothesis, write_hypotheses
from training.measure import DECODING
from training.prepare import Data
from training.publish import TEST_HYPOTHESES
from training.run import _heard, run_key

RECIPE = {"sources": [{"kind": "folder", "path": "clips"}]}
BASE = SimpleNamespace(ref="tiny@v1", manifest_sha256=lambda: "0" * 64)


def key(**changes):
    """Return the key of a run of a recipe, with some changes."""
    return run_key(make_config("x", RECIPE | changes), BASE, Data([], None, "data"))


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"batch_size": 4}, {"max_steps": 10}, {"augment": {"noise_share": 0.5}}, {"lora": {}}]
)
def test_what_is_learned_otherwise_is_another_run(change):
    """Each setting that changes the weights changes the key."""
    assert key(**change) != key()


@pytest.mark.parametrize("change", [{"save_steps": 7}, {"dataloader_workers": 4}, {"licence": "mit"}])
def test_what_comes_to_the_same_is_the_same_run(change):
    """Failure: a run that is stopped to be saved more often begins anew."""
    assert key(**change) == key()


def test_noise_is_known_by_its_sound(tmp_path):
    """Another recording is another run; where the folder lies, and what else is in it, is none."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "street.wav").write_bytes(b"street")

    def noisy(folder):
        return key(augment={"noise_share": 0.5, "noise_folder": tmp_path / folder})

    before = noisy("here")
    assert before != key(augment={"noise_share": 0.5})
    (tmp_path / "there" / "notes.txt").write_text("recorded in May")
    assert noisy("there") == before
    (tmp_path / "there" / "street.wav").write_bytes(b"rain")
    assert noisy("there") != before


def test_a_folder_without_noise_is_told_at_once(tmp_path):
    """Before the base is measured and anything is trained."""
    with pytest.raises(ConfigError, match=r"augment\.noise_folder: no .*wav.* file is below"):
        key(augment={"noise_share": 0.5, "noise_folder": tmp_path})


@pytest.mark.parametrize(("decoding", "text"), [(DECODING, "before"), ("older", "now"), (None, "now")])
def test_a_finished_run_is_judged_as_it_is_heard_today(tmp_path, monkeypatch, decoding, text):
    """Its version's own hypotheses are taken, unless other code decoded them than decodes what it is compared with."""

    def heard(said):
        return [Hypothesis(id="a", language="it", reference="prima", hypothesis=said)]

    write_hypotheses(tmp_path / TEST_HYPOTHESES, heard("before"))
    test = {"clips": 1} if decoding is None else {"clips": 1, "decoding": decoding}
    (tmp_path / "metrics.json").write_text(json.dumps({"test": test}))
    monkeypatch.setattr("training.run.score", lambda *_: SimpleNamespace(hypotheses=heard("now")))
    assert _heard(SimpleNamespace(path=tmp_path), [], tmp_path, tmp_path, nullcontext) == heard(text)
