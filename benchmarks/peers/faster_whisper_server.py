"""faster-whisper behind HTTP as tutorials put it there: a plain FastAPI handler on the thread pool, one model."""

import argparse
from typing import Annotated, BinaryIO

import uvicorn
from fastapi import FastAPI, File, Form, UploadFile
from faster_whisper import WhisperModel

from benchmarks.peers.faster_whisper import GREEDY


def create_app(folder: str, threads: int) -> FastAPI:
    """Load the model and make the application."""
    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads, num_workers=1)
    app = FastAPI()

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/transcribe")
    def transcribe(
        file: Annotated[UploadFile, File()], language: Annotated[str | None, Form()] = None
    ) -> dict[str, str]:
        audio: BinaryIO = file.file
        segments, _ = model.transcribe(audio, language=language, **GREEDY)
        return {"text": " ".join(segment.text.strip() for segment in segments)}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(create_app(given.model, given.threads), port=given.port, log_level="warning")
