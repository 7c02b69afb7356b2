"""Real versions change places under a real server while clients ask."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from registry import Registry
from speech.audio import decode_audio
from speech.context import ElasticContext
from speech.engine import load_engine
from speech.engine.allocator import KEPT_BYTES
from speech.smoke import SmokeClip, decode, quantize, write_smoke_clip
from training.demo import serving

CLIENTS = 2
SWAPS = 8  # a leak of a third of a model a swap is more than the allocator may keep
WAIT_S = 180


@pytest.fixture(scope="module")
def versions(base, clip, tmp_path_factory):
    """Publish whisper-base twice, with the smoke clip that it answers and as one that answers something else.

    Returns:
        The registry, the good versions (the first in production) and the bad one.
    """
    folder = tmp_path_factory.mktemp("swap")
    store = Registry(folder / "registry")
    audio = quantize(decode_audio(Path(clip.audio.path)))
    tokens = decode(load_engine(base.path, ElasticContext(), device="cpu"), audio, "it")
    published = []
    for name, expected in (("first", tokens), ("second", tokens), ("bad", tokens[::-1])):
        source = folder / name
        shutil.copytree(base.path, source)
        (source / "manifest.json").unlink()
        (source / "README.md").write_text(name)
        write_smoke_clip(source, SmokeClip(audio, "it", expected))
        published.append(store.publish("whisper", source, context={"elastic": False, "margin": 0}))
        shutil.rmtree(source)
    first, second, bad = published
    store.move_alias("whisper", "production", first.id, expected=None, reason="test")
    return store, (first, second), bad


@pytest.fixture
def server(versions, free_port, tmp_path, monkeypatch):
    """Run a service of production alone that looks at the aliases often; return its process and address."""
    monkeypatch.setenv("WHISPERLOOP_WATCH_SECONDS", "0.2")
    # What another test made the canary would be loaded already, and take production's place without a look at the disk.
    monkeypatch.setenv("WHISPERLOOP_CANARY_SHARE", "0")
    with serving(versions[0].root, free_port(), tmp_path / "service.log") as running:
        yield running


def move(store, alias, version):
    """Point an alias at a version, wherever it is."""
    current = store.alias("whisper", alias)
    store.move_alias("whisper", alias, version.id, expected=current and current.version, reason="test")


def about(address):
    """Ask which version answers, and which was refused."""
    return httpx.get(f"{address}/version", timeout=60).json()


def wait_for(address, reached):
    """Wait until /version says what is expected; return it."""
    deadline = time.monotonic() + WAIT_S
    while not reached(found := about(address)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def rss(process):
    """Return the process' resident memory in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def unloaded(tmp_path):
    """Count the versions that went."""
    return (tmp_path / "service.log").read_text().count("unloaded:")


def test_no_request_is_lost_while_versions_change(versions, server, clip, tmp_path):
    """Clients ask without pause while versions change places, a wrong one is refused, and production is rolled back.

    Every answer is whole, has the same words and names one version; in the end there is the memory of one model.
    """
    store, (first, second), bad = versions
    process, address = server
    move(store, "production", first)
    wait_for(address, lambda found: found["model"]["ref"] == first.ref)
    content, over = Path(clip.audio.path).read_bytes(), Event()

    def ask():
        answers = []
        with httpx.Client(timeout=300) as client:
            while not over.is_set():
                answers.append(
                    client.post(f"{address}/transcribe", files={"file": ("a", content)}, data={"language": "it"})
                )
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(ask) for _ in range(CLIENTS)]
        try:
            time.sleep(3)
            sizes = []
            for swap in range(SWAPS):
                to = (second, first)[swap % 2]
                if swap % 2 == 0:
                    move(store, "production", to)
                else:
                    store.rollback("whisper", reason="test")
                wait_for(address, lambda found, to=to: found["model"]["ref"] == to.ref)
                sizes.append(rss(process))
            move(store, "production", bad)
            found = wait_for(address, lambda found: found["refused"])
            assert (found["model"]["ref"], found["refused"][0]["ref"]) == (first.ref, bad.ref)
            assert "smoke clip" in found["refused"][0]["reason"]
            assert httpx.get(f"{address}/health/ready", timeout=60).status_code == httpx.codes.OK
            store.rollback("whisper", reason="test")
            wait_for(address, lambda found: not found["refused"])
        finally:
            over.set()
        answers = [answer for client in clients for answer in client.result()]
    deadline = time.monotonic() + WAIT_S
    while unloaded(tmp_path) < SWAPS and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {answer.status_code for answer in answers} == {httpx.codes.OK}
    assert len({answer.json()["text"] for answer in answers}) == 1
    assert {answer.json()["model"] for answer in answers} == {first.ref, second.ref}
    assert all(answer.json()["model"] == answer.headers["X-Whisperloop-Model"] for answer in answers)
    # Of the models that went, each would be 80 MB: more, together, than what the allocator may keep of freed memory.
    # The first change is what to begin with: before it, a slow machine has not had its largest batch yet.
    assert rss(process) < sizes[0] + KEPT_BYTES, sizes


def test_a_damaged_version_never_answers(versions, server, clip):
    """A byte that changed after it was sealed is found before anything is loaded; the version before goes on."""
    store, (first, second), _ = versions
    _, address = server
    move(store, "production", first)
    wait_for(address, lambda found: found["model"]["ref"] == first.ref)
    weights = second.path / "ctranslate2" / "model.bin"
    whole = weights.read_bytes()
    move(store, "candidate", second)  # while it is whole
    record = store.alias("whisper", "candidate")
    try:
        weights.chmod(0o644)
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        # As a copy between machines may bring it: the registry itself moves no alias to what is damaged.
        folder = store.root / "models" / "whisper" / "aliases"
        there = record.model_copy(update={"alias": "production", "seq": record.seq + 1})
        (folder / "new").write_text(there.model_dump_json())
        (folder / "new").replace(folder / "production.json")
        found = wait_for(address, lambda found: found["refused"])
        assert (found["model"]["ref"], found["refused"][0]["ref"]) == (first.ref, second.ref)
        assert "is damaged: ctranslate2/model.bin" in found["refused"][0]["reason"]
        answer = httpx.post(
            f"{address}/transcribe",
            files={"file": Path(clip.audio.path).read_bytes()},
            data={"language": "it"},
            timeout=300,
        )
        assert answer.json()["model"] == first.ref
    finally:
        weights.write_bytes(whole)
        move(store, "production", first)


def test_canary_and_shadow_of_real_versions(versions, clip, free_port, tmp_path, monkeypatch):
    """A canary takes requests by their key; a shadow of the same weights agrees with all it hears, and steps back."""
    store, (first, second), _ = versions
    monkeypatch.setenv("WHISPERLOOP_CANARY_SHARE", "0.5")
    monkeypatch.setenv("WHISPERLOOP_SHADOW_SHARE", "1")
    for alias, version in (("production", first), ("canary", second), ("shadow", second)):
        move(store, alias, version)
    content = Path(clip.audio.path).read_bytes()
    with serving(store.root, free_port(), tmp_path / "service.log") as (process, address):
        wait_for(address, lambda found: len(found["beside"]) == 2)
        answered = []
        for i in range(12):
            answer = httpx.post(
                f"{address}/transcribe",
                files={"file": ("a", content)},
                data={"language": "it"},
                headers={"X-Whisperloop-Route": f"caller {i}"},
                timeout=300,
            )
            answered.append(answer.json()["model"])
        expected = answered.count(first.ref)
        assert 0 < expected < 12
        found = wait_for(address, lambda found: found["shadow"] and found["shadow"]["requests"] == expected)
        niceness = [
            int(stat.read_text().rpartition(")")[2].split()[16])
            for stat in Path(f"/proc/{process.pid}/task").glob("*/stat")
        ]
    assert (found["shadow"]["ref"], found["shadow"]["rate"]) == (second.ref, 0.0)
    if "cuda" not in found["model"]["engine"]:  # a GPU knows no niceness
        assert 19 in niceness
        assert min(niceness) < 19
