"""What a run is known by, and what it takes from before: what changes its result makes another run of it."""

import json
import wave
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from training.config import ConfigError, make_config
from training.evaluate import Hypothesis, write_hypotheses
from training.lint.report import LintError
from training.measure import DECODING
from training.prepare import Data, prepare
from training.publish import TEST_HYPOTHESES
from training.run import _heard, _lint, logs_of, run_key

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


@pytest.fixture
def faulty(tokenizer, tmp_path):
    """Return data with speakers in train and held out, and a row without a file."""
    rows = ["file_name,text,speaker,split"]
    for n in range(60):
        name = f"{n}.wav"
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(n).integers(-9000, 9000, 16_000).astype("<i2").tobytes())
        rows.append(f"{name},frase numero {n},s{n % 3},{('train', 'train', 'train', 'dev', 'test')[n % 5]}")
    (tmp_path / "metadata.csv").write_text("\n".join([*rows, "gone.wav,non trovata,s0,train"]) + "\n")
    source = {"kind": "folder", "path": tmp_path, "language": "it"}
    return prepare(make_config("x", {"sources": [source]}), tokenizer, tmp_path / "cache")


def check(data, tokenizer, folder, accept=(), unattended=False):
    """Lint as a run does; return what it said and what it went over."""
    said, gone_over = [], []

    def progress(what, total):
        gone_over.append((what, total))
        return nullcontext(lambda _count: None)

    try:
        _lint(data, tokenizer, accept, unattended, 1, folder, said.append, progress)
    except LintError as error:
        said.append(error)
    return said, gone_over


def test_faulty_data_are_refused_before_anything_is_trained(faulty, tokenizer, tmp_path):
    """The errors are told with what to do, and so is how to go on in spite of them; that is told at each start."""
    said, _ = check(faulty, tokenizer, tmp_path / "run")
    assert said[0].startswith("error speaker_across_splits: it: ")
    assert "To do: give splits that no speaker crosses" in said[0]
    assert isinstance(said[-1], LintError)
    assert str(said[-1]).startswith("1 errors in the data (speaker_across_splits): python -m training lint shows them")
    told, gone_over = check(faulty, tokenizer, tmp_path / "run", accept=["speaker_across_splits"])
    assert told[0].startswith("warning speaker_across_splits (accepted): it: ")
    assert gone_over == [("reading the audio", 60)]
    assert check(faulty, tokenizer, tmp_path / "run") == (told, [])  # a run that goes on does not read it all again
    (tmp_path / "run" / "lint.json").write_text('{"of": "an older release"}')
    assert isinstance(check(faulty, tokenizer, tmp_path / "run")[0][-1], LintError)
    (tmp_path / "run" / "published.json").write_text("{}")
    assert check(faulty, tokenizer, tmp_path / "run") == ([], [])  # what is done is not refused afterwards


def test_nobody_reads_at_night_what_was_left_out(faulty, tokenizer, tmp_path):
    """A row without a file is left out and told by `run`, and stops `retrain`, also where a run passed before."""
    accept = ["speaker_across_splits"]
    assert not any("missing_file" in line for line in check(faulty, tokenizer, tmp_path, accept)[0])
    said, _ = check(faulty, tokenizer, tmp_path, accept, unattended=True)
    assert "(missing_file)" in str(said[-1])
    said, gone_over = check(faulty, tokenizer, tmp_path, [*accept, "missing_file"], unattended=True)
    assert gone_over == []
    assert not any(isinstance(line, LintError) for line in said)


def test_a_versions_curves_are_found_by_its_run(tmp_path):
    """Of the run that published it; a version that was imported has none."""
    for name, ref in (("calls-1", "calls@a"), ("calls-2", "calls@b")):
        (tmp_path / "training" / name).mkdir(parents=True)
        (tmp_path / "training" / name / "published.json").write_text(json.dumps({"ref": ref}))
    found = logs_of(SimpleNamespace(name="calls", ref="calls@b"), tmp_path)
    assert found == tmp_path / "training" / "calls-2" / "logs"
    assert logs_of(SimpleNamespace(name="calls", ref="calls@c"), tmp_path) is None
