"""The files of a Hugging Face Space for a version that is on the Hub: app.py, requirements.txt, README.md, space.json.

It writes a folder; `registry.push_space` brings it to the Hub. The Space loads the model from its repository, at the
version's tag, so it shows this version until it is written anew.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCardData

from registry import Version
from speech.languages import LANGUAGES

APP = Path(__file__).parent / "app.py"
SDK = "gradio"
PACKAGES = ("torch", "torchaudio", "transformers", "numpy")
"""What app.py needs beside Gradio, which the Space's own setting brings; pinned to what this version was made with."""


def write_space(version: Version, model: str, folder: Path, *, title: str | None = None) -> list[str]:
    """Write a Space's files and return their names.

    Args:
        version: to be shown; only its name, id and languages are read.
        model: the Hub repository that holds it, as ``org/name``.
        folder: made if it is not there; files of the same names are replaced.
        title: of the page; from the model's name if not said.
    """
    title = title or f"{model.partition('/')[2]}: speech to text"
    folder.mkdir(parents=True, exist_ok=True)
    codes = sorted(_languages(version)) or list(LANGUAGES)
    about = {
        "model": model,
        "revision": version.id,
        "title": title,
        "languages": {code: LANGUAGES[code].title() for code in codes if code in LANGUAGES},
    }
    content = {
        "space.json": json.dumps(about, indent=2, ensure_ascii=False) + "\n",
        "requirements.txt": "".join(f"{name}=={_version_of(name)}\n" for name in PACKAGES),
        "README.md": _card(version, model, title),
    }
    for name, text in content.items():
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copyfile(APP, folder / APP.name)
    return sorted([*content, APP.name])


def _version_of(package: str) -> str:
    return importlib.metadata.version(package).partition("+")[0]  # +cu130 and the like are of another index


def _languages(version: Version) -> set[str]:
    """Return the languages that a version learned, as its data.json says."""
    path = version.path / "data.json"
    if not path.is_file():
        return set()

    def listed(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from inner if key == "languages" and isinstance(inner, list) else listed(inner)

    return set(listed(json.loads(path.read_text(encoding="utf-8"))))


def _card(version: Version, model: str, title: str) -> str:
    header = SpaceCardData(
        title=title,
        sdk=SDK,
        sdk_version=_version_of(SDK),
        python_version="3.11",
        app_file=APP.name,
        models=[model],
        tags=["whisper", "automatic-speech-recognition", "whisperloop"],
    )
    return f"""---
{header.to_yaml()}
---

# {title}

Transcribes with [{model}](https://huggingface.co/{model}) at its tag `{version.id}`.
Written by `python -m training space` of Whisperloop.

- If the model is private, give the Space a secret `HF_TOKEN` that may read it.
- A GPU is taken if there is one.
- Recordings are not kept by this application.
"""
