"""transformers' `pipeline("automatic-speech-recognition")` as a contender, in float32."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import pipeline

from benchmarks.peers.protocol import Clip, Transcribe, serve


def load(options: Mapping[str, Any]) -> tuple[Transcribe, dict[str, Any]]:
    """Load a transformers checkpoint."""
    torch.set_num_threads(options["threads"])
    recognise = pipeline("automatic-speech-recognition", options["model"], dtype=torch.float32, device="cpu")

    def transcribe(clips: Sequence[Clip]) -> list[str]:
        return [
            recognise(
                {"raw": clip.audio, "sampling_rate": 16_000},
                generate_kwargs={"language": clip.language, "task": "transcribe", "num_beams": 1, "do_sample": False},
            )["text"].strip()
            for clip in clips
        ]

    return transcribe, {}


if __name__ == "__main__":
    serve(load)
