"""whisper.cpp as a contender, in float16, by way of pywhispercpp."""

from collections.abc import Mapping, Sequence
from typing import Any

from pywhispercpp.model import Model

from benchmarks.peers.protocol import Clip, Transcribe, serve


def load(options: Mapping[str, Any]) -> tuple[Transcribe, dict[str, Any]]:
    """Load a ggml file."""
    model = Model(options["model"], n_threads=options["threads"], print_progress=False, print_realtime=False)

    def transcribe(clips: Sequence[Clip]) -> list[str]:
        return [
            " ".join(
                segment.text.strip()
                for segment in model.transcribe(
                    clip.audio,
                    language=clip.language,
                    greedy={"best_of": 1},
                    temperature=0.0,
                    temperature_inc=0.0,
                    no_timestamps=True,
                    no_context=True,
                )
            )
            for clip in clips
        ]

    return transcribe, {}


if __name__ == "__main__":
    serve(load)
