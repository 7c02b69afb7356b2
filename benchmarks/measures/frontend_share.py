"""What is not the model: decoding, resampling and the spectrogram as a share of a whole request."""

from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench, medians
from benchmarks.clips import Clip, encode_as, spread
from benchmarks.entries import Entry, Side
from benchmarks.rounds import Round
from benchmarks.workers import Worker

NAME = "frontend_share"
TARGET = 0.10
FORMATS = {
    "wav 16 kHz": (".wav", "pcm_s16le", 16_000),
    "wav 8 kHz": (".wav", "pcm_s16le", 8_000),
    "mp3 44.1 kHz": (".mp3", "libmp3lame", 44_100),
    "ogg opus 48 kHz": (".ogg", "libopus", 48_000),
}
CLIPS_A_LANGUAGE = 8


def measure(bench: Bench) -> list[Entry]:
    """Measure every format in one process; the worst of them is the entry's value."""
    clips = spread(bench.clips, CLIPS_A_LANGUAGE)
    with bench.ours() as worker:
        rounds = bench.interleave(
            NAME,
            bench.n_rounds,
            {name: partial(_round, worker, _encoded(bench, clips, name)) for name in FORMATS},
        )
    shares = {name: medians(done, "share") for name, done in rounds.items()}
    worst = max(shares, key=lambda name: shares[name])
    return [
        Entry(
            measure=NAME,
            title="Share of decoding, resampling and spectrogram",
            how=f"{len(clips)} held-out clips, one after another in one process: from the file's bytes to the text. "
            f"The worst of {len(FORMATS)} formats is {worst}.",
            value=shares[worst],
            unit="of the request",
            against="the whole request",
            target=f"<= {TARGET:g}",
            met=shares[worst] <= TARGET,
            rounds=bench.n_rounds,
            ours=Side(
                name="decoding and spectrogram",
                value=median(r["decode_s"] + r["features_s"] for r in rounds[worst]),
                rounds=[r["decode_s"] + r["features_s"] for r in rounds[worst]],
            ),
            side_unit=f"s for {len(clips)} clips",
            detail={
                "formats": {
                    name: {key: medians(done, key) for key in ("decode_s", "features_s", "model_s", "share")}
                    for name, done in rounds.items()
                }
            },
        )
    ]


def _encoded(bench: Bench, clips: list[Clip], name: str) -> list[list[str]]:
    suffix, codec, rate = FORMATS[name]
    folder = bench.folder / "clips" / f"{codec}-{rate}"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for clip in clips:
        path = Path(folder / clip.wav.name).with_suffix(suffix)
        if not path.is_file():
            encode_as(clip.wav, path, codec, rate)
        made.append([str(path), clip.language])
    return made


def _round(worker: Worker, files: list[list[str]]) -> Round:
    rows = worker.ask({"do": "frontend", "files": files})["rows"]
    decode_s, features_s, model_s = (sum(row[i] for row in rows) for i in range(3))
    share = (decode_s + features_s) / (decode_s + features_s + model_s)
    return {"decode_s": decode_s, "features_s": features_s, "model_s": model_s, "share": share}
