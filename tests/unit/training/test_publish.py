"""What a version says of where it came from, and of how well it did."""

import json
from contextlib import nullcontext

import pytest

from registry import Copy, Registry
from training.config import make_config
from training.evaluate import Hypothesis, wer_intervals
from training.publish import _choose_context, _scores, hub_base


@pytest.fixture
def publish(tmp_path):
    """Return the function that publishes a made-up version with a provenance and a parent; and its registry."""
    registry = Registry(tmp_path / "registry")

    def make(name, provenance, parent=None):
        folder = tmp_path / f"source-{name}"
        folder.mkdir()
        (folder / "model.safetensors").write_text(name)
        (folder / "provenance.json").write_text(json.dumps(provenance))
        return registry.publish(name, folder, context={}, parent=parent)

    return make, registry


def test_the_base_on_the_hub_is_found_through_all_trainings(publish):
    """A model that was trained from one that was trained from an import names what was imported."""
    make, registry = publish
    imported = make("small", {"source": "hub:openai/whisper-small@main", "commit": "0" * 40})
    first = make("first", {"base": imported.ref}, parent=imported.ref)
    second = make("second", {"base": first.ref}, parent=first.ref)
    assert hub_base(registry, imported) == hub_base(registry, second) == "openai/whisper-small"


def test_a_base_from_a_folder_is_none_of_the_hubs(publish):
    """What was imported from a folder, or from a parent that is gone, has no base there."""
    make, registry = publish
    assert hub_base(registry, make("folder", {"source": "whisper-base-ctranslate2"})) is None
    assert hub_base(registry, make("orphan", {}, parent="gone@20260101T000000Z-00000000")) is None
    assert hub_base(registry, make("own", {})) is None


def test_a_pushed_base_is_its_repository(publish, tmp_path):
    """A base that was itself pushed to the Hub is named by the repository that it came from."""
    make, _ = publish
    elsewhere = Registry(tmp_path / "elsewhere")
    there = elsewhere.adopt(make("calls", {}).path, Copy(repo="org/calls", commit="0" * 40))
    assert hub_base(elsewhere, there) == "org/calls"


def test_a_version_of_short_margins_alone_is_tried_with_its_own(tmp_path, monkeypatch):
    """A recipe whose longest margin is shorter than all that are usually tried is no error after its training."""
    sources = [{"kind": "folder", "path": tmp_path}]
    config = make_config("x", {"sources": sources, "train_margins_s": [0.0, 0.5], "serving_margin_s": 0.5})
    monkeypatch.setattr("training.publish.choose_context", lambda *_, margins, **__: tuple(margins))
    totals = []

    def progress(_, total):
        totals.append(total)
        return nullcontext(None)

    assert _choose_context(config, tmp_path, [None] * 7, tmp_path, progress) == (25,)
    assert totals == [14]


def test_intervals_are_of_speakers_where_there_are_many():
    """One who is always misheard is one voice, and not thirty clips: as in `evaluate`, not narrower than it says."""
    hypotheses = [
        Hypothesis(
            id=f"{speaker}-{n}",
            language="it",
            reference=f"frase {speaker} {n}",
            hypothesis="" if speaker < 3 else f"frase {speaker} {n}",
            speaker=str(speaker),
        )
        for speaker in range(20)
        for n in range(10)
    ]
    bounds, evaluated = _scores(hypotheses, seed=1).wer["it"], wer_intervals(hypotheses, seed=1)["it"]
    assert (bounds.low, bounds.high) == (evaluated.low, evaluated.high)
    alone = _scores([h.model_copy(update={"speaker": None}) for h in hypotheses], seed=1).wer["it"]
    assert bounds.high - bounds.low > 2 * (alone.high - alone.low)


def test_both_rates_have_intervals():
    """WER and CER of each language and of all come with intervals that hold the value."""
    hypotheses = [
        Hypothesis(id=str(i), language=language, reference=f"frase numero {i}", hypothesis=heard)
        for language in ("it", "ru")
        for i, heard in enumerate(["frase numero 0", "frase numero due", "frase 2", "numero 3"])
    ]
    scores = _scores(hypotheses, seed=1)
    for rates in (scores.wer, scores.cer):
        assert set(rates) == {"it", "ru", "all"}
        assert all(0 < bounds.low <= bounds.value <= bounds.high for bounds in rates.values())
    assert scores.wer["it"].value == pytest.approx(3 / 12)
