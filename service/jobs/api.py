"""Jobs over HTTP: hand audio in, ask how it goes, fetch what was said, have it forgotten.

A job is seen by the API key that made it, and by nobody else; without keys, by whoever knows its id.
"""

import asyncio
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.datastructures import FormData, UploadFile

from service.errors import ApiError
from service.forms import form_schema
from service.openai_form import TranscribeForm, options_of, read_transcribe
from service.request import loaded, usable
from service.routes import ERRORS, transcribe_files
from service.settings import Settings
from service.state import Loaded
from service.upload import open_form

if TYPE_CHECKING:  # the database's library is loaded when the model is
    from service.jobs.replay import Route
    from service.jobs.runner import JobRunner
    from service.jobs.store import StoredJob

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
POLL_AFTER_S = 2
FULL_RETRY_AFTER_S = 60


def _form_schema() -> dict[str, Any]:
    """Return the OpenAPI description of POST /transcribe's form, and `webhook`."""
    schema = form_schema(TranscribeForm)
    form = schema["requestBody"]["content"]["multipart/form-data"]["schema"]
    form["properties"]["webhook"] = {"type": "string", "description": "Who is told when the job is done."}
    return schema


router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class Webhook(BaseModel):
    """Who is told when a job is done."""

    url: str
    status: Literal["waiting", "pending", "delivered", "failed"] = Field(
        description="waiting for the job; pending: to be sent, again where error is not null."
    )
    attempts: int
    error: str | None = Field(description="Why the last attempt failed: a status, or the kind of the failure.")


class JobError(BaseModel):
    """Why a job failed, as POST /transcribe would have said it."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str


class Job(BaseModel):
    """One job. Times are seconds since 1970."""

    id: str
    object: Literal["job"] = "job"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    expires_at: int | None = Field(description="When all of it is forgotten; null until it is finished.")
    progress: float = Field(description="How much of the audio is decoded: 0 to 1.")
    audio_seconds: float | None = Field(description="Null until the audio is looked at.")
    position: int | None = Field(description="Jobs ahead of it; null when it is finished.")
    expected_wait_s: float | None = Field(
        description="Until it is done, if no requests came; null where it, or a job ahead, was not looked at yet."
    )
    result_url: str | None = Field(description="Where the answer is; null until it succeeded.")
    error: JobError | None
    webhook: Webhook | None


class JobList(BaseModel):
    """Some jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[Job]
    has_more: bool


def make_runner(app: FastAPI, settings: Settings, route: "Route" = transcribe_files) -> "JobRunner":
    """Return what does the jobs. Takes half a second, for the database's library."""
    from service.jobs.replay import replay
    from service.jobs.runner import JobRunner
    from service.jobs.store import JobStore
    from service.jobs.webhooks import parse_hosts, read_secret

    secret = settings.webhook_secret.get_secret_value()

    def charge(owner: str, audio_s: float) -> None:
        if owner and audio_s:
            app.state.metrics.key_audio(owner, audio_s)
            app.state.limits.charge(owner, audio_s)

    return JobRunner(
        JobStore(settings.database, max_jobs=settings.max_jobs, max_bytes=settings.max_job_bytes),
        lambda job, audio, on_admit: replay(app, route, job.short_id, audio, job.fields, on_admit),
        ttl_s=settings.job_ttl_hours * 3600,
        message=message,
        webhook_key=read_secret(secret) if secret else None,
        webhook_hosts=parse_hosts(settings.webhook_hosts),
        on_finished=app.state.metrics.job,
        charge=charge,
        wait_s=lambda owner: app.state.limits.wait_s(owner) if owner else 0.0,
    )


@router.post("", status_code=202, responses=ERRORS, openapi_extra=_form_schema())
async def create_job(request: Request) -> Response:
    """Hand in audio: the form of POST /transcribe, and `webhook`. With an Idempotency-Key, twice is once."""
    from service.jobs.store import FullError, ReusedKeyError

    runner = await _runner(request)
    if "x-deadline-ms" in request.headers:
        message = "A job has no deadline; use POST /transcribe, or cancel it when you need it no longer."
        raise ApiError(400, "unsupported_parameter", message, "X-Deadline-Ms")
    loaded(request)  # or there is no need to read the upload
    settings: Settings = request.app.state.settings
    key = _idempotency_key(request)
    async with open_form(request, settings.max_upload_bytes) as form:
        fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        webhook = _webhook(settings, [value for name, value in fields if name == "webhook"])
        fields = [(name, value) for name, value in fields if name != "webhook"]
        # A file of that name is refused as any other that is not asked for.
        rest = FormData(
            [item for item in form.multi_items() if item[0] != "webhook" or isinstance(item[1], UploadFile)]
        )
        file = _check(request, rest)
        audio = await file.read()
        try:
            job, is_new = await asyncio.to_thread(
                runner.store.submit,
                audio,
                fields,
                time.time(),
                owner=_owner(request),
                webhook=webhook,
                idempotency_key=key,
            )
        except FullError:
            message = (
                "There are too many jobs already, or too large ones; try again when some are done, or delete yours."
            )
            raise ApiError(503, "overloaded", message, headers={"Retry-After": str(FULL_RETRY_AFTER_S)}) from None
        except ReusedKeyError:
            message = "This Idempotency-Key came before, with another upload."
            raise ApiError(422, "idempotency_key_reused", message, "Idempotency-Key") from None
    runner.wake()
    headers = {"Location": f"/v1/jobs/{job.id}", "Retry-After": str(POLL_AFTER_S)}
    if not is_new:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse((await _shown(request, runner, job)).model_dump(), 202, headers)


@router.get("", responses=ERRORS)
async def list_jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last job of the page before.")] = None,
) -> JobList:
    """List the jobs of the caller's API key, the newest first."""
    runner = await _runner(request)
    if not _owner(request):
        message = "Jobs are listed for an API key; without one, whoever knows a job's id sees it, and nobody else."
        raise ApiError(403, "key_required", message)
    jobs = await asyncio.to_thread(runner.store.list, _owner(request), time.time(), limit=limit + 1, before=after)
    data = [await _shown(request, runner, job) for job in jobs[:limit]]
    return JobList(data=data, has_more=len(jobs) > limit)


@router.get("/{job_id}", responses=ERRORS)
async def get_job(request: Request, job_id: str) -> Job:
    """Tell how a job goes."""
    runner = await _runner(request)
    return await _shown(request, runner, await _found(request, runner, job_id))


@router.get("/{job_id}/result", responses=ERRORS)
async def get_result(request: Request, job_id: str) -> Response:
    """Answer as POST /transcribe would have, in the format that was asked for."""
    runner = await _runner(request)
    job = await _found(request, runner, job_id)
    result = await asyncio.to_thread(runner.store.result, job_id)
    if result is None:
        raise _no_result(job)
    headers = dict(result.headers)
    if result.media_type is not None:
        headers["Content-Type"] = result.media_type
    return Response(result.body, headers=headers)


@router.post("/{job_id}/cancel", responses=ERRORS)
async def cancel_job(request: Request, job_id: str) -> Job:
    """End a job: its audio is forgotten at once. What is finished stays as it is."""
    runner = await _runner(request)
    await _found(request, runner, job_id)
    if await asyncio.to_thread(runner.store.cancel, job_id, time.time(), runner.ttl_s):
        request.app.state.metrics.job("cancelled")
        runner.stop(job_id)
        runner.wake()
    return await _shown(request, runner, await _found(request, runner, job_id))


@router.delete("/{job_id}", status_code=204, responses=ERRORS)
async def delete_job(request: Request, job_id: str) -> Response:
    """Forget a job, its audio and its result, at once; nobody is told."""
    runner = await _runner(request)
    await _found(request, runner, job_id)
    await asyncio.to_thread(runner.store.delete, job_id)
    runner.stop(job_id)
    return Response(status_code=204)


def message(job: "StoredJob") -> dict[str, Any]:
    """Return what a webhook is told: the job, and no word of what was said."""
    return {
        "type": f"job.{job.status}",
        "timestamp": datetime.fromtimestamp(job.finished_at or job.created_at, UTC).isoformat(),
        "data": _job(job).model_dump(exclude={"webhook"}),
    }


async def _runner(request: Request) -> "JobRunner":
    if not request.app.state.settings.database:
        message = "There are no jobs here; the operator would have to set WHISPERLOOP_DATABASE."
        raise ApiError(404, "jobs_disabled", message)
    usable(request.app.state.models.main)  # what does the jobs comes after the model
    runner: JobRunner = await asyncio.shield(request.app.state.jobs_ready)
    return runner


def _owner(request: Request) -> str:
    return str(request.state.facts.get("key") or "")


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        wanted = "The header Idempotency-Key: 1 to 255 visible ASCII characters."
        raise ApiError(400, "invalid_request", wanted, "Idempotency-Key")
    return key


def _webhook(settings: Settings, given: list[str]) -> str | None:
    given = [url for url in given if url]
    if not given:
        return None
    from service.jobs.webhooks import WebhookError, check_url, parse_hosts

    try:
        if len(given) > 1:
            raise WebhookError("The form field 'webhook' is there more than once.")
        check_url(given[0], parse_hosts(settings.webhook_hosts))
        if not settings.webhook_secret.get_secret_value():
            raise WebhookError(
                "webhook: messages are signed; the operator would have to set WHISPERLOOP_WEBHOOK_SECRET."
            )
    except WebhookError as error:
        raise ApiError(400, "invalid_webhook", str(error), "webhook") from None
    return given[0]


def _check(request: Request, form: FormData) -> UploadFile:
    """Return the file of a form that POST /transcribe will take; better refused now than when nobody looks."""
    settings: Settings = request.app.state.settings
    asked = read_transcribe(form, strict=settings.strict)
    options_of(asked, loaded(request, asked.form.model or None), settings, task="transcribe")
    if asked.stream:
        raise ApiError(400, "invalid_value", "stream: a job's answer is there when it is done.", "stream")
    files = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
    if len(files) > 1:
        raise ApiError(400, "invalid_request", "Send one file a job.", "file")
    if not files[0].size:
        raise ApiError(400, "empty_audio", "The audio is empty (0 bytes).", "file")
    return files[0]


async def _found(request: Request, runner: "JobRunner", job_id: str) -> "StoredJob":
    job = await asyncio.to_thread(runner.store.get, job_id, _owner(request), time.time())
    if job is None:
        raise ApiError(404, "job_not_found", "There is no such job; it may have expired, or belong to another key.")
    return job


def _no_result(job: "StoredJob") -> ApiError:
    if not job.is_finished:
        message = f"The job is {job.status}; ask again later."
        return ApiError(409, "job_not_finished", message, headers={"Retry-After": str(POLL_AFTER_S)})
    message = "The job failed; its error says why." if job.status == "failed" else "The job was cancelled."
    return ApiError(409, f"job_{job.status}", message, headers={"X-Should-Retry": "false"})


async def _shown(request: Request, runner: "JobRunner", job: "StoredJob") -> Job:
    shown = _job(job)
    if job.is_finished:
        return shown
    running = runner.running.get(job.id)
    place = await asyncio.to_thread(runner.store.place, job)
    model = request.app.state.models.main
    speed = model.scheduler.speed if isinstance(model, Loaded) else None
    wait_s = None if place.seconds is None or speed is None else round(place.seconds / speed, 1)
    live = {} if running is None else {"progress": running.progress, "audio_seconds": running.audio_seconds}
    return shown.model_copy(update={**live, "position": place.ahead, "expected_wait_s": wait_s})


def _job(job: "StoredJob") -> Job:
    return Job.model_validate(
        {
            "id": job.id,
            "status": job.status,
            "created_at": int(job.created_at),
            "started_at": None if job.started_at is None else int(job.started_at),
            "finished_at": None if job.finished_at is None else int(job.finished_at),
            "expires_at": None if job.expires_at is None else int(job.expires_at),
            "progress": job.progress,
            "audio_seconds": job.audio_seconds,
            "position": None,
            "expected_wait_s": None,
            "result_url": f"/v1/jobs/{job.id}/result" if job.status == "succeeded" else None,
            "error": job.error,
            "webhook": job.webhook
            and {
                "url": job.webhook,
                "status": job.webhook_status,
                "attempts": job.webhook_attempts,
                "error": job.webhook_error,
            },
        }
    )
