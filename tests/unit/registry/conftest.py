"""Tiny made-up models: the registry moves bytes, so any bytes will do."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import Registry, Version

CONTEXT = {"elastic": True, "margin": 50}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fsync only check its handle: its calls are what the tests look at, and they stay."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry(tmp_path / "registry")


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder that looks like a model; another text makes another content."""

    def make(text: str = "first") -> Path:
        folder = tmp_path / f"source-{text}"
        if not folder.exists():
            (folder / "ctranslate2").mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            (folder / "model.safetensors").write_bytes(text.encode() * 100)
            (folder / "ctranslate2" / "model.bin").write_bytes(b"\x00" * 300 + text.encode())
        return folder

    return make


@pytest.fixture
def publish(registry: Registry, make_source: Callable[..., Path]) -> Callable[..., Version]:
    """Publish a made-up model under a name."""

    def publish_text(text: str = "first", name: str = "tiny") -> Version:
        return registry.publish(name, make_source(text), context=CONTEXT)

    return publish_text
