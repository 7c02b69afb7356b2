"""LoRA: what is trained, what is saved, and that the two say the same."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

from speech.encoder import make_elastic
from training.adapters import add_adapters, merged_weights, whisper_of
from training.config import Lora
from training.finetune import fine_tune

ALL_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def load(folder):
    """Return the model of a folder, in float32."""
    return WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@pytest.fixture
def adapted(tiny):
    """Return a model with adapters that do something."""
    model = add_adapters(load(tiny.checkpoint), Lora(rank=4, alpha=8, layers=ALL_LAYERS)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:  # they start at zero
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model, tokenizer):
    """Return what a model says of noise."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 80, 3000, generator=generator)
    tokens = torch.tensor([tokenizer.prompt("it")] * 2)
    with torch.inference_mode():
        return model(input_features=features, decoder_input_ids=tokens, use_cache=False).logits


def test_the_merged_model_says_what_the_adapted_one_says(adapted, tiny, tokenizer):
    """Adapters added to the weights give the same logits as adapters beside them, and not those of the base."""
    merged = load(tiny.checkpoint)
    before = logits(merged, tokenizer)
    expected = logits(adapted, tokenizer)
    merged.load_state_dict(merged_weights(adapted))
    torch.testing.assert_close(logits(merged, tokenizer), expected, rtol=1e-4, atol=1e-4)
    assert (before - expected).abs().max() > 0.1


def test_merging_changes_nothing_in_the_model(adapted):
    """The adapted model is to the last bit what it was: a run goes on after its weights were copied."""
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    merged_weights(adapted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state_dict().items())


def test_only_adapters_are_trained(adapted):
    """Everything but the adapters is frozen, and each named layer of encoder and decoder has one."""
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    layers = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trained}
    assert len(layers) == 2 * 6 + 2 * 10  # a decoder block has two attentions


def test_a_frozen_encoder_has_no_adapters(tiny):
    """With the encoder frozen, adapters are in the decoder alone."""
    model = add_adapters(load(tiny.checkpoint), Lora(), encoder=False)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".decoder." in name for name in trained)


def test_a_plain_model_is_its_own(tiny):
    """Without adapters, the weights are the model's own, copied."""
    model = load(tiny.checkpoint)
    assert whisper_of(model) is model
    weights = merged_weights(model)
    assert weights.keys() == model.state_dict().keys()
    weights["proj_out.weight"].zero_()
    assert model.proj_out.weight.any()


@pytest.mark.parametrize("average", [1, 2])
def test_lora_is_trained_resumed_and_merged(tiny, noise_clips, short_config, tmp_path, average):
    """A run with adapters, also one that goes on from a checkpoint, leaves a plain checkpoint that the base's fits."""
    clips, root = noise_clips
    settings = short_config(lora=Lora(rank=4, dropout=0.0), learning_rate=1e-2, average_checkpoints=average)
    whole = fine_tune(settings, tiny.checkpoint, clips[:8], clips[8:9], root, tmp_path / "whole")
    before, after = load(tiny.checkpoint).state_dict(), load(whole.checkpoint).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in changed)
    if average == 2:
        assert whole.selected == (3, 6)


def test_failure_25_lora_learns(tiny, noise_clips, short_config, tmp_path):
    """In twenty steps the loss on the very clips falls, and what is merged is of single precision."""
    clips, root = noise_clips
    lora = {"lora": Lora(rank=4, dropout=0.0), "learning_rate": 1e-2}
    first = fine_tune(short_config(max_steps=2, **lora), tiny.checkpoint, clips[:4], clips[:4], root, tmp_path / "a")
    later = fine_tune(short_config(max_steps=20, **lora), tiny.checkpoint, clips[:4], clips[:4], root, tmp_path / "b")
    assert later.dev["loss"] < first.dev["loss"] - 0.05
    assert {weights.dtype for weights in load_file(later.checkpoint / "model.safetensors").values()} == {torch.float32}


def test_lora_goes_on_from_a_checkpoint(tiny, noise_clips, short_config, tmp_path, monkeypatch):
    """Adapters, optimizer and all are read back, and augmentation repeats: a stopped run ends as one that was not."""
    from training import finetune

    clips, root = noise_clips
    augment = {"speed_factors": [0.9, 1.1], "noise_share": 0.5, "mask_time_share": 0.2}
    settings = short_config(lora=Lora(rank=4), learning_rate=1e-2, augment=augment, stitch_share=0.5)
    whole = fine_tune(settings, tiny.checkpoint, clips[:8], clips[8:9], root, tmp_path / "whole")

    class Stopped(finetune.ElasticTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 5:
                raise InterruptedError
            return super().training_step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "ElasticTrainer", Stopped)
        with pytest.raises(InterruptedError):
            fine_tune(settings, tiny.checkpoint, clips[:8], clips[8:9], root, tmp_path / "stopped")
    checkpoints = {path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()}
    assert checkpoints == {"checkpoint-3"}
    assert not (tmp_path / "stopped" / "checkpoints" / "checkpoint-3" / "model.safetensors").exists()  # adapters alone
    resumed = fine_tune(settings, tiny.checkpoint, clips[:8], clips[8:9], root, tmp_path / "stopped")
    expected = load(whole.checkpoint).state_dict()
    for name, tensor in load(resumed.checkpoint).state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)


def test_an_adapted_model_hears_at_any_length(tiny, tokenizer):
    """Adapters leave the elastic encoder elastic."""
    model = load(tiny.checkpoint)
    make_elastic(model)
    adapted = add_adapters(model, Lora(rank=2)).eval()
    tokens = torch.tensor([tokenizer.prompt("it")])
    assert adapted(input_features=torch.zeros(1, 80, 200), decoder_input_ids=tokens).logits.isfinite().all()
