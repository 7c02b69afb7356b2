"""faster-whisper as a contender: clips one after another (or on as many threads as it has workers), or its batches."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from faster_whisper import BatchedInferencePipeline, WhisperModel

from benchmarks.peers.protocol import Clip, Transcribe, serve

GREEDY = {
    "beam_size": 1,
    "best_of": 1,
    "temperature": 0.0,
    "without_timestamps": True,
    "condition_on_previous_text": False,
}
"""One hypothesis, no second try at a higher temperature: what ours does, too."""


def load(options: Mapping[str, Any]) -> tuple[Transcribe, dict[str, Any]]:
    """Load a CTranslate2 folder; `batch_size` asks for `BatchedInferencePipeline` with its voice activity detection."""
    workers = options["workers"]
    model = WhisperModel(
        options["model"], device="cpu", compute_type="int8", cpu_threads=options["threads"], num_workers=workers
    )

    def one(clip: Clip) -> str:
        segments, _ = model.transcribe(clip.audio, language=clip.language, **GREEDY)
        return _text(segments)

    def by_clip(clips: Sequence[Clip]) -> list[str]:
        if workers == 1:
            return [one(clip) for clip in clips]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, clips))

    if options.get("batch_size") is None:
        return by_clip, {}
    pipeline = BatchedInferencePipeline(model)

    def in_batches(clips: Sequence[Clip]) -> list[str]:
        texts = []
        for clip in clips:
            segments, _ = pipeline.transcribe(
                clip.audio,
                language=clip.language,
                vad_filter=True,
                batch_size=options["batch_size"],
                **GREEDY,
            )
            texts.append(_text(segments))
        return texts

    return in_batches, {}


def _text(segments: Any) -> str:
    return " ".join(segment.text.strip() for segment in segments)  # a generator: here is where the work is done


if __name__ == "__main__":
    serve(load)
