"""Learning rates that were copied from elsewhere are noticed before they cost a night."""

import json

import pytest

from training.config import make_config
from training.learning_rate import unusual


@pytest.mark.parametrize(
    ("width", "rate", "is_odd"),
    [
        (768, 1e-5, False),
        (512, 5e-5, False),
        (768, 3e-3, True),
        (768, 1e-7, True),
        (1280, 3e-5, True),
        (1280, 5e-6, False),
        (16, 3e-3, False),
    ],
)
def test_what_is_far_from_usual_is_said(tmp_path, width, rate, is_odd):
    """By the size of the model; of a size that nobody trains, nothing is known."""
    (tmp_path / "config.json").write_text(json.dumps({"d_model": width}))
    config = make_config("x", {"sources": [{"kind": "folder", "path": "x"}], "learning_rate": rate})
    said = unusual(config, tmp_path)
    assert (said is not None) == is_odd
    assert said is None or f"learning_rate is {rate:g}" in said


def test_adapters_take_other_rates(tmp_path):
    """What is too much for all weights is usual for LoRA's."""
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 768}))
    sources = [{"kind": "folder", "path": "x"}]
    assert unusual(make_config("x", {"sources": sources, "learning_rate": 1e-3, "lora": {}}), tmp_path) is None
