"""Corpus WER and CER as a metric of Hugging Face's `evaluate`; the counting is `speech.scores`, on jiwer.

Load it by its path: `evaluate.load(str(Path(word_error_rate.__file__)))`. `evaluate`'s own `wer` fetches its script
from the Hub, and neither normalises nor keeps combining marks.
"""

from collections.abc import Sequence

import datasets
import evaluate

from speech.scores import character_errors, corpus_rate, unit_errors


class WordErrorRate(evaluate.Metric):  # type: ignore[misc]
    """`compute(predictions=[...], references=[...])` returns `wer` and `cer` of the whole set, normalised.

    With `languages=[...]`, one a text, what is counted for `wer` are characters in those that write no blanks between
    words: a sentence is one word there, and its rate says nothing. Gate and guards judge by the same.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Corpus word and character error rate under Whisperloop's normaliser.",
            citation="",
            inputs_description="predictions and references: one text an utterance",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, predictions: list[str], references: list[str], languages: Sequence[str] | None = None
    ) -> dict[str, float]:
        known: Sequence[str | None] = languages or [None] * len(references)
        rows = list(zip(references, predictions, known, strict=True))
        return {
            "wer": corpus_rate([unit_errors(*row) for row in rows]),
            "cer": corpus_rate([character_errors(one, other, language=language) for one, other, language in rows]),
        }
