"""Where the rooms meet: the registry's version becomes the engine behind the scheduler behind the routes.

The server is live at once and ready when the model is loaded and warm; without a model it stays live and says what
to run. Called by `service.__main__`, and by any ASGI server as a factory.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware

from service import decoder, feedback, openai_api, registry_api, routes
from service.authorise import Authorise
from service.console.mount import Console, ConsoleRoute
from service.errors import ApiError, add_exception_handlers
from service.jobs import api as jobs
from service.keys import Keyring
from service.limits import Limits
from service.loading import load_model
from service.metrics import Metrics
from service.models import Load, Models
from service.request_log import RequestLog
from service.settings import Settings
from service.shadow import Shadow
from service.telemetry import add_telemetry, telemetry
from service.transcribe import DECODE_THREADS, OPEN_FILES
from service.upload import MAX_TEXT_BYTES, Buffered
from speech import vad

logger = logging.getLogger("whisperloop.service")

DESCRIPTION = """Audio in, transcripts out: any container and codec that FFmpeg decodes, of any length.

What was written for OpenAI's API runs against `/v1` here; `POST /transcribe` has all of it and more. Every answer that
is not a success is `{"error": {"message", "type", "param", "code", "request_id"}}`.
"""

BEARER = HTTPBearer(auto_error=False, description="An API key.")
"""For /docs to show and to send; `service.authorise` asks for it, of whatever has no route, too."""

EXPOSED_HEADERS = (
    *("Location", "Idempotent-Replayed", "Retry-After", "X-Request-ID", "X-Should-Retry", "OpenAI-Processing-Ms"),
    *("X-Whisperloop-Model", "X-Whisperloop-Warnings", "X-Whisperloop-Partial", "X-Whisperloop-Expected-Wait-Ms"),
    *(f"X-RateLimit-{what}-{of}" for what in ("Limit", "Remaining", "Reset") for of in ("Requests", "Audio-Seconds")),
)
"""What scripts of other origins may read of an answer; see WHISPERLOOP_CORS_ORIGINS."""


def _bound(app: FastAPI) -> None:
    """Say how much is decoded at once, of all requests; inside the loop that they are answered in."""
    app.state.decode_limiter = anyio.CapacityLimiter(DECODE_THREADS)
    app.state.open_files = asyncio.Semaphore(OPEN_FILES)
    app.state.correction_limiter = anyio.CapacityLimiter(1)


def create_app(settings: Settings | None = None, *, load: Load | None = None) -> FastAPI:
    """Make the application.

    Args:
        settings: None reads them from the environment.
        load: finds and loads the version that the settings name, on a thread; None loads it from the registry.

    Raises:
        KeysError: the settings name a file of keys that cannot be used.
    """
    settings = _looked_at(settings or Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _bound(app)
        app.state.jobs_ready = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(app.state.shadow.run())]

        def then() -> None:
            """Start what the first request needs, and would have kept the model waiting."""
            decoder.start()
            if settings.corrections:
                tasks.append(asyncio.create_task(asyncio.to_thread(feedback.prepare, app), name="corrections"))
            if settings.database:
                tasks.append(asyncio.create_task(_do_jobs(app, settings), name="job runner"))
            if console is not None:  # last, and on a thread: Gradio's import takes seconds
                tasks.append(asyncio.create_task(console.run(), name="console"))

        tasks.append(asyncio.create_task(app.state.models.watch(then)))
        yield
        for task in tasks:
            task.cancel()  # of the jobs, what runs is given back, and goes on after the next start
        await asyncio.gather(*tasks, return_exceptions=True)
        await app.state.models.close()
        await asyncio.to_thread(decoder.close_idle)
        if app.state.corrections is not None:
            app.state.corrections.close()
        if app.state.telemetry is not None:
            await asyncio.to_thread(app.state.telemetry.close)

    # Slashes are not redirected: the address would be made of the caller's Host header.
    app = FastAPI(
        title="Whisperloop",
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        # FastAPI's own spans and logs tell of queries and of what exceptions say; ours are `service.telemetry`'s.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        dependencies=[] if settings.keys is None else [Depends(BEARER)],
    )
    app.state.settings = settings
    app.state.corrections = None  # until they are asked for
    app.state.draining = False  # `service.server` knows
    app.state.metrics = Metrics()
    app.state.models = Models(settings, load or load_model, app.state.metrics)
    app.state.shadow = Shadow(app.state.models, app.state.metrics, settings)
    # However little is allowed, one upload of the largest size is.
    app.state.buffered = Buffered(max(settings.max_buffered_bytes, settings.max_upload_bytes + MAX_TEXT_BYTES))
    app.state.limits = Limits()
    # The last that is added sees a request first.
    if settings.keys is not None:
        app.add_middleware(Authorise, keyring=Keyring(settings.keys), limits=app.state.limits, console=settings.console)
    app.add_middleware(RequestLog)
    add_telemetry(app, telemetry())
    if settings.cors_origins:
        # Outermost: a browser's preflight has no key, and it lets nobody read an error without these headers.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    add_exception_handlers(app)
    app.include_router(routes.router, tags=["Whisperloop"])
    app.include_router(registry_api.router)  # before OpenAI's, whose /v1/models/{name} takes slashes
    app.include_router(openai_api.router, tags=["OpenAI's API"])
    app.include_router(jobs.router)
    app.include_router(feedback.router)
    console = Console(app) if settings.console else None
    if console is not None:
        app.router.routes.append(ConsoleRoute(console))
    return app


def _looked_at(settings: Settings) -> Settings:
    """Say what of the settings cannot be had here."""
    if settings.vad and not vad.is_available():
        logger.warning("Silero's voice detector is not installed: of noise and music, words may be made up")
    return settings


async def _do_jobs(app: FastAPI, settings: Settings) -> None:
    try:
        runner = await asyncio.to_thread(jobs.make_runner, app, settings)
    except Exception:
        logger.exception("there are no jobs: the database cannot be used")
        message = "The database of jobs cannot be used; the service's log says why."
        app.state.jobs_ready.set_exception(ApiError(503, "jobs_unavailable", message))
        return
    app.state.jobs_ready.set_result(runner)
    try:
        await runner.run()
    finally:
        runner.store.close()
