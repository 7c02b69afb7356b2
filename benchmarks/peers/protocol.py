"""How a contender's process is spoken to: one JSON object a line, on standard input and output.

It waits in a blocking read, so that an idle contender takes nothing from the one that is being measured. Audio is
loaded before the clock starts. Needs numpy only, for each contender lives in an environment of its own.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Answer = dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """What is to be transcribed."""

    audio: NDArray[np.float32] | str  # 16 kHz mono samples, or the path of a file that the contender reads itself
    language: str | None


Transcribe = Callable[[Sequence[Clip]], list[str]]
Load = Callable[[Mapping[str, Any]], tuple[Transcribe, Mapping[str, Callable[[Mapping[str, Any]], Answer]]]]
"""Options to the function that transcribes, and to further commands by name."""


def serve(load: Load) -> None:
    """Answer requests until standard input ends.

    Requests are `{"do": "load", ...}`, `{"do": "transcribe", "clips": [[path, language]], "one_by_one": false}`,
    `{"do": "memory"}` and the contender's own; answers are JSON objects, `{"error": ...}` if something went wrong.
    A path that ends in .npy is loaded before the clock starts; any other is given to the contender as it is.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    transcribe: Transcribe | None = None
    commands: Mapping[str, Callable[[Mapping[str, Any]], Answer]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                transcribe, commands = load(request)
                answer: Answer = {}
            elif request["do"] == "memory":
                answer = {"peak_bytes": _peak_bytes()}
            elif request["do"] == "transcribe":
                assert transcribe is not None  # noqa: S101 - the runner loads first
                answer = _transcribe(transcribe, request)
            else:
                answer = commands[request["do"]](request)
        except Exception as error:  # noqa: BLE001 - the runner is told, whatever it is
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer, ensure_ascii=False) + "\n")
        answers.flush()


def _transcribe(transcribe: Transcribe, request: Mapping[str, Any]) -> Answer:
    clips = [Clip(np.load(path) if path.endswith(".npy") else path, language) for path, language in request["clips"]]
    each, texts = [], []
    for part in [[clip] for clip in clips] if request.get("one_by_one") else [clips]:
        started = time.perf_counter()
        texts += transcribe(part)
        each.append(time.perf_counter() - started)
    return {"seconds": sum(each), "each": each, "texts": texts}


def _peak_bytes() -> int:
    """Return the most memory that this process ever held (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
