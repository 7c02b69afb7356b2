"""Our own engine as a contender, and what is measured inside it: the encoder alone, the share of the frontend."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.protocol import Answer, Clip, Transcribe, serve
from speech.audio import decode_audio
from speech.context import FRAMES_PER_POSITION, ElasticContext
from speech.engine import Engine, Window, load_engine
from speech.engine.tuning import Tuning, load_whisper
from speech.transcribe import Options, transcribe_many
from speech.vad import listen
from speech.windows import cut


def load(options: Mapping[str, Any]) -> tuple[Transcribe, Mapping[str, Callable[[Mapping[str, Any]], Answer]]]:
    """Load the engine with its defaults, or with the `tuning` that is given."""
    version = Path(options["version"])
    tuning = None if options.get("tuning") is None else Tuning(**options["tuning"])
    engine = load_engine(version, ElasticContext.from_manifest(options["context"]), device="cpu", tuning=tuning)

    def transcribe(clips: Sequence[Clip]) -> list[str]:
        audios = [np.asarray(clip.audio) for clip in clips]
        return [
            said.text for said in transcribe_many(engine, audios, [Options(language=clip.language) for clip in clips])
        ]

    return transcribe, {
        "encode": lambda request: _encode(
            version / "ctranslate2", request["positions"], request["n_mels"], request["threads"]
        ),
        "frontend": lambda request: _frontend(engine, request["files"]),
    }


def _encode(folder: Path, positions: Sequence[int], n_mels: int, threads: int) -> Answer:
    """Return the encoder's seconds at each number of positions, through CTranslate2 itself."""
    import ctranslate2

    model = load_whisper(folder, Tuning(workers=1, threads=threads))
    generator = np.random.default_rng(0)
    seconds = []
    for n in positions:
        mel = generator.uniform(-1, 1, (1, n_mels, n * FRAMES_PER_POSITION)).astype(np.float32)
        features = ctranslate2.StorageView.from_array(mel)
        started = time.perf_counter()
        model.encode(features)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def _frontend(engine: Engine, files: Sequence[Sequence[str]]) -> Answer:
    """Return the seconds of decoding and resampling, of the features, and of the model, for each (path, language)."""
    rows = []
    for path, language in files:
        encoded = Path(path).read_bytes()
        start = time.perf_counter()
        audio = decode_audio(encoded)
        with listen() as detector:
            places = cut(audio, elastic=engine.context.elastic, detector=detector)
        windows = [Window(audio[place.start : place.end], language) for place in places]
        decoded = time.perf_counter()
        windows = [engine.prepare(window) for window in windows]
        prepared = time.perf_counter()
        engine.transcribe(windows)
        rows.append([decoded - start, prepared - decoded, time.perf_counter() - prepared])
    return {"rows": rows}


if __name__ == "__main__":
    serve(load)
