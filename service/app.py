"""Where the rooms meet: the registry's version becomes the engine behind the scheduler behind the routes.

The server is live at once and ready when the model is loaded and warm; without a model it stays live and says what
to run. Called by `service.__main__`, and by any ASGI server as a factory.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from fastapi import FastAPI

from registry import RegistryError
from service import openai_api, routes
from service.errors import add_exception_handlers
from service.jobs import api as jobs
from service.loading import CLIP_SAMPLES, Model, Untuned, load_model, warm_up
from service.lookup import reason
from service.metrics import Metrics
from service.request_log import RequestLog
from service.scheduler import Scheduler
from service.settings import Settings
from service.state import Loaded, NotReady
from service.transcribe import DECODE_THREADS
from service.tuning import tune_when_idle
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.tuning import Tuning

logger = logging.getLogger("whisperloop.service")


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
        app.state.jobs = jobs.make_runner(app, settings)
        working = app.state.jobs and asyncio.create_task(app.state.jobs.run(), name="job runner")
        yield
        if working is not None:
            working.cancel()  # what runs is given back, and goes on after the next start
            with suppress(asyncio.CancelledError):
                await working
            app.state.jobs.store.close()
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
    app.include_router(routes.router)
    app.include_router(openai_api.router)
    app.include_router(jobs.router)
    return app


async def _become_ready(app: FastAPI, settings: Settings, load: Callable[[Settings], Model]) -> None:
    try:
        # The model is nobody's but the scheduler's: a variable here would keep it in memory after it was replaced.
        untuned = _serve(app, settings, await asyncio.to_thread(_load_warm, settings, load))
    except RegistryError as error:
        app.state.model = NotReady(reason(settings, error))
        logger.error("not ready: %s", app.state.model.reason)
    except Exception:
        # Paths and library internals stay in the log.
        app.state.model = NotReady(f"{settings.model} could not be loaded; the service's log says why.")
        logger.exception("not ready: %s could not be loaded", settings.model)
    else:
        if untuned is not None:
            await _tune(app, untuned)


def _load_warm(settings: Settings, load: Callable[[Settings], Model]) -> Model:
    model = load(settings)
    warm_up(model.engine)
    return model


def _serve(app: FastAPI, settings: Settings, model: Model) -> Untuned | None:
    scheduler = Scheduler(
        model.engine,
        max_batch_size=settings.max_batch_size,
        max_queue_s=settings.max_queue_seconds,
        on_batch=app.state.metrics.batch,
    )
    app.state.model = Loaded(model.version, scheduler, model.engine.tokenizer.language_code)
    logger.info("ready: %s with %s", model.version.ref, model.version.engine)
    return model.untuned


async def _tune(app: FastAPI, untuned: Untuned) -> None:
    """Measure when idle, and go on with an engine that is run as measured best."""
    scheduler: Scheduler = app.state.model.scheduler
    context = scheduler.engine.context
    tuning = await tune_when_idle(scheduler, untuned.export, context.positions(CLIP_SAMPLES), untuned.cached)
    if tuning is None or tuning == Tuning():
        return
    try:
        engine = await asyncio.to_thread(CTranslate2Engine.load, untuned.export, context, tuning)
        await asyncio.to_thread(warm_up, engine)
    except Exception:
        logger.exception("the engine could not be loaded as tuned; the service goes on as it is")
        return
    scheduler.engine = engine
    version = app.state.model.version.model_copy(update={"engine": engine.description})
    app.state.model = Loaded(version, scheduler, engine.tokenizer.language_code)
