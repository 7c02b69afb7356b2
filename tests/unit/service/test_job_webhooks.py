"""Webhooks: where they may go, how they are signed, and how often they are sent, to a real server on this machine."""

import base64
import hashlib
import hmac
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio
import pytest

import service.jobs.webhooks
from service.jobs.webhooks import (
    RETRY_AFTER_S,
    Origin,
    WebhookError,
    check_url,
    make_client,
    next_attempt,
    parse_hosts,
    read_secret,
    send,
    sign,
)

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def test_hosts_are_named_exactly():
    """A bare host is https at its usual port; another port or plain http is said."""
    assert parse_hosts("") == frozenset()
    assert parse_hosts(" a.example, b.example:8443 ,http://c.internal:9000") == {
        Origin("https", "a.example", 443),
        Origin("https", "b.example", 8443),
        Origin("http", "c.internal", 9000),
    }
    for wrong in ("a.example/path", "https://", "ftp://a.example", "a:99999", "me@a.example", "http://a?x"):
        with pytest.raises(WebhookError):
            parse_hosts(wrong)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/done?id=1",
        "https://HOOKS.example:443/",
        "http://inside:9000/x",
        "https://[::1]:8443/x",
    ],
)
def test_allowed_addresses(url):
    """Any path at an allowed host, however the host is written."""
    check_url(url, parse_hosts("hooks.example,http://inside:9000,[::1]:8443"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "//hooks.example/",
        "http://hooks.example/",  # no TLS
        "https://hooks.example:8443/",
        "https://hooks.example.evil.example/",
        "https://evil.example/hooks.example",
        "https://evil.example#hooks.example",
        "https://hooks.example@evil.example/",
        "https://me:secret@hooks.example/",
        "https://evil.example\\@hooks.example/",
        "https://hooks.example\\.evil.example/",
        "https://hooks.example:99999/",
        "https://hooks.example./",
        "https://hooks.example /",
        "https://hooks.example/\n",
        "https://hooks\u3002example/",
        "file:///etc/passwd",
        "https://169.254.169.254/latest/meta-data",
        "http://inside/",
        "https://inside:9000/",
        "https://hooks.example/" + "x" * 2000,
        "https://[::1/",
    ],
)
def test_all_other_addresses_are_refused(url):
    """Tricks of spelling reach nobody that was not named."""
    with pytest.raises(WebhookError):
        check_url(url, parse_hosts("hooks.example,http://inside:9000"))


def test_without_hosts_nobody_is_called():
    """The refusal says what an operator would have to set."""
    with pytest.raises(WebhookError, match="WHISPERLOOP_WEBHOOK_HOSTS"):
        check_url("https://hooks.example/", frozenset())


def test_the_signature_is_standard_webhooks():
    """Their specification's own example of 1.0.0, and their recipe written out."""
    body = b'{"test": 2432232314}'
    key = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert (
        sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, key) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    expected = hmac.new(KEY, b"msg_1.17." + body, hashlib.sha256).digest()
    assert sign("msg_1", 17, body, KEY) == "v1," + base64.b64encode(expected).decode()


def test_secrets():
    """With or without its prefix; what is too short to be one is refused, with the command that makes one."""
    assert read_secret(SECRET) == read_secret(SECRET.removeprefix("whsec_")) == KEY
    for wrong in ("whsec_", "whsec_c2hvcnQ=", "not base64!", "whsec_" + base64.b64encode(bytes(65)).decode()):
        with pytest.raises(WebhookError, match="python -c"):
            read_secret(wrong)


def test_attempts_are_ever_further_apart_and_come_to_an_end():
    """Five in all; none after a success, and none where the receiver says that it is gone."""
    assert next_attempt(1, None, 0.0) is None
    assert next_attempt(1, "410", 0.0) is None
    times = [next_attempt(attempts, "500", 0.0) for attempts in range(1, 7)]
    assert times == [*RETRY_AFTER_S, None, None]
    assert sorted(RETRY_AFTER_S) == list(RETRY_AFTER_S)


@pytest.fixture
def receiver():
    """Run a server that answers with the statuses that a test puts there, and keeps what it got."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            if self.path == "/slow":
                self.send_response(200)
                while server.is_slow:
                    self.send_header("X-Wait", "a little longer")
                    self.flush_headers()
                    time.sleep(0.01)
                return
            body = self.rfile.read(int(self.headers["content-length"]))
            server.got.append((self.path, dict(self.headers), body))
            status = server.statuses.pop(0) if server.statuses else 204
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.statuses, server.is_slow = [], [], True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.is_slow = False
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.anyio
async def test_a_message_that_was_taken(receiver, monkeypatch):
    """It has its three headers, a signature of exactly these bytes, and no proxy of the environment between."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with make_client() as client:
        url = f"http://127.0.0.1:{receiver.server_port}/hook?x=1"
        assert await send(client, url, "msg_1", {"type": "job.succeeded", "città": 1}, KEY, 17.9) is None
    ((path, headers, body),) = receiver.got
    assert path == "/hook?x=1"
    assert body.decode() == '{"type": "job.succeeded", "città": 1}'
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg_1", "17")
    assert headers["webhook-signature"] == sign("msg_1", 17, body, KEY)
    assert headers["Content-Type"] == "application/json"


@pytest.mark.anyio
@pytest.mark.parametrize("status", [302, 400, 410, 500])
async def test_a_message_that_was_not_taken(receiver, status):
    """Any other status is a failure, and a redirect is not followed."""
    receiver.statuses = [status]
    async with make_client() as client:
        url = f"http://127.0.0.1:{receiver.server_port}/hook"
        assert await send(client, url, "msg_1", {}, KEY, 17) == str(status)
    assert [path for path, _, _ in receiver.got] == ["/hook"]


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "https://127.0.0.1:1/", "http://127.0.0.1:1/\x00"])
async def test_nobody_there(url):
    """What fails before there is a status is told by its kind, without addresses."""
    async with make_client() as client:
        error = await send(client, url, "msg_1", {}, KEY, 17)
    assert error is not None
    assert "127" not in error


@pytest.mark.anyio
async def test_a_receiver_that_trickles_is_given_up(receiver, monkeypatch):
    """The whole exchange has its time: a header now and then does not hold the messages of others up."""
    monkeypatch.setattr(service.jobs.webhooks, "TIMEOUT_S", 0.2)
    async with make_client() as client:
        with anyio.fail_after(10):
            url = f"http://127.0.0.1:{receiver.server_port}/slow"
            assert await send(client, url, "msg_1", {}, KEY, 17) == "TimeoutError"
    receiver.is_slow = False
