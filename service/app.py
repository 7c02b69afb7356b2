"""Where the rooms meet: the registry's version becomes the engine behind the scheduler behind the routes.

The server is live at once and ready when the model is loaded and warm; without a model it stays live and says what
to run. Called by `service.__main__`, and by any ASGI server as a factory.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import numpy as np
from fastapi import FastAPI

from registry import DamagedVersionError, NotFoundError, Registry, RegistryError
from service.errors import add_exception_handlers
from service.metrics import Metrics
from service.request_log import RequestLog
from service.routes import router
from service.scheduler import Scheduler
from service.schemas import Context, Version
from service.settings import Settings
from service.state import Loaded, NotReady
from service.transcribe import DECODE_THREADS
from service.tuning import tune_when_idle
from speech.audio import SAMPLE_RATE
from speech.context import ElasticContext
from speech.engine import Engine, EngineError, Window, load_engine
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.tuning import Tuning, cache_file, read_cached

logger = logging.getLogger("whisperloop.service")

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


def create_app(settings: Settings | None = None, *, load: Callable[[Settings], Model] | None = None) -> FastAPI:
    """Make the application.

    Args:
        settings: None reads them from the environment.
        load: finds and loads the model, on a thread; None loads it from the registry.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.decode_limiter = anyio.CapacityLimiter(DECODE_THREADS)
        loading = asyncio.create_task(_become_ready(app, settings, load or load_model))
        yield
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        if isinstance(app.state.model, Loaded):
            await app.state.model.scheduler.close()

    # Slashes are not redirected: the address would be made of the caller's Host header.
    app = FastAPI(title="Whisperloop", lifespan=lifespan, redoc_url=None, redirect_slashes=False)
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.model = NotReady(f"{settings.model} is being loaded; try again in a few seconds.")
    app.add_middleware(RequestLog)
    add_exception_handlers(app)
    app.include_router(router)
    return app


def load_model(settings: Settings) -> Model:
    """Resolve, verify and load the version that the settings name.

    Raises:
        RegistryError: there is none, or its bytes are not those that were published; none of them was parsed then.
    """
    registry = Registry(settings.registry)
    version = registry.resolve(settings.model)
    registry.verify(version)
    context = ElasticContext.from_manifest(version.manifest.context)
    cached = cache_file(settings.cache.expanduser(), version.manifest_sha256(), context.positions(CLIP_SAMPLES))
    tuning = Tuning(threads=settings.threads, workers=1) if settings.threads else read_cached(cached)
    engine = load_engine(version.path, context, device=settings.device, tuning=tuning)
    on_cpu = isinstance(engine, CTranslate2Engine)
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
        Untuned(version.path / "ctranslate2", cached) if on_cpu and tuning is None else None,
    )


async def _become_ready(app: FastAPI, settings: Settings, load: Callable[[Settings], Model]) -> None:
    try:
        model = await asyncio.to_thread(_load_warm, settings, load)
    except RegistryError as error:
        app.state.model = NotReady(_reason(settings, error))
        logger.error("not ready: %s", app.state.model.reason)
    except Exception:
        # Paths and library internals stay in the log.
        app.state.model = NotReady(f"{settings.model} could not be loaded; the service's log says why.")
        logger.exception("not ready: %s could not be loaded", settings.model)
    else:
        scheduler = Scheduler(
            model.engine,
            max_batch_size=settings.max_batch_size,
            max_queue_s=settings.max_queue_seconds,
            on_batch=app.state.metrics.batch,
        )
        app.state.model = Loaded(model.version, scheduler, model.engine.tokenizer.language_code)
        logger.info("ready: %s with %s", model.version.ref, model.version.engine)
        if model.untuned is not None:
            await _tune(app, model, model.untuned)


async def _tune(app: FastAPI, model: Model, untuned: Untuned) -> None:
    """Measure when idle, and go on with an engine that is run as measured best."""
    scheduler: Scheduler = app.state.model.scheduler
    positions = model.engine.context.positions(CLIP_SAMPLES)
    tuning = await tune_when_idle(scheduler, untuned.export, positions, untuned.cached)
    if tuning is None or tuning == Tuning():
        return
    try:
        engine = await asyncio.to_thread(CTranslate2Engine.load, untuned.export, model.engine.context, tuning)
        await asyncio.to_thread(_warm_up, engine)
    except Exception:
        logger.exception("the engine could not be loaded as tuned; the service goes on as it is")
        return
    scheduler.engine = engine
    version = model.version.model_copy(update={"engine": engine.description})
    app.state.model = replace(app.state.model, version=version)


def _load_warm(settings: Settings, load: Callable[[Settings], Model]) -> Model:
    """Load, and decode a second of noise: the first request pays for nothing, and a broken model never is ready."""
    model = load(settings)
    _warm_up(model.engine)
    return model


def _warm_up(engine: Engine) -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=SAMPLE_RATE).astype(np.float32)
    for result in engine.transcribe([Window(noise)]):
        if isinstance(result, EngineError):
            raise result


def _reason(settings: Settings, error: RegistryError) -> str:
    name = settings.model.partition("@")[0]
    if isinstance(error, NotFoundError):
        return (
            f"There is no {settings.model} to serve ({error}). Make one with `make demo`, or import one with "
            f"`python -m registry import <folder or hub:org/name> --name {name} --alias production`; "
            "then restart the service."
        )
    if isinstance(error, DamagedVersionError):
        return (
            f"{error}. It is not loaded. Publish it again, or go back: "
            f"`python -m registry rollback {name} --reason damaged`."
        )
    return f"{settings.model} cannot be served: {error}"
