"""The model card of a version: what it is, what it learned from, what it scored, and how to use it.

Every number comes from the run; the card claims nothing else. Its header is the Hub's, made by the Hub's own library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from speech.context import ElasticContext
from speech.languages import LANGUAGES
from speech.text import NORMALIZER_VERSION
from training.config import TrainingConfig
from training.data.manifest import Utterance, fingerprint
from training.evaluate import POOLED
from training.gate import Bounds

TASK = "automatic-speech-recognition"

HUB_LANGUAGES = {"jw": "jv"}
"""Whisper's codes that are none of ISO 639, which the Hub wants, and what ISO calls them. All others are the same."""


@dataclass(frozen=True)
class Scores:
    """Error rates on the test split by language, and for all together if there are several."""

    wer: Mapping[str, Bounds]
    cer: Mapping[str, Bounds]


@dataclass(frozen=True)
class Facts:
    """What a card is made of."""

    config: TrainingConfig
    base: str  # reference of the version that training started from
    base_on_hub: str | None  # org/name of what that came from, at its root
    against: str  # reference of the version that it is compared with
    utterances: Sequence[Utterance]  # all of the run's, with their splits
    before: Scores  # of `against`
    after: Scores  # of this version, on the same clips
    context: ElasticContext
    pictures: Sequence[str] = ()  # paths in the version
    replay: Sequence[Utterance] = ()  # general speech that was rehearsed


def model_card(facts: Facts) -> str:
    """Return the card as Markdown with the Hub's YAML header."""
    config, utterances = facts.config, facts.utterances
    languages = sorted({u.language for u in utterances})
    learned = [*utterances, *facts.replay]
    licences = sorted({u.licence for u in learned if u.licence})
    data = "\n".join(_data_row(language, [u for u in utterances if u.language == language]) for language in languages)
    scores = "\n".join(_score_row(language, facts) for language in facts.after.wer)
    pictures = "\n".join(f"![{path}]({path})" for path in facts.pictures)
    context = (
        f"It may be run on as much of its encoder as a clip is long: 50 positions a second and a margin of "
        f"{facts.context.margin}. What that costs is in `manifest.json`."
        if facts.context.elastic
        else "It is to be run at Whisper's full 30 s."
    )
    code = languages[0]
    return f"""---
{metadata(facts).to_yaml()}
---

# {config.name}

Whisper fine-tuned by Whisperloop from `{facts.base}`{f" ({facts.base_on_hub})" if facts.base_on_hub else ""} on \
{", ".join(LANGUAGES.get(language, language).title() for language in languages)}. {context}

## Scores

On the held-out test clips (no sentence of which was trained on), normalised by {NORMALIZER_VERSION}, with 95 %
bootstrap intervals, decoded greedily by the engine that serves:

| language | clips | WER of `{facts.against}` | WER | CER before | CER |
|---|--:|---|---|---|---|
{scores}

{_beyond(config)}

## Data

| language | training clips | hours | dev | test |
|---|--:|--:|--:|--:|
{data}

Sources: {", ".join(f"`{source}`" for source in sorted({u.source for u in learned}))}. \
{_rehearsed(facts.replay)}Licences of the speech: \
{", ".join(licences) or "not stated by its source"}. Fingerprints: `data.json`.

## Training

{pictures or "Nothing was logged."}

Code, packages, seeds, machine, settings, time and cost: `provenance.json`. All figures: `metrics.json`.

## Use

```python
from transformers import pipeline

recogniser = pipeline("{TASK}", model="THIS/REPOSITORY")
print(recogniser(samples, generate_kwargs={{"language": "{code}"}})["text"])  # 16 kHz, mono, float32
```

With faster-whisper: `WhisperModel("ctranslate2")`, the folder of this repository. With Whisperloop, which runs it at
the context above: `WHISPERLOOP_MODEL=hub:THIS/REPOSITORY python -m service`.
"""


def metadata(facts: Facts) -> ModelCardData:
    """Return the card's header: what `Trainer.create_model_card` would say, and the scores with their intervals.

    Its arguments are here under the Hub's names: `finetuned_from` is `base_model`, `tasks` is `pipeline_tag` and each
    result's task, `dataset_tags` are `datasets` and each result's `dataset.type`, `dataset` and `dataset_args` are that
    data set's `name` and `args`, and `model_name` and the scores make the `model-index`.
    """
    config = facts.config
    tests: dict[str, list[Utterance]] = {}
    for utterance in facts.utterances:
        if utterance.split == "test":
            tests.setdefault(utterance.language, []).append(utterance)
    results = [
        EvalResult(
            task_type=TASK,
            task_name="Automatic Speech Recognition",
            metric_type=metric,
            metric_name=f"{metric.upper()} in %, 95 %: {100 * bounds.low:.1f} to {100 * bounds.high:.1f}",
            metric_value=round(100 * bounds.value, 2),
            metric_args={"normalizer": NORMALIZER_VERSION},
            **_dataset(config, language, tests[language]),
        )
        for language in facts.after.wer
        if language != POOLED
        for metric, bounds in (("wer", facts.after.wer[language]), ("cer", facts.after.cer[language]))
    ]
    return ModelCardData(
        language=sorted({hub_language(u.language) for u in facts.utterances}),
        license=config.licence,
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=facts.base_on_hub,
        datasets=_hub_datasets(config) or None,
        metrics=["wer", "cer"],
        tags=["whisper", "whisperloop", *(["elastic-context"] if facts.context.elastic else [])],
        model_name=config.name,
        eval_results=results,
    )


def hub_language(code: str) -> str:
    """Return the Hub's tag of a language (ISO 639) for Whisper's code.

    Raises:
        ValueError: Whisper knows no such language.
    """
    if code not in LANGUAGES:
        raise ValueError(f"{code!r} is none of Whisper's languages")
    return HUB_LANGUAGES.get(code, code)


def _hub_datasets(config: TrainingConfig) -> list[str]:
    """Return the data sets of the Hub that the run learned from."""
    named = (getattr(source, "dataset", None) for source in (*config.sources, *config.replay))
    return sorted({dataset for dataset in named if dataset})


def _dataset(config: TrainingConfig, language: str, test: Sequence[Utterance]) -> dict[str, Any]:
    """Return what a model-index says of a language's test clips: a data set of the Hub only if all come from it."""
    sources = sorted({u.source for u in test})
    args = {"language": language, "split": "test", "clips": len(test), "sha256": fingerprint(test)}
    for source in config.sources:
        dataset = getattr(source, "dataset", None)
        if dataset and len(sources) == 1 and dataset in sources[0]:
            return {
                "dataset_type": dataset,
                "dataset_name": f"{dataset} ({language})",
                "dataset_config": getattr(source, "config", None),
                "dataset_revision": getattr(source, "revision", None),
                "dataset_split": "test",
                "dataset_args": args,
            }
    # Clips of no data set of the Hub are told apart by language: results of one data set and split become one.
    return {
        "dataset_type": sources[0] if len(sources) == 1 and ":" not in sources[0] else "audiofolder",
        "dataset_name": f"held-out clips of {', '.join(sources)} ({language})",
        "dataset_config": language,
        "dataset_split": "test",
        "dataset_args": args,
    }


def _beyond(config: TrainingConfig) -> str:
    if any(source.use != "dev" for source in config.guards):
        return (
            f"Whether other speech became worse was looked at by the gate: `python -m registry verdicts {config.name}`."
        )
    return "Other languages and other kinds of speech were not measured."


def _rehearsed(replay: Sequence[Utterance]) -> str:
    if not replay:
        return ""
    hours = sum(u.audio.duration for u in replay) / 3600
    languages = ", ".join(sorted({u.language for u in replay}))
    return f"General speech was rehearsed, so that it is not forgotten: {hours:.2f} hours ({languages}). "


def _score_row(language: str, facts: Facts) -> str:
    clips = sum(u.split == "test" and language in {u.language, POOLED} for u in facts.utterances)
    cells = (facts.before.wer, facts.after.wer, facts.before.cer, facts.after.cer)
    return f"| {language} | {clips} | " + " | ".join(_bounds(rates[language]) for rates in cells) + " |"


def _data_row(language: str, utterances: Sequence[Utterance]) -> str:
    train = [u for u in utterances if u.split == "train"]
    hours = sum(u.audio.duration for u in train) / 3600
    dev, test = (sum(u.split == split for u in utterances) for split in ("dev", "test"))
    return f"| {language} | {len(train)} | {hours:.2f} | {dev} | {test} |"


def _bounds(bounds: Bounds) -> str:
    return f"{bounds.value:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"
