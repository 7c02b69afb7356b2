"""The model card: a header that the Hub takes and can index, and no number that the run did not measure."""

import inspect

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import Trainer
from transformers.modelcard import TrainingSummary

from speech.context import ElasticContext
from speech.languages import LANGUAGES
from tests.hub_server import card_faults
from training.card import Facts, Scores, hub_language, metadata, model_card
from training.config import make_config
from training.data.manifest import AudioSlice, Utterance, fingerprint
from training.gate import Bounds

TASK = "automatic-speech-recognition"


def utterance(i, language, split, source="folder:calls", licence="CC-BY-3.0"):
    """Make a clip of half an hour."""
    audio = AudioSlice(path=f"/secret/{i}.wav", duration=1800, sha256=f"{i:064x}")
    text = f"a secret sentence {i}"
    return Utterance(id=str(i), audio=audio, text=text, language=language, split=split, source=source, licence=licence)


def facts(languages=("it", "ru"), **changes):
    """Make a run with two training clips, a dev clip and a test clip a language."""
    clips = [
        utterance(10 * i + j, language, split)
        for i, language in enumerate(languages)
        for j, split in enumerate(("train", "train", "dev", "test"))
    ]
    named = [*languages, "all"] if len(languages) > 1 else languages
    wer = {language: Bounds(value=0.1 + i / 100, low=0.08, high=0.2) for i, language in enumerate(named)}
    cer = {language: Bounds(value=0.03, low=0.02, high=0.04) for language in named}
    worse = {language: Bounds(value=0.5, low=0.4, high=0.6) for language in named}
    sources = [{"kind": "folder", "path": "/secret/calls"}]
    given = {
        "config": make_config("test", {"name": "my-calls", "licence": "cc-by-3.0", "sources": sources}),
        "base": "whisper-small@1",
        "base_on_hub": "openai/whisper-small",
        "against": "my-calls@7",
        "utterances": clips,
        "before": Scores(wer=worse, cer=worse),
        "after": Scores(wer=wer, cer=cer),
        "context": ElasticContext(elastic=True, margin=32),
        "pictures": ["curves/loss.png"],
    }
    return Facts(**{**given, **changes})


def header(card):
    """Return the YAML header as the Hub reads it."""
    return yaml.safe_load(card.split("---\n")[1])


def test_the_hub_takes_the_header():
    """What the Hub checks of a header holds, and its own library reads back what was written, scores included."""
    card = model_card(facts())
    assert card_faults(header(card)) == []
    read = ModelCard(card).data
    assert read.to_dict() == metadata(facts()).to_dict()
    assert (read.model_name, read.license, read.base_model) == ("my-calls", "cc-by-3.0", "openai/whisper-small")
    assert (read.library_name, read.pipeline_tag, read.language) == ("transformers", TASK, ["it", "ru"])
    assert {"whisper", "whisperloop", "elastic-context"} == set(read.tags)


def test_every_score_is_indexed_with_its_interval():
    """The model-index has WER and CER of each language, in percent, their intervals in words, and what they are of."""
    read = ModelCard(model_card(facts())).data
    found = {(r.dataset_args["language"], r.metric_type): r for r in read.eval_results}
    assert set(found) == {("it", "wer"), ("it", "cer"), ("ru", "wer"), ("ru", "cer")}
    wer = found["ru", "wer"]
    assert (wer.metric_value, wer.metric_name) == (11.0, "WER in %, 95 %: 8.0 to 20.0")
    assert (wer.task_type, wer.dataset_type, wer.dataset_split) == (TASK, "audiofolder", "test")
    clips = [u for u in facts().utterances if (u.language, u.split) == ("ru", "test")]
    assert wer.dataset_args == {"language": "ru", "split": "test", "clips": 1, "sha256": fingerprint(clips)}


def test_nothing_that_trainer_would_say_is_missing():
    """Each field that transformers' own card has for the same run, told all that it asks for, is in ours, too."""
    ours = metadata(facts(languages=("it",))).to_dict()
    (result,) = ours["model-index"][0]["results"]
    arguments = {
        "model_name": "my-calls",
        "language": ["it"],
        "license": "cc-by-3.0",
        "tags": ["whisper", "whisperloop", "elastic-context"],
        "finetuned_from": "openai/whisper-small",
        "tasks": [TASK],
        "dataset_tags": [result["dataset"]["type"]],
        "dataset": [result["dataset"]["name"]],
        "dataset_args": [result["dataset"]["args"]],
    }
    assert arguments.keys() == inspect.signature(Trainer.create_model_card).parameters.keys() - {"self"}
    theirs = TrainingSummary(**arguments, eval_results={"wer": 10.0}).create_metadata()
    # The one exception: it links whatever it is told of, and ours only data sets of the Hub (the next test).
    assert theirs.pop("datasets") == ["audiofolder"]
    assert set(theirs.pop("metrics")) <= set(ours["metrics"])
    (index,) = theirs.pop("model-index")
    assert index.pop("name") == ours["model-index"][0]["name"]
    ((expected,),) = index.values()
    assert expected.pop("task") == result["task"]
    assert expected.pop("dataset").items() <= result["dataset"].items()
    assert expected.pop("metrics")[0]["value"] == result["metrics"][0]["value"]
    assert expected == {}
    assert theirs.keys() >= {"library_name", "base_model"}
    for key, value in theirs.items():
        assert ours[key] == value, key


class OfTheHub:
    """A source that names a data set of the Hub."""

    dataset, config, revision = "google/fleurs", "it_it", "d" * 40


def test_a_dataset_of_the_hub_is_linked():
    """Data sets of the Hub are linked, with configuration and revision; a result only if all its clips are of one."""
    of_hub = [u.model_copy(update={"source": "hub:google/fleurs:it_it"}) for u in facts(languages=("it",)).utterances]
    run = facts(languages=("it",), utterances=of_hub)
    object.__setattr__(run, "config", run.config.model_copy(update={"sources": (OfTheHub(),)}))
    said = metadata(run).to_dict()
    assert said["datasets"] == ["google/fleurs"]
    (result,) = said["model-index"][0]["results"]
    assert (result["dataset"]["type"], result["dataset"]["config"]) == ("google/fleurs", "it_it")
    assert result["dataset"]["revision"] == "d" * 40
    mixed = facts(languages=("it",), utterances=[*of_hub, utterance(99, "it", "test")])
    object.__setattr__(mixed, "config", run.config)
    (result,) = metadata(mixed).to_dict()["model-index"][0]["results"]
    assert result["dataset"]["type"] == "audiofolder"


def test_what_is_not_known_is_left_out():
    """Without licence, base or data sets that the Hub knows, the header has no such fields, and is still taken."""
    config = make_config("test", {"sources": [{"kind": "folder", "path": "x"}]})
    said = header(model_card(facts(config=config, base_on_hub=None, pictures=[])))
    assert card_faults(said) == []
    assert not {"license", "base_model", "datasets"} & set(said)


def test_the_card_says_what_was_measured():
    """Scores before and after with their intervals, hours, licences, pictures and the context are in the text."""
    card = model_card(facts())
    assert (
        "| ru | 1 | 0.500 [0.400, 0.600] | 0.110 [0.080, 0.200] | 0.500 [0.400, 0.600] | 0.030 [0.020, 0.040] |" in card
    )
    assert "| all | 2 |" in card
    assert "| it | 2 | 1.00 | 1 | 1 |" in card
    assert "Licences of the speech: CC-BY-3.0" in card
    assert "![curves/loss.png](curves/loss.png)" in card
    assert "a margin of 32" in card
    assert "full 30 s" in model_card(facts(context=ElasticContext()))
    assert "other kinds of speech were not measured" in card


def test_the_card_says_that_guards_were_looked_at():
    """Where other speech was watched, the card does not say that it was not."""
    source = {"kind": "folder", "path": "x"}
    card = model_card(facts(config=make_config("test", {"name": "calls", "sources": [source], "guards": [source]})))
    assert "were not measured" not in card
    assert "`python -m registry verdicts calls`" in card


def test_what_was_rehearsed_is_told():
    """Speech that was only rehearsed is told with its hours, sources and licences, and is no language of the card's."""
    replay = [utterance(90, "en", None, source="hub:google/fleurs", licence="CC-BY-4.0")]
    card = model_card(facts(replay=replay))
    assert "rehearsed, so that it is not forgotten: 0.50 hours (en)" in card
    assert "`hub:google/fleurs`" in card
    assert "CC-BY-4.0" in card
    assert header(card)["language"] == ["it", "ru"]
    assert "rehearsed" not in model_card(facts())


def test_the_card_tells_no_secrets():
    """No sentence and no path of the data is in it."""
    assert "secret" not in model_card(facts())


@pytest.mark.parametrize("code", LANGUAGES)
def test_each_of_whispers_languages_has_a_tag(code):
    """Every code of Whisper's is tagged as ISO 639 has it; one differs."""
    assert hub_language(code) == {"jw": "jv"}.get(code, code)
    assert card_faults({"language": [hub_language(code)]}) == []


def test_no_other_language_is_tagged():
    """What Whisper does not know is an error, not a tag."""
    with pytest.raises(ValueError, match="none of Whisper's"):
        hub_language("xx")
