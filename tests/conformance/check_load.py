"""Long files, and many requests at a time: all of the file, and to each its own."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.conformance.sound import Stitched, stitch
from tests.conformance.suite import Server, Skip, body_of, check, number, same_words, words

VERBOSE = {"response_format": "verbose_json"}


def _ten_minutes(server: Server) -> Stitched:
    return server.remember("ten minutes", lambda: server.stitched(600, pause=0.7))


@check("long files", "transformers serve: the first 30 s only; vLLM #32588")
def ten_minutes_are_heard_to_the_end(server: Server) -> None:
    """Ten minutes have their words to the end: nothing is cut off, and segments are in order inside the file."""
    whole = _ten_minutes(server)
    body = body_of(server.post(whole.sound.wav(), VERBOSE))
    assert abs(number(body["duration"]) - whole.sound.seconds) <= 1, f"duration {body['duration']}"
    same_words(whole.text, body["text"])
    segments = body["segments"]
    starts = [number(segment["start"]) for segment in segments]
    assert starts == sorted(starts), "segments are not in order"
    assert all(segment["start"] <= segment["end"] <= whole.sound.seconds + 0.1 for segment in segments), "times"
    # Half of the words lie in each half of the file: times do not run ahead or fall behind.
    said = sum(len(words(one["text"])) for one in segments if one["start"] + one["end"] < whole.sound.seconds)
    share = said / len(words(body["text"]))
    assert 0.45 <= share <= 0.55, f"{share:.0%} of the words are in the first half"


@check("load", "whisper.cpp #1803: a short clip waits for a long file; health checks die (#20 of users' complaints)")
def a_clip_does_not_wait_for_a_film(server: Server) -> None:
    """While ten minutes are transcribed, the models are listed and a clip is answered, both before the long file."""
    content = _ten_minutes(server).sound.wav()
    started, ended, answers = threading.Event(), threading.Event(), []

    def ask() -> None:
        started.set()
        answers.append(server.post(content))
        ended.set()

    long = threading.Thread(target=ask)
    long.start()
    try:
        started.wait()
        if ended.wait(1.0):  # the upload takes its time
            raise Skip("the long file was done before a clip could be sent")
        body_of(server.http.get("models"))
        clip = body_of(server.post())
        first = not ended.is_set()
    finally:
        long.join()
    same_words(server.clip.text, clip["text"])
    body_of(answers[0])
    assert first, "the clip's answer came after the long file's"


@check("load", "WhisperLiveKit PR #322, whisper.cpp #3595: text of another request")
def eight_at_a_time_get_their_own(server: Server) -> None:
    """Of eight different clips at a time, three times over, each answer has its own words."""
    clips = server.clips
    sounds = [stitch([clips[i % len(clips)]] * (1 + i // len(clips)), 0.3) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            bodies = list(pool.map(lambda one: body_of(server.post(one.sound.wav())), sounds))
            for one, body in zip(sounds, bodies, strict=True):
                same_words(one.text, body["text"])


@check("load", "whisperX mutates its options per call; whisper.cpp's /load")
def options_stay_with_their_request(server: Server) -> None:
    """Formats, languages, streams and errors at the same time do not change each other's answers."""

    def ask(i: int) -> None:
        match i % 4:
            case 0:
                assert body_of(server.post(fields=VERBOSE | {"language": "de"}))["language"] in {"german", "de"}
            case 1:
                same_words(server.clip.text, body_of(server.post())["text"])
            case 2:
                assert server.post(b"rubbish").status_code == 400
            case _:
                with server.stream() as response:
                    assert "transcript.text.done" in response.read().decode()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(16)))
