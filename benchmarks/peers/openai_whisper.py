"""openai-whisper as a contender, in float32."""

import site
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.peers.protocol import Clip, Transcribe, serve


def load(options: Mapping[str, Any]) -> tuple[Transcribe, dict[str, Any]]:
    """Load a .pt file; `site_packages` is where openai-whisper is installed, without torch."""
    site.addsitedir(options["site_packages"])  # behind our own environment, whose torch it is to use
    import whisper

    torch.set_num_threads(options["threads"])
    model = whisper.load_model(options["model"], device="cpu")

    def transcribe(clips: Sequence[Clip]) -> list[str]:
        return [
            whisper.transcribe(
                model,
                clip.audio,
                language=clip.language,
                temperature=0.0,
                fp16=False,
                without_timestamps=True,
                condition_on_previous_text=False,
                verbose=None,
            )["text"].strip()
            for clip in clips
        ]

    return transcribe, {}


if __name__ == "__main__":
    serve(load)
