"""A Hugging Face Space that transcribes with one model of the Hub; `python -m training space` writes it as app.py.

It stands alone: transformers and Gradio, no other file than space.json beside it, which names the model. It pays for
30 seconds a clip; the service of Whisperloop does not.
"""

import json
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from transformers import pipeline

SPACE = json.loads((Path(__file__).parent / "space.json").read_text(encoding="utf-8"))
DETECT = "detect"
MAX_SECONDS = 30 * 60
WINDOW_SECONDS = 30.0

ON_GPU = torch.cuda.is_available()
RECOGNISER = pipeline(
    "automatic-speech-recognition",
    model=SPACE["model"],
    revision=SPACE["revision"],
    dtype=torch.bfloat16 if ON_GPU else torch.float32,
    device=0 if ON_GPU else -1,
)


def transcribe(audio: tuple[int, Any] | None, language: str, task: str) -> str:
    """Return what is said in a recording.

    Args:
        audio: samples a second, and samples, of shape (n,) or (n, channels), as Gradio gives them.
        language: a code of Whisper's, or `DETECT`.
        task: transcribe, or translate into English.
    """
    if audio is None:
        raise gr.Error("Record something, or choose a file, first.")
    rate, samples = audio
    if len(samples) > MAX_SECONDS * rate:
        raise gr.Error(f"This recording is longer than {MAX_SECONDS // 60} minutes.")
    samples = np.asarray(samples)
    scale = np.iinfo(samples.dtype).max if np.issubdtype(samples.dtype, np.integer) else 1.0
    mono = (samples.astype(np.float32) / scale).reshape(len(samples), -1).mean(axis=1)
    if mono.size == 0 or not np.abs(mono).max() > 0:
        return ""  # a model that hears nothing makes something up
    generate = {"task": task} | ({} if language == DETECT else {"language": language})
    is_long = mono.size > WINDOW_SECONDS * rate  # windows are cut where a timestamp is
    heard = RECOGNISER({"raw": mono, "sampling_rate": rate}, return_timestamps=is_long, generate_kwargs=generate)
    return str(heard["text"]).strip()


def page() -> gr.Blocks:
    """Return the page."""
    languages = [("detect it", DETECT), *((name, code) for code, name in SPACE["languages"].items())]
    with gr.Blocks(title=SPACE["title"]) as blocks:
        gr.Markdown(
            f"# {SPACE['title']}\n\n[{SPACE['model']}](https://huggingface.co/{SPACE['model']}), {SPACE['revision']}"
        )
        audio = gr.Audio(sources=["microphone", "upload"], type="numpy", label="Speech")
        with gr.Row():
            language = gr.Dropdown(
                languages, value=languages[-1][1] if len(languages) == 2 else DETECT, label="Language"
            )
            task = gr.Radio(["transcribe", "translate"], value="transcribe", label="Task")
        text = gr.Textbox(label="Transcript", lines=5, buttons=["copy"])
        gr.Button("Transcribe", variant="primary").click(
            transcribe, [audio, language, task], text, api_name="transcribe", concurrency_limit=1
        )
    return blocks


if __name__ == "__main__":
    page().launch()
