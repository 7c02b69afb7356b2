"""The model card of a version: what it is, what it learned from, what it scored, and how to use it.

Every number comes from the run; the card claims nothing else.
"""

from collections.abc import Mapping, Sequence

from training.config import TrainingConfig
from training.data.manifest import Utterance
from training.gate import Bounds


def model_card(
    config: TrainingConfig,
    base: str,
    utterances: Sequence[Utterance],
    before: Mapping[str, Bounds],
    after: Mapping[str, Bounds],
    against: str,
) -> str:
    """Return the card as Markdown with the Hub's YAML header.

    Args:
        config: of the run.
        base: reference of the version that training started from.
        utterances: all of the run's, with their splits.
        before: WER of `against` on the test split, by language.
        after: WER of this version on the same clips.
        against: reference of the version that it is compared with.
    """
    languages = sorted({u.language for u in utterances})
    licences = sorted({u.licence for u in utterances if u.licence})
    data = "\n".join(_data_row(language, [u for u in utterances if u.language == language]) for language in languages)
    scores = "\n".join(
        f"| {language} | {_bounds(before[language])} | {_bounds(after[language])} |" for language in after
    )
    tags = "\n".join(f"- {language}" for language in languages)
    return f"""---
library_name: transformers
pipeline_tag: automatic-speech-recognition
language:
{tags}
tags:
- whisper
- whisperloop
---

# {config.name}

Whisper fine-tuned by Whisperloop from `{base}` on {", ".join(languages)}, with an elastic encoder context.

| language | training clips | hours | dev | test |
|---|--:|--:|--:|--:|
{data}

Licences of the speech: {", ".join(licences) or "not stated by its source"}.

Word error rate on the held-out test clips (no sentence of which was trained on), with 95 % bootstrap intervals over
sentences, decoded greedily by the engine that serves:

| language | `{against}` | this version |
|---|---|---|
{scores}

Other languages and other kinds of speech were not measured. How it was trained: `provenance.json`; every hypothesis:
`hyps/`.
"""


def _data_row(language: str, utterances: Sequence[Utterance]) -> str:
    train = [u for u in utterances if u.split == "train"]
    hours = sum(u.audio.duration for u in train) / 3600
    dev, test = (sum(u.split == split for u in utterances) for split in ("dev", "test"))
    return f"| {language} | {len(train)} | {hours:.2f} | {dev} | {test} |"


def _bounds(bounds: Bounds) -> str:
    return f"{bounds.value:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"
