"""One clip of about three seconds on an idle machine: in the engine, and over HTTP."""

from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks.accuracy import compare
from benchmarks.bench import FASTER_WHISPER, Bench, files, percentile, uploads
from benchmarks.clips import Clip, spread
from benchmarks.entries import Entry, Side
from benchmarks.measures.lazily import Lazy
from benchmarks.rounds import Round
from benchmarks.servers import ask, serving

NAME, NAME_HTTP = "clip_latency", "clip_latency_http"
TARGET = 0.2
MIN_S, MAX_S = 2.7, 3.3
CLIPS_A_LANGUAGE = 3


def three_second_clips(bench: Bench) -> list[Clip]:
    """Return the clips of about three seconds that latency is measured on."""
    fitting = [clip for clip in bench.clips if MIN_S <= clip.seconds <= MAX_S]
    return spread(fitting or sorted(bench.clips, key=lambda clip: abs(clip.seconds - 3.0))[:2], CLIPS_A_LANGUAGE)


def measure(bench: Bench) -> list[Entry]:
    """Measure the four of them, each clip alone, and take the median of all clips and rounds."""
    clips = three_second_clips(bench)
    with ExitStack() as stack:
        engine, peer = stack.enter_context(bench.ours()), stack.enter_context(bench.faster_whisper())
        service = Lazy(stack, partial(serving, bench.service()))
        tutorial = Lazy(stack, partial(serving, bench.faster_whisper_server()))
        for server in (service, tutorial):
            server.on_start = lambda started: ask(started, uploads(clips[:1]), clients=1)

        def in_process(who: str) -> Round:
            worker = engine if who == "ours" else peer
            worker.transcribe(files(clips[:1]))  # warm again, whatever ran before
            answer = worker.transcribe(files(clips), one_by_one=True)
            return {"latencies": answer["each"], "texts": answer["texts"]}

        def over_http(who: str) -> Round:
            server = (service if who == "ours" else tutorial).get()
            answer = ask(server, uploads([clips[0], *clips]), clients=1)
            return {"latencies": answer["latencies"][1:], "texts": answer["texts"][1:]}

        in_engine = bench.interleave(
            NAME, bench.n_rounds, {who: partial(in_process, who) for who in ("ours", "theirs")}
        )
        http = bench.interleave(NAME_HTTP, bench.n_rounds, {who: partial(over_http, who) for who in ("ours", "theirs")})
    how = (
        f"{len(clips)} held-out clips of {MIN_S} to {MAX_S} s, one after another, nothing else running; the median "
        "over clips and rounds."
    )
    return [
        _entry(bench, NAME, "Latency of a 3 s clip, in the engine", how, clips, in_engine, FASTER_WHISPER),
        _entry(
            bench,
            NAME_HTTP,
            "Latency of a 3 s clip, over HTTP",
            "The same clips as WAV files, POSTed by one client.",
            clips,
            http,
            f"{FASTER_WHISPER}, behind FastAPI",
        ),
    ]


def _entry(
    bench: Bench, name: str, title: str, how: str, clips: list[Clip], rounds: dict[str, list[Round]], against: str
) -> Entry:
    all_of = {who: [value for one in done for value in one["latencies"]] for who, done in rounds.items()}
    each = {who: [median(one["latencies"]) for one in done] for who, done in rounds.items()}
    ratio = median(all_of["ours"]) / median(all_of["theirs"])
    return Entry(
        measure=name,
        title=title,
        how=how,
        value=ratio,
        unit="x",
        against=against,
        target=f"<= {TARGET:g}",
        met=ratio <= TARGET,
        rounds=bench.n_rounds,
        wer=compare(clips, rounds["ours"][-1]["texts"], rounds["theirs"][-1]["texts"]),
        ours=Side(name="ours", value=median(all_of["ours"]), rounds=each["ours"]),
        theirs=Side(name="theirs", value=median(all_of["theirs"]), rounds=each["theirs"]),
        side_unit="s",
        detail={"p95_s": {who: percentile(values, 95) for who, values in all_of.items()}},
    )
