"""``python -m service bench``: what this machine can do with the served version, in less than a minute."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.command_line import DeviceOption, ModelOption, RegistryOption, load, read_settings, stop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from service.loading import Model
    from service.settings import Settings
    from service.speed import Speed

SMOKE_CLIP = Path("smoke", "clip.wav")
"""Of a version's folder."""


def bench(
    *,
    audio: Annotated[
        Path | None, typer.Option(help="Speech to measure with; the longer, the better. (the version's smoke clip)")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Its code: it, en-GB. (detected)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: ModelOption = None,
    registry: RegistryOption = None,
    device: DeviceOption = None,
) -> None:
    """Measure how fast this machine transcribes now: a clip alone, clips in a crowd, a long file, and the memory.

    The figures are of this machine, this version and this moment: whatever else runs takes its share.

    For example:

        python -m service bench --audio talk.wav
    """
    settings = read_settings(model=model, registry=registry, device=device)
    speech = None if audio is None else _read(audio)
    loaded = load(settings)
    if speech is None:
        from service.lookup import find_version

        clip = find_version(settings).path / SMOKE_CLIP
        if not clip.is_file():
            raise stop(f"{loaded.version.ref} brings no speech to measure with; name some of yours: --audio FILE")
        speech = _read(clip)
    from service.loading import warm_up
    from service.speed import measure
    from speech.transcribe import Options

    try:
        code = None if language is None else loaded.engine.tokenizer.language_code(language)
    except ValueError as error:
        raise stop(str(error)) from error
    warm_up(loaded.engine)
    speed = measure(loaded.engine, speech, Options(language=code, vad=settings.vad))
    facts = _facts(loaded, settings)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(facts | asdict(speed), indent=2, ensure_ascii=False))
    else:
        _show(facts, speed)


def _read(path: Path) -> "NDArray[np.float32]":
    from speech.audio import AudioError, decode_audio

    try:
        return decode_audio(path)
    except (AudioError, OSError) as error:
        raise stop(f"{path}: {error}") from error


def _facts(loaded: "Model", settings: "Settings") -> dict[str, Any]:
    """Return what was measured, on what, and how it ran."""
    import resource
    import sys
    from datetime import UTC, datetime

    from service.loading import CLIP_SAMPLES
    from speech.engine.tuning import Tuning, cache_file, processor, read_cached
    from speech.machine import cores

    engine = loaded.engine
    positions = engine.context.positions(CLIP_SAMPLES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": loaded.version.ref,
        "context": "elastic" if engine.context.elastic else "30 s",
        "engine": engine.description,
        "processor": processor(),
        "cores": cores(),
        "workers": engine.concurrency,
        "batch": engine.batch_size(positions),
        "peak_memory_mib": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
    }
    if engine.description.startswith("ctranslate2"):
        kept = read_cached(cache_file(settings.cache.expanduser(), loaded.version.manifest_sha256, positions))
        facts["threads"] = settings.threads or (kept or Tuning()).threads
        facts["tuned"] = "set" if settings.threads else "measured" if kept else "not yet: the service does, when idle"
    return facts


def _show(facts: dict[str, Any], speed: "Speed") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False, title=f"{facts['model']} on this machine, now")
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("processor", f"{facts['processor']}, {facts['cores']} cores")
    table.add_row("engine", f"{facts['engine']}, context {facts['context']}")
    if "threads" in facts:
        how = f"{facts['workers']} workers of {facts['threads']} threads, {facts['batch']} clips a batch"
        table.add_row("runs with", f"{how} ({facts['tuned']})")
    for seconds, latency_s in speed.latency_s.items():
        table.add_row(f"a clip of {seconds} s, alone", f"{latency_s:.3f} s")
    table.add_row(f"{speed.crowd_clips} clips of 3 s at once", f"{speed.crowd_speed:.1f} × real time")
    table.add_row(f"a file of {speed.long_s:g} s", f"{speed.long_speed:.1f} × real time")
    table.add_row("people who speak at once", f"about {speed.streams}, in clips of 3 s, with 30 % to spare")
    table.add_row("memory, at its peak", f"{facts['peak_memory_mib']} MiB")
    Console(markup=False, highlight=False).print(table)
