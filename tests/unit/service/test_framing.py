"""HTTP that is not as it should be, sent to a real server byte by byte: 4xx or a closed door, and it serves on."""

import contextlib
import http.client
import socket
import threading
import time

import pytest
import uvicorn

import service.server
from service.server import Protocol

HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"
FIELD = b'--b\r\nContent-Disposition: form-data; name="language"\r\n\r\n'


@pytest.fixture
def port(make_app):
    """Run the echo engine behind uvicorn, in a thread of this process."""
    with serving(make_app(max_upload_bytes=20_000_000, upload_timeout_s=0.5)) as port:
        deadline = time.monotonic() + 30
        while 200 not in exchange(port, request("GET", "/health/ready")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield port


@contextlib.contextmanager
def serving(app):
    """Run an application behind our protocol; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=Protocol, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


def request(method, path, *headers, body=b"", host="Host: a"):
    """Write a request as a client does that wants one answer."""
    head = [f"{method} {path} HTTP/1.1", *([host] if host else []), "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def form(body, *headers, boundary="b", length=None):
    """Write an upload; its length may be a lie."""
    kind = f"Content-Type: multipart/form-data; boundary={boundary}"
    length = len(body) if length is None else length
    return request("POST", "/transcribe", kind, f"Content-Length: {length}", *headers, body=body)


def chunked(body, size):
    """Write an upload in chunks of so many bytes."""
    kind = ("Content-Type: multipart/form-data; boundary=b", "Transfer-Encoding: chunked")
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return request("POST", "/transcribe", *kind, body=chunks + b"0\r\n\r\n")


def exchange(port, data):
    """Send bytes, and return the statuses that come until the server closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(data)
            while part := connection.recv(65_536):
                received += part
        except ConnectionError:
            pass  # it has closed its door before all was sent
    lines = [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return [int(line.split()[1]) for line in lines]


def abuses(content):
    """Return what is sent, by what is wrong with it."""
    good = HEAD + content + TAIL
    kind = "Content-Type: multipart/form-data; boundary=b"

    def lengths(*lengths):
        return request("POST", "/transcribe", kind, *(f"Content-Length: {one}" for one in lengths), body=good)

    return {
        "negative length": form(good, length=-5),
        "length that is no number": form(good, length="1e3"),
        "length with a sign": form(good, length="+10"),
        "length beyond all bounds": form(good, length="9" * 30),
        "two lengths": lengths(len(good), 5),
        "length and chunks": form(good, "Transfer-Encoding: chunked"),
        "more declared than sent": form(good, length=len(good) + 1000),
        "less declared than sent": form(good, length=200),
        "nothing sent": form(b"", length=1000),
        "chunks that are none": chunked(good, 1000).replace(b"3e8\r\n", b"xyz\r\n"),
        "negative chunk": chunked(good, 1000).replace(b"3e8\r\n", b"-3e8\r\n"),
        "unknown transfer encoding": request("POST", "/transcribe", kind, "Transfer-Encoding: gzip", body=good),
        "10,000 fields": form(b"".join(FIELD + b"it\r\n" for _ in range(10_000)) + good),
        "10,000 files": form(b"".join(HEAD + b"x\r\n" for _ in range(10_000)) + good),
        "a field without a name": form(b"--b\r\nContent-Disposition: form-data\r\n\r\n" + b"x" * 5_000_000 + TAIL),
        "a part without headers": form(b"--b\r\n\r\n" + b"x" * 5_000_000 + TAIL),
        "a field of 10 MB": form(FIELD + b"x" * 10_000_000 + TAIL),
        "a part's header of 10 MB": form(b"--b\r\nContent-Disposition: " + b"x" * 10_000_000 + TAIL),
        "a part's 100,000 headers": form(b"--b\r\n" + b"A: b\r\n" * 100_000 + b"\r\nx" + TAIL),
        "10 MB before the first boundary": form(b"x" * 10_000_000),
        "boundaries inside boundaries": form(b"--b\r\n--b\r\n--b--b--\r\n--b-"),
        "no boundary": request(
            "POST", "/transcribe", "Content-Type: multipart/form-data", "Content-Length: 1", body=b"x"
        ),
        "a boundary of 10 kB": form(good, boundary="b" * 10_000),
        "an empty boundary": form(good, boundary=""),
        "names in no encoding": form(good.replace(b'name="file"', b'name="\xff\xfe\x00"')),
        "a header of 200 kB": request("GET", "/version", "X-Long: " + "x" * 200_000),
        "no host": request("GET", "/version", host=None),
        "two hosts": request("GET", "/version", "Host: b"),
        "a host of two words": request("POST", "/version", host="Host: a b\tc"),
        "a method that is none": request("GET GET", "/version"),
        "a null in the path": request("GET", "/ver\x00sion"),
        "a path that climbs": request("GET", "/../../etc/passwd"),
        "an absolute address": request("GET", "http://other.example/version"),
        "another server's address": request("CONNECT", "example.org:443"),
        "TLS": bytes.fromhex("160301020001000001fc0303") + bytes(100),
        "no HTTP at all": b"\r\n\r\nEHLO a\r\n\r\n",
    }


def test_nothing_is_the_servers_fault(port, wav, caplog):
    """Each is 4xx or a closed connection, none 5xx or a traceback, and after each the next request is answered."""
    content = wav(1)
    good = form(HEAD + content + TAIL)
    sent = abuses(content)
    assert len(sent) > 30
    for name, data in sent.items():
        for status in exchange(port, data):
            assert 400 <= status < 500, (name, status)
        assert exchange(port, good) == [200], name
    assert not [record for record in caplog.records if record.exc_info]


def test_odd_but_right_is_answered(port, wav):
    """A byte a chunk, a host in Latin-1, a version to come: none of that does harm."""
    content = HEAD + wav(0.3) + TAIL
    assert exchange(port, chunked(content, 1)) == [200]
    assert exchange(port, request("GET", "/version", host="Host: \xe4\xff")) == [200]
    assert exchange(port, request("GET", "/version").replace(b"HTTP/1.1", b"HTTP/9.9")) == [200]


def test_who_sends_nothing_harms_nobody(port, wav):
    """Thirty connections that stop in the middle do not keep a request waiting, and are told so."""
    stuck = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(30)]
    for connection in stuck:
        connection.sendall(form(HEAD, length=1000))
    assert exchange(port, form(HEAD + wav(1) + TAIL)) == [200]
    for connection in stuck:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")
        connection.close()


@pytest.mark.parametrize(
    "begun", [b"", b"G", b"GET /version HTTP/1.1\r\nHost: a", request("GET", "/version", "X: y")[:-2] + b"Y: "]
)
def test_who_never_ends_a_head_is_hung_up_on(port, monkeypatch, begun):
    """Neither silence nor a byte now and then keeps a connection open."""
    monkeypatch.setattr(service.server, "HEAD_TIMEOUT_S", 0.5)
    with socket.create_connection(("127.0.0.1", port), timeout=0.02) as connection:
        connection.sendall(begun)
        deadline = time.monotonic() + 10
        is_open = True
        while is_open:
            assert time.monotonic() < deadline
            try:
                connection.sendall(b"x" if begun else b"")
                is_open = connection.recv(1) != b""
            except TimeoutError:
                pass
            except ConnectionError:
                is_open = False


def test_who_takes_long_over_a_body_is_not(port, wav, monkeypatch):
    """The limit is for heads, and for silence: uploads that go on, and connections that are used again, are served."""
    monkeypatch.setattr(service.server, "HEAD_TIMEOUT_S", 0.2)
    data = form(HEAD + wav(1) + TAIL)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for start in range(0, len(data), 8192):
            connection.sendall(data[start : start + 8192])
            time.sleep(0.1)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        addresses = set()
        for _ in range(4):
            connection.request("GET", "/version")
            addresses.add(connection.sock.getsockname())
            assert connection.getresponse().read().startswith(b"{")
            time.sleep(0.1)
        assert len(addresses) == 1


@pytest.mark.parametrize("takes", [True, False])
def test_who_takes_nothing_of_an_answer_is_hung_up_on(monkeypatch, takes):
    """An answer that is taken slowly comes whole; one that nobody takes holds neither a connection nor a model."""
    monkeypatch.setattr(service.server, "TAKE_TIMEOUT_S", 0.4)
    megabytes, over = 30, threading.Event()

    async def answers(scope, _receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for i in range(megabytes):
                await send({"type": "http.response.body", "body": bytes(2**20), "more_body": i < megabytes - 1})
            over.set()

    with serving(answers) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        client.settimeout(20)
        client.connect(("127.0.0.1", port))
        client.sendall(request("GET", "/"))
        n_bytes = 0
        while takes and (part := client.recv(2**20)):
            n_bytes += len(part)
            time.sleep(0.02)
        assert over.wait(20)
    assert n_bytes >= megabytes * 2**20 if takes else n_bytes == 0


def test_what_is_wrong_twice_is_answered_once(port, caplog):
    """A body that is no form, in chunks that are none: one 400, and not a traceback of a second that had no place."""
    whole = chunked(b"nonsense" * 10, 10)
    for _ in range(5):
        assert exchange(port, whole.removesuffix(b"0\r\n\r\n") + b"zz\r\n") == [400]
    assert not [record for record in caplog.records if record.exc_info]
