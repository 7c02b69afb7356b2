"""Telling another server that a job is done: to hosts that the operator allowed, signed, and again if it was not heard.

Messages are signed as Standard Webhooks 1.0.0 has it (https://www.standardwebhooks.com), so its libraries verify them.
An allowed host is trusted as such: what address its name leads to is the operator's business, and is not looked at.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

RETRY_AFTER_S = (5.0, 60.0, 300.0, 1800.0)
"""Between the attempts, of which there is one more."""

TIMEOUT_S = 15.0
GONE = 410  # whoever answers so wants no more, says Standard Webhooks

DEFAULT_PORTS = {"https": 443, "http": 80}
SECRET_PREFIX = "whsec_"  # noqa: S105 - it is the same for everybody
SECRET_BYTES = range(24, 65)


class WebhookError(ValueError):
    """A webhook's address or secret cannot be used; the message says why."""


@dataclass(frozen=True)
class Origin:
    """Where messages may go."""

    scheme: str
    host: str
    port: int


def parse_hosts(hosts: str) -> frozenset[Origin]:
    """Read a list of allowed hosts, with commas: `host`, `host:port`, and `http://host` where no TLS is spoken.

    Raises:
        WebhookError: one of them is none.
    """
    written = [host.strip() for host in hosts.split(",") if host.strip()]
    return frozenset(_origin(host if "://" in host else f"https://{host}", exact=True) for host in written)


def check_url(url: str, allowed: frozenset[Origin]) -> None:
    """Check where a message is to go.

    Raises:
        WebhookError: it is not an address, or not an allowed one.
    """
    if len(url) > 2000 or not url.isascii() or any(letter <= " " for letter in url):
        raise WebhookError("webhook: not an address of at most 2,000 characters of ASCII.")
    if not allowed:
        raise WebhookError(
            "webhook: this server calls nobody; its operator would have to set WHISPERLOOP_WEBHOOK_HOSTS."
        )
    origin = _origin(url)
    if origin not in allowed:
        where = f"{origin.scheme}://{origin.host}:{origin.port}"
        raise WebhookError(f"webhook: {where} is not among the hosts of this server's WHISPERLOOP_WEBHOOK_HOSTS.")


def _origin(url: str, *, exact: bool = False) -> Origin:
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        raise WebhookError(f"webhook: {url[:200]!r} is not an address.") from None
    if not parts.hostname or port is None:
        raise WebhookError(f"webhook: {url[:200]!r} is not an http or https address.")
    if "@" in parts.netloc or "\\" in url:
        raise WebhookError("webhook: an address with a user or a backslash is not taken.")
    if exact and (parts.path or parts.query or parts.fragment):
        raise WebhookError(f"{url[:200]!r} is more than a host: name it without a path.")
    return Origin(parts.scheme, parts.hostname, port)


def read_secret(secret: str) -> bytes:
    """Return the key of a secret as Standard Webhooks writes it: `whsec_` and base64 of 24 to 64 bytes.

    Raises:
        WebhookError: it is not one.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if len(key) not in SECRET_BYTES:
        advice = "python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
        raise WebhookError(f"a secret is whsec_ and base64 of 24 to 64 bytes; make one with {advice}")
    return key


def sign(message_id: str, timestamp: int, body: bytes, key: bytes) -> str:
    """Return a message's `webhook-signature`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers_of(message_id: str, timestamp: int, body: bytes, key: bytes) -> Mapping[str, str]:
    """Return the headers of a message; its id is the same at every attempt."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "Whisperloop",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(message_id, timestamp, body, key),
    }


async def send(client: httpx.AsyncClient, url: str, message_id: str, event: Any, key: bytes, now: float) -> str | None:
    """Send a message once; return None if it was taken, else why not.

    What is answered is not read; a redirect is a failure, for it could lead anywhere.
    """
    body = json.dumps(event, ensure_ascii=False).encode()
    try:
        headers = headers_of(message_id, int(now), body, key)
        async with (
            asyncio.timeout(TIMEOUT_S),  # the client's own is for each byte anew
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            return None if response.is_success else str(response.status_code)
    except (httpx.HTTPError, TimeoutError) as error:
        return type(error).__name__  # its message may hold addresses of the network inside
    except httpx.InvalidURL:
        return "InvalidURL"


def next_attempt(attempts: int, error: str | None, now: float) -> float | None:
    """Return when to send a message again that was sent so often; None if never."""
    if error is None or error == str(GONE) or attempts > len(RETRY_AFTER_S):
        return None
    return now + RETRY_AFTER_S[attempts - 1]


def make_client() -> httpx.AsyncClient:
    """Return a client that follows no redirect, and takes neither proxies nor passwords from the environment."""
    return httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)
