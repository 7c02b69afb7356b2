"""Between base and fine-tuned: the weights, and which of them are taken."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from training.evaluate import Hypothesis
from training.finetune import FineTuned, fine_tune
from training.interpolate import Choice, Trial, _trial, choose, choose_alpha, interpolate


def trial(alpha, dev, **guards):
    """Return how an alpha did."""
    return Trial(alpha=alpha, dev_wer=dev, dev_cer=0.0, guards=guards)


@pytest.mark.parametrize(
    ("trials", "alpha", "held"),
    [
        # The sweep that docs/experiments.md started from: gain on it, harm on en.
        ([trial(0.3, 0.146, en=0.059), trial(0.5, 0.122, en=0.057), trial(1.0, 0.110, en=0.087)], 0.5, True),
        ([trial(0.3, 0.20, en=0.05), trial(0.5, 0.15, en=0.05), trial(1.0, 0.10, en=0.05)], 1.0, True),
        ([trial(0.3, 0.20, en=0.061), trial(1.0, 0.10, en=0.0611)], 0.3, True),  # the margin itself is allowed
        ([trial(0.3, 0.20, en=0.08), trial(0.5, 0.15, en=0.07), trial(1.0, 0.10, en=0.09)], 0.5, False),
        (
            [trial(0.5, 0.15, en=0.05, es=0.25), trial(1.0, 0.10, en=0.05, es=0.35)],
            0.5,
            True,
        ),  # each language for itself
        ([trial(0.5, 0.10, en=0.05), trial(1.0, 0.10, en=0.05)], 0.5, True),  # of equals, the nearer to the base
        ([trial(0.5, 0.12), trial(1.0, 0.10)], 1.0, True),  # no guards: dev alone
    ],
)
def test_guards_go_before_gains(trials, alpha, held):
    """The lowest dev WER is taken among those that hold every guard; if none does, the least harmful."""
    choice = choose(trials, {"en": 0.051, "es": 0.24}, margin=0.01)
    assert (choice.alpha, choice.guards_held) == (alpha, held)


def test_each_language_is_measured_in_its_own_unit():
    """One wrong character of four in a language without blanks is a quarter, as for the gate, and not a sentence."""

    def heard(language, reference, hypothesis):
        return [Hypothesis(id=language, language=language, reference=reference, hypothesis=hypothesis)]

    chinese, italian = heard("zh", "今天散步", "今天、散布"), heard("it", "uno due tre", "uno due")
    done = _trial(0.5, chinese, [*italian, *chinese])
    assert (done.dev_wer, done.dev_cer) == (0.25, 0.25)
    assert done.guards == {"it": pytest.approx(1 / 3), "zh": 0.25}


@pytest.fixture
def tuned(tiny, tmp_path):
    """Return another checkpoint of the same shape: all weights plus one."""
    folder = tmp_path / "tuned"
    interpolate(tiny.checkpoint, tiny.checkpoint, 1.0, folder)
    arrays = load_file(folder / "model.safetensors")
    save_file({name: array + 1 for name, array in arrays.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_weights_are_between(tiny, tuned, tmp_path, alpha):
    """Every weight is base plus α of the way to the fine-tuned one; the ends are the two themselves."""
    interpolate(tiny.checkpoint, tuned, alpha, tmp_path / "between")
    between = load_file(tmp_path / "between" / "model.safetensors")
    base = load_file(tiny.checkpoint / "model.safetensors")
    assert between.keys() == base.keys()
    for name, array in between.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, base[name] + alpha, atol=1e-6, err_msg=name)
    if alpha == 1.0:
        expected = load_file(tuned / "model.safetensors")
        assert all(np.array_equal(array, expected[name]) for name, array in between.items())


def test_the_result_is_a_whole_checkpoint(tiny, tuned, tmp_path):
    """Transformers loads it, with the tuned one's configs and tokenizer."""
    from transformers import WhisperForConditionalGeneration

    interpolate(tiny.checkpoint, tuned, 0.5, tmp_path / "between")
    WhisperForConditionalGeneration.from_pretrained(tmp_path / "between", local_files_only=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "between" / name).read_bytes() == (tuned / name).read_bytes()


def test_other_shapes_are_refused(tiny, tuned, tmp_path):
    """Checkpoints with different arrays have nothing between them, and the error names the arrays."""
    arrays = load_file(tuned / "model.safetensors")
    arrays["extra.weight"] = arrays.pop("model.decoder.layer_norm.weight")
    save_file(arrays, tuned / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"extra\.weight, model\.decoder\.layer_norm\.weight"):
        interpolate(tiny.checkpoint, tuned, 0.5, tmp_path / "between")


@contextmanager
def silent(_what, _total):
    """Show no progress."""
    yield lambda _: None


def test_alpha_is_chosen_by_the_engine(tiny, noise_clips, short_config, tmp_path):
    """Each alpha is exported and measured; the choice is kept, and its checkpoint is the one of that alpha."""
    clips, root = noise_clips
    source = {"kind": "folder", "path": "unused"}
    settings = short_config(max_steps=2, eval_steps=2, guards=[source], alphas=[1.0, 0.5])
    tuned = fine_tune(settings, tiny.checkpoint, clips[:4], clips[4:6], root, root / tmp_path.name)
    run = root / tmp_path.name
    guards = [clip.model_copy(update={"language": "ru"}) for clip in clips[8:10]]
    dev = [
        clip.model_copy(update={"audio": clip.audio.model_copy(update={"path": str(root / clip.audio.path)})})
        for clip in clips[4:6]
    ]
    guards = [
        clip.model_copy(update={"audio": clip.audio.model_copy(update={"path": str(root / clip.audio.path)})})
        for clip in guards
    ]
    lines = []
    chosen = choose_alpha(settings, tiny.checkpoint, tuned, dev, guards, run, lines.append, silent)
    choice = Choice.model_validate_json((run / "alpha.json").read_text())
    assert [one.alpha for one in choice.trials] == [0.5, 1.0]
    assert choice.base_guards.keys() == {"ru"}
    assert all(one.guards.keys() == {"ru"} for one in choice.trials)
    assert chosen.alpha == choice.alpha
    assert "alpha" in lines[0]
    interpolate(tiny.checkpoint, tuned.checkpoint, chosen.alpha, tmp_path / "again")
    expected = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert (chosen.checkpoint / "model.safetensors").read_bytes() == expected
    again = choose_alpha(settings, tiny.checkpoint, tuned, [], [], run, lines.append, silent)  # measures nothing
    assert again == chosen


def test_without_a_choice_nothing_is_measured(tiny, short_config, tmp_path):
    """A run without guards and alphas keeps the fine-tuned weights, and pays nothing."""
    tuned = FineTuned(tiny.checkpoint, 1, {"wer": 0.1}, (1,))
    assert choose_alpha(short_config(), tmp_path, tuned, [], [], tmp_path, print, silent) is tuned
    assert list(tmp_path.iterdir()) == []


def test_guards_that_all_judge_choose_nothing(tiny, short_config, tmp_path):
    """With every guard in the test set, nothing would hold the choice back: the line says why none is made."""
    tuned, lines = FineTuned(tiny.checkpoint, 1, {"wer": 0.1}, (1,)), []
    config = short_config(guards=[{"kind": "folder", "path": "unused", "use": "test"}])
    assert choose_alpha(config, tmp_path, tuned, [], [], tmp_path, lines.append, silent) is tuned
    assert "none to choose by" in lines[0]


def test_a_base_in_shards(tiny, tuned, tmp_path):
    """Large checkpoints come in shards, and some with the embeddings a second time, as the output's."""
    whole = interpolate_to(tiny.checkpoint, tuned, tmp_path / "whole")
    sharded = tmp_path / "sharded"
    shutil.copytree(tiny.checkpoint, sharded)
    arrays = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    arrays["proj_out.weight"] = arrays["model.decoder.embed_tokens.weight"]
    names = sorted(arrays)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: arrays[name] for name in held}, sharded / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    found = interpolate_to(sharded, tuned, tmp_path / "found")
    assert found.keys() == whole.keys()
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


def interpolate_to(base, tuned, target):
    """Return the arrays halfway."""
    interpolate(base, tuned, 0.5, target)
    return load_file(target / "model.safetensors")
