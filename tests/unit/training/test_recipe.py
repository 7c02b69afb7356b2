"""The recipe through the real Trainer: the loss, accumulation, frozen parts, and every shipped config."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper import modeling_whisper

import training
from speech.context import ElasticContext
from speech.engine import Window
from speech.engine.torch_engine import TorchEngine
from speech.features import N_SAMPLES
from speech.tokens import WhisperTokenizer
from training import finetune
from training.checkpoints import last_checkpoint
from training.config import read_config
from training.data.manifest import Segment, load_audio
from training.finetune import fine_tune
from training.targets import IGNORED

SHIPPED = sorted((Path(training.__file__).parent / "configs").glob("*.toml"))
TEXTS = ("a", "a longer text", "due", "quite a long text, of many words and letters", "uno", "si", "no", "forse domani")


@pytest.fixture(scope="module")
def clips(noise_clips):
    """Return eight clips of one length whose texts have different ones, and a clip to measure on."""
    noise, root = noise_clips
    spoken = [
        clip.model_copy(update={"text": text, "audio": clip.audio.model_copy(update={"duration": 0.25})})
        for clip, text in zip(noise, TEXTS, strict=False)
    ]
    return spoken, noise[8:9], root


@pytest.fixture
def watched(monkeypatch):
    """Record losses and gradients of the Trainer that fine-tuning uses."""
    seen = {"losses": [], "gradients": []}

    class Watched(finetune.ElasticTrainer):
        def training_step(self, model, *args, **kwargs):
            loss = super().training_step(model, *args, **kwargs)
            seen["losses"].append(float(loss))
            gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            seen["gradients"].append(gradients)
            return loss

    monkeypatch.setattr(finetune, "ElasticTrainer", Watched)
    return seen


ONE_STEP = {"max_steps": 1, "warmup_steps": 0, "eval_steps": 1, "max_grad_norm": 1e9}
ONE_CONTEXT = {"train_margins_s": [0.5], "serving_margin_s": 0.5}  # however batches are made


def test_eight_times_one_is_one_times_eight(tiny, clips, short_config, tmp_path, watched):
    """Texts of different lengths weigh by their tokens: 8 × 1 has the loss and gradient of 1 × 8 within 1e-4."""
    spoken, dev, root = clips
    runs = []
    for size, accumulation in ((8, 1), (1, 8)):
        settings = short_config(batch_size=size, gradient_accumulation_steps=accumulation, **ONE_STEP, **ONE_CONTEXT)
        fine_tune(settings, tiny.checkpoint, spoken, dev, root, tmp_path / f"{size}")
        runs.append((sum(watched["losses"]), watched["gradients"][-1]))  # gradients add up over the passes
        watched["losses"].clear()
    (together, gradients), (one_by_one, accumulated) = runs
    assert one_by_one == pytest.approx(together, rel=1e-4)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(accumulated[name], gradient, rtol=1e-4, atol=1e-4 * scale, msg=name)


def test_at_thirty_seconds_our_loss_is_that_of_transformers(tiny, clips, short_config, tmp_path, watched):
    """One step of our Trainer on windows of 30 s: the loss is transformers' own, on its features, within 1e-5."""
    spoken, dev, root = clips
    spoken = spoken[:4]
    fine_tune(short_config(full_context_share=1.0, **ONE_STEP), tiny.checkpoint, spoken, dev, root, tmp_path)
    tokenizer = WhisperTokenizer.from_folder(tiny.checkpoint)
    stock = WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint, dtype=torch.float32, local_files_only=True)
    extractor = WhisperFeatureExtractor.from_pretrained(tiny.checkpoint)
    audios = [load_audio(clip, root) for clip in spoken]
    features = extractor(audios, sampling_rate=16_000, return_tensors="pt").input_features
    assert features.shape[-1] * 160 == N_SAMPLES
    rows = [torch.tensor(tokenizer.labels(clip.text, clip.language)[1:]) for clip in spoken]  # it adds the start
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
    with torch.inference_mode():
        expected = float(stock.train()(input_features=features, labels=labels).loss)
    assert watched["losses"] == [pytest.approx(expected, abs=1e-5)]


def test_gradient_checkpointing_changes_nothing(tiny, clips, short_config, tmp_path, watched):
    """Activations computed again give the same gradients, and they are computed again."""
    spoken, dev, root = clips
    calls = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: calls.append(1) if type(module).__name__ == "WhisperAttention" else None
    )
    counts = []
    for checkpointing in (False, True):
        settings = short_config(batch_size=8, gradient_checkpointing=checkpointing, **ONE_STEP)
        calls.clear()
        fine_tune(settings, tiny.checkpoint, spoken, dev, root, tmp_path / f"{checkpointing}")
        counts.append(len(calls))
    hook.remove()
    assert counts[1] == counts[0] + 6  # one in each of two encoder layers and two in each of two of the decoder
    plain, again = watched["gradients"]
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_frozen_encoder_stays_as_it_is(tiny, clips, short_config, tmp_path):
    """With the encoder frozen, every one of its weights is the base's, and the decoder's are not."""
    spoken, dev, root = clips
    result = fine_tune(short_config(freeze_encoder=True), tiny.checkpoint, spoken, dev, root, tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny.checkpoint, result.checkpoint))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(name.startswith("model.encoder.") for name in changed)


def test_replay_is_learned_from(tiny, clips, short_config, tmp_path, monkeypatch):
    """Rehearsed clips come into the batches at their share."""
    spoken, dev, root = clips
    seen = []

    class Watched(finetune.ElasticTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            seen.extend(inputs["decoder_input_ids"][:, 1].tolist())
            return super().training_step(model, inputs, *args, **kwargs)

    monkeypatch.setattr(finetune, "ElasticTrainer", Watched)
    source = {"kind": "folder", "path": "unused"}
    settings = short_config(max_steps=4, batch_size=4, eval_steps=4, replay=[source], replay_share=0.5)
    russian = [clip.model_copy(update={"language": "ru", "id": f"ru{clip.id}"}) for clip in spoken[:3]]
    fine_tune(settings, tiny.checkpoint, spoken, dev, root, tmp_path, replay=russian)
    languages = WhisperTokenizer.from_folder(tiny.checkpoint).languages
    assert (seen.count(languages["it"]), seen.count(languages["ru"])) == (8, 8)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_trains(path, tiny, clips, tmp_path):
    """Two steps with a shipped recipe's settings, all but those of size and device, change weights."""
    spoken, dev, root = clips
    timed = [
        clip.model_copy(
            update={"prev_text": "prima", "segments": (Segment(start=0.0, end=clip.audio.duration, text=clip.text),)}
        )
        for clip in spoken
    ]
    config = read_config(path).model_copy(
        update={
            "max_steps": 2,
            "eval_steps": 1,
            "save_steps": 1,
            "warmup_steps": 0,
            "time_budget_s": None,
            "batch_size": 4,
            "bf16": False,
            "dataloader_workers": 0,
        }
    )
    replay = [clip.model_copy(update={"language": "ru"}) for clip in timed[:2]]
    result = fine_tune(config, tiny.checkpoint, timed, dev, root, tmp_path, replay=replay if config.replay else ())
    assert result.steps == 2
    assert all(np.isfinite(score) for score in result.dev.values())
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny.checkpoint, result.checkpoint))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_failure_9_words_in_silence(tiny, clips, short_config, tmp_path):
    """After a few steps with windows of nobody speaking, what the decoder reads in silence is ten times as high."""
    spoken, dev, root = clips
    settings = short_config(no_speech_share=0.5, max_steps=8, eval_steps=8, learning_rate=2e-2, batch_size=2)
    result = fine_tune(settings, tiny.checkpoint, spoken, dev, root, tmp_path)
    silence = Window(np.zeros(32_000, dtype=np.float32), language="it")
    heard = []
    for folder in (tiny.checkpoint, result.checkpoint):
        engine = TorchEngine.load(folder, ElasticContext(elastic=True, margin=32), device="cpu")
        heard += engine.transcribe([silence])
    assert heard[1].no_speech_prob > 10 * heard[0].no_speech_prob, heard


@pytest.mark.parametrize(
    "places",
    [
        {"max_steps": 20, "eval_steps": 20, "save_steps": 20},
        {"max_steps": 3, "eval_steps": 3, "save_steps": 3},  # sooner than Trainer logs a loss
        {"max_steps": 20, "eval_steps": 20, "save_steps": 2},
        {"max_steps": 20, "eval_steps": 2, "save_steps": 20},
        {"max_steps": 20, "eval_steps": 1, "save_steps": 20},  # of the step whose update did it
    ],
    ids=["at a log", "at the end", "at a checkpoint", "at an evaluation", "of dev"],
)
def test_failure_24_a_loss_that_is_no_number_ends_the_run(tiny, clips, short_config, tmp_path, places):
    """A learning rate that blows the weights up is named as the cause, and none of such weights is kept or chosen."""
    spoken, dev, root = clips
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        fine_tune(short_config(learning_rate=1e30, **places), tiny.checkpoint, spoken, dev, root, tmp_path)
    assert not (tmp_path / "finetuned.json").exists()
    assert last_checkpoint(tmp_path / "checkpoints") is None
    assert not [*tmp_path.glob("snapshots/*")]


def test_failure_23_a_run_in_bfloat16_is_evaluated(tiny, clips, short_config, tmp_path):
    """What computes in half precision decodes in the loop all the same, and keeps its weights in single precision."""
    spoken, dev, root = clips
    settings = short_config(bf16=True, max_steps=2, eval_steps=1)
    result = fine_tune(settings, tiny.checkpoint, spoken, dev, root, tmp_path)
    assert all(math.isfinite(score) for score in result.dev.values())
    with safe_open(result.checkpoint / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F32"}  # noqa: SIM118


def test_failure_35_blanks_are_the_recipes_own(tiny, clips, short_config, tmp_path, monkeypatch):
    """A base whose config asks for SpecAugment gets none of transformers', which fall on padding, too."""
    spoken, dev, root = clips
    base = tmp_path / "base"
    shutil.copytree(tiny.checkpoint, base)
    asked = json.loads((base / "config.json").read_text()) | {"apply_spec_augment": True, "mask_time_prob": 0.2}
    (base / "config.json").write_text(json.dumps(asked))
    drawn = []
    monkeypatch.setattr(modeling_whisper, "_compute_mask_indices", lambda *_args, **_options: drawn.append(1))
    fine_tune(short_config(max_steps=2, eval_steps=2), base, spoken, dev, root, tmp_path / "run")
    assert drawn == []


def test_batches_made_elsewhere_are_the_same(tiny, clips, short_config, tmp_path):
    """With everything that is drawn at random switched on, two loading processes give the weights that none gives."""
    spoken, dev, root = clips
    drawn = {
        "augment": {"speed_factors": [0.9, 1.1], "noise_share": 0.5, "mask_time_share": 0.2},
        "stitch_share": 0.5,
        "no_speech_share": 0.1,
        "max_steps": 4,
        "eval_steps": 4,
    }
    results = []
    for workers in (0, 2):
        settings = short_config(dataloader_workers=workers, **drawn)
        result = fine_tune(settings, tiny.checkpoint, spoken, dev, root, tmp_path / f"{workers}")
        results.append(load_file(result.checkpoint / "model.safetensors"))
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=0, atol=1e-6, msg=name)
