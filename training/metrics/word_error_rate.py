"""Corpus WER and CER as a metric of Hugging Face's `evaluate`; the counting is `speech.scores`, on jiwer.

Load it by its path: `evaluate.load(str(Path(word_error_rate.__file__)))`. `evaluate`'s own `wer` fetches its script
from the Hub, and neither normalises nor keeps combining marks.
"""

import datasets
import evaluate

from speech.scores import character_errors, corpus_rate, word_errors


class WordErrorRate(evaluate.Metric):  # type: ignore[misc]
    """`compute(predictions=[...], references=[...])` returns `wer` and `cer` of the whole set, normalised."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Corpus word and character error rate under Whisperloop's normaliser.",
            citation="",
            inputs_description="predictions and references: one text an utterance",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        pairs = list(zip(references, predictions, strict=True))
        return {
            "wer": corpus_rate([word_errors(reference, prediction) for reference, prediction in pairs]),
            "cer": corpus_rate([character_errors(reference, prediction) for reference, prediction in pairs]),
        }
