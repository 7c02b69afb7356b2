"""From a version to an engine that is loaded, warm and tried.

No HTTP here, and nothing that imports it: the command line loads the model while the web framework is still being
imported.
"""

import contextlib
import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import registry
from service.lookup import EXPORT, find_version
from service.schemas import Context, Version
from service.settings import Settings
from speech.audio import SAMPLE_RATE
from speech.context import ElasticContext
from speech.device import takes_gpu
from speech.engine import Engine, EngineError, Window, load_engine
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.tuning import Tuning, cache_file, read_cached
from speech.smoke import SMOKE, SmokeClip, read_smoke_clip

CLIP_SAMPLES = 3 * SAMPLE_RATE  # what the engine is tuned for


@dataclass(frozen=True)
class Untuned:
    """A CPU engine of which nobody has measured yet how it is best run on this machine."""

    export: Path  # the version's CTranslate2 folder
    cached: Path  # where the answer belongs


@dataclass(frozen=True)
class Model:
    """An engine, and the version that it was loaded from."""

    engine: Engine
    version: Version
    untuned: Untuned | None = None
    smoke: SmokeClip | None = None  # to try it on


def load_model(settings: Settings, version: registry.Version | None = None) -> Model:
    """Load the version that the settings name.

    Verified before are the files that are loaded: on a CPU the export, not the checkpoint beside it.

    Args:
        settings: say where to compute.
        version: as `find_version` found it; None looks for it.

    Raises:
        RegistryError: there is none, or its bytes are not those that were published; none of them was parsed then.
    """
    version = version or find_version(settings)
    on_gpu = takes_gpu(settings.device)
    if on_gpu:
        registry.Registry(settings.registry).verify(version)
    context = ElasticContext.from_manifest(version.manifest.context)
    cached = cache_file(_cache(settings), version.manifest_sha256(), context.positions(CLIP_SAMPLES))
    tuning = Tuning(threads=settings.threads, workers=1) if settings.threads else read_cached(cached)
    if not on_gpu:
        registry.Registry(settings.registry).verify(version, under=SMOKE)
    engine = load_engine(version.path, context, device=settings.device, tuning=tuning)
    return Model(
        engine,
        Version(
            name=version.name,
            version=version.id,
            ref=version.ref,
            manifest_sha256=version.manifest_sha256(),
            base=version.manifest.base,
            parent=version.manifest.parent,
            engine=engine.description,
            context=Context(elastic=context.elastic, margin=context.margin),
            loaded_at=datetime.now(UTC),
        ),
        None if on_gpu or tuning is not None else Untuned(version.path / EXPORT, cached),
        read_smoke_clip(version.path),
    )


def _cache(settings: Settings) -> Path:
    try:
        return settings.cache.expanduser()
    except RuntimeError:  # nobody's home, as in some containers
        return Path(tempfile.gettempdir()) / "whisperloop"


def load_tuned(untuned: Untuned, context: ElasticContext, tuning: Tuning) -> Engine:
    """Load once more what is served, to be run as measured best; warm."""
    engine = CTranslate2Engine.load(untuned.export, context, tuning)
    warm_up(engine)
    return engine


def try_out(model: Model) -> None:
    """Decode a model's smoke clip, or a little noise if it has none: the first request then pays for nothing.

    Raises:
        EngineError: something cannot be decoded.
        SmokeError: the clip's words are not what they should be.
    """
    if model.smoke is None:
        warm_up(model.engine)
    else:
        model.smoke.check(model.engine)


def step_back() -> None:
    """Let this thread, and those that it starts, compute only where others leave the processor idle (on Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def warm_up(engine: Engine) -> None:
    """Decode a little noise: the first request pays for nothing, and a broken model never is ready.

    Raises:
        EngineError: it cannot be decoded.
    """
    noise = np.random.default_rng(0).normal(scale=0.1, size=SAMPLE_RATE // 5).astype(np.float32)
    for result in engine.transcribe([Window(noise)]):
        if isinstance(result, EngineError):
            raise result
