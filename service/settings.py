"""What can be set, by environment variables that start with `WHISPERLOOP_` (`WHISPERLOOP_PORT=9000`)."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from speech.device import Device


class Settings(BaseSettings):
    """The service's settings; the command line's options go before the environment."""

    model_config = SettingsConfigDict(env_prefix="WHISPERLOOP_", frozen=True)

    registry: Path = Field(default=Path("runs/registry"), description="The registry's folder.")
    model: str = Field(
        default="whisper@production",
        description="The version to serve: name@alias, name@id or hub:org/name@revision, which is imported first.",
    )
    device: Device = Field(default="auto", description="Where to compute: auto takes a GPU if there is a usable one.")
    threads: int = Field(default=0, ge=0, le=256, description="Threads of the CPU engine; 0 for what measures best.")
    cache: Path = Field(
        default=Path("~/.cache/whisperloop"),
        description="Where it is kept how the CPU engine is best run on this machine.",
    )

    watch_seconds: float = Field(
        default=2.0, ge=0, description="How often to look whether an alias that is served has moved; 0 for never."
    )
    canary_share: float = Field(
        default=0.1, ge=0, le=1, description="The share of requests for the alias canary, if there is one; 0 for none."
    )
    shadow_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The share of requests that the alias shadow transcribes, too, once they are answered; 0 for none.",
    )
    also: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Versions to serve by name beside the model, separated by commas: aliases, name@alias, name@id.",
    )

    host: str = Field(default="127.0.0.1", description="The address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8000, ge=0, le=65_535, description="The port to listen on; 0 for any that is free.")

    keys: Path | None = Field(
        default=None,
        description="The file of API keys that `python -m service keys` keeps; none: whoever reaches it may ask.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins whose pages may use the service, separated by commas (https://app.example); * for all.",
    )

    max_upload_bytes: int = Field(default=100_000_000, gt=0, description="The largest file that is accepted, encoded.")
    max_buffered_bytes: int = Field(
        default=1_000_000_000,
        gt=0,
        description="The uploads of all requests that are in memory together; beyond it, new ones are refused (503).",
    )
    upload_timeout_s: float = Field(
        default=30,
        gt=0,
        description="Seconds after which an upload of less than 1 KiB a second is given up (408).",
    )
    max_audio_seconds: float = Field(default=4 * 3600, gt=0, description="The longest audio that is accepted, decoded.")
    max_queue_seconds: float = Field(
        default=3600,
        ge=0,
        description="A request that would be done only after more seconds of other requests' audio is refused (503).",
    )
    max_batch_size: int | None = Field(
        default=None, gt=0, description="Windows that are decoded together at most; none for what measures best."
    )
    strict: bool = Field(
        default=False,
        description="Refuse fields that have no effect here, and files that are damaged or cut off, rather than warn.",
    )
    vad: bool = Field(
        default=True, description="Look for speech with Silero's voice detector; false leaves out silence only."
    )
    database: str = Field(
        default="sqlite:///runs/service.db",
        description="Where jobs are kept until they are done and fetched (SQLAlchemy's URL); empty: no jobs.",
    )
    corrections: str = Field(
        default="",
        description="Where corrections are kept to be learned from (sqlite:///file, postgresql://…); empty: nowhere.",
    )
    job_ttl_hours: float = Field(default=24, gt=0, description="Hours that a job's result is kept.")
    max_jobs: int = Field(default=100, gt=0, description="Jobs that are not done, at most; beyond, 503.")
    max_job_bytes: int = Field(
        default=2_000_000_000, gt=0, description="Bytes of jobs' audio and results that are kept at most; beyond, 503."
    )
    webhook_hosts: str = Field(
        default="",
        description="Hosts that jobs may tell when they are done, with commas: host, host:port, http://host; none.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""), description="What messages are signed with: whsec_ and base64 of 24 to 64 bytes."
    )
    console: bool = Field(default=True, description="A page for people at /, if Gradio is installed; false for none.")
    console_votes: Path | None = Field(
        default=None,
        description="The file that votes of blind comparisons are appended to (JSONL); none: only counted.",
    )
    console_reports: Path = Field(
        default=Path("runs/retrain"), description="Where retraining leaves its reports, which the console shows."
    )
    drain_s: float = Field(
        default=0,
        ge=0,
        description="Seconds that requests are still accepted after the signal to stop, when readiness is 503 already.",
    )
    shutdown_grace_s: int = Field(
        default=30, ge=0, description="Seconds that running requests get to finish when the service is stopped."
    )

    @field_validator("also", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("keys", "console_votes", mode="before")
    @classmethod
    def _may_be_empty(cls, value: object) -> object:
        return value or None  # as Compose passes on what is not set

    @field_validator("database")
    @classmethod
    def _is_a_database(cls, url: str) -> str:
        if url:
            from sqlalchemy import make_url
            from sqlalchemy.exc import ArgumentError

            try:
                parsed = make_url(url)
                parsed.get_dialect()
            except ArgumentError as error:
                raise ValueError(f"not a database: {error}; for example sqlite:///runs/service.db") from error
            if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
                raise ValueError("name a file, as in sqlite:///runs/service.db: jobs are to survive a restart")
        return url

    @field_validator("corrections")
    @classmethod
    def _keeps_corrections(cls, url: str) -> str:
        if url:
            from corrections import CorrectionsError, CorrectionStore

            try:
                CorrectionStore(url).close()
            except CorrectionsError as error:
                raise ValueError(str(error)) from error
        return url

    @field_validator("webhook_hosts")
    @classmethod
    def _are_hosts(cls, hosts: str) -> str:
        from service.jobs.webhooks import parse_hosts

        parse_hosts(hosts)
        return hosts

    @field_validator("webhook_secret")
    @classmethod
    def _is_a_secret(cls, secret: SecretStr) -> SecretStr:
        from service.jobs.webhooks import read_secret

        if secret.get_secret_value():
            read_secret(secret.get_secret_value())
        return secret


def is_loopback(host: str) -> bool:
    """Say whether an address, or a name, is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
