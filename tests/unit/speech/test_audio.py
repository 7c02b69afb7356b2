"""The promises of decoding: every usual container, nothing but audio, nothing but the bytes at hand."""

import functools
import io
import random
import socket
import struct
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speech.audio import SAMPLE_RATE, AudioError, declared_seconds, decode_audio, stream_audio, until_damage

CODES = {"empty_audio", "unsupported_audio", "no_audio_stream", "truncated_audio", "damaged_audio", "audio_too_long"}
SECONDS = 2.0

FORMATS = {
    # container, codec, sampling rate, FFmpeg's sample format
    "wav-16": ("wav", "pcm_s16le", 16_000, None),
    "wav-16-44k": ("wav", "pcm_s16le", 44_100, None),
    "wav-u8": ("wav", "pcm_u8", 16_000, None),
    "wav-24": ("wav", "pcm_s24le", 48_000, None),
    "wav-float": ("wav", "pcm_f32le", 22_050, None),
    "wav-mulaw": ("wav", "pcm_mulaw", 8_000, None),
    "flac": ("flac", "flac", 44_100, "s16"),
    "mp3": ("mp3", "libmp3lame", 44_100, None),
    "ogg-opus": ("ogg", "libopus", 48_000, None),
    "webm-opus": ("webm", "libopus", 48_000, None),
    "m4a": ("mp4", "aac", 44_100, None),
    "adts": ("adts", "aac", 44_100, None),
    "au": ("au", "pcm_s16be", 16_000, None),
    "aiff": ("aiff", "pcm_s16be", 44_100, None),
    "matroska-pcm": ("matroska", "pcm_s16le", 16_000, None),
}
LOSSY_PADDING_S = 0.05  # AAC's encoder delay, where the container cannot say how long it is

BROWSERS_AND_PHONES = ("wav-16", "flac", "mp3", "ogg-opus", "m4a", "webm-opus")

ENDS_ARE_KNOWN = (
    "wav-16",
    "wav-u8",
    "wav-24",
    "wav-float",
    "flac",
    "mp3",
    "ogg-opus",
    "webm-opus",
    "m4a",
    "aiff",
    "au",
)


@pytest.fixture(scope="module")
def make(chirp, encode_audio):
    """Return the chirp in one of the formats."""

    @functools.cache
    def make_format(name, seconds=SECONDS):
        container, codec, rate, sample_format = FORMATS[name]
        return encode_audio(chirp(seconds, rate), container, codec, rate=rate, sample_format=sample_format)

    return make_format


def similarity(samples, original):
    """Return the largest normalised correlation over all shifts, and that shift in samples."""
    size = samples.size + original.size
    spectrum = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(original, size))
    correlation = np.fft.irfft(spectrum, size)
    shift = int(correlation.argmax())
    norm = np.linalg.norm(samples) * np.linalg.norm(original)
    return correlation[shift] / norm, shift if shift < size // 2 else shift - size


def code_of(source, **options):
    """Return the code with which `source` is refused."""
    with pytest.raises(AudioError) as caught:
        decode_audio(source, **options)
    return caught.value.code


def data_chunk(wav):
    """Return where the samples' chunk begins."""
    return wav.index(b"data")


@pytest.mark.parametrize("name", FORMATS)
def test_every_usual_format_becomes_the_same_16_khz_signal(make, chirp, name):
    """Container, codec, sampling rate and sample width change neither the length nor the sound."""
    samples = decode_audio(make(name))
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert samples.size / SAMPLE_RATE == pytest.approx(SECONDS, abs=LOSSY_PADDING_S)
    alike, shift = similarity(samples, chirp(SECONDS))
    assert alike > 0.98
    assert abs(shift) / SAMPLE_RATE < 0.03


def test_16_khz_pcm_is_not_touched(make, chirp):
    """What is already 16 kHz mono keeps every sample."""
    assert np.abs(decode_audio(make("wav-16")) - chirp(SECONDS)).max() <= 1 / 32_768


def test_a_file_and_its_bytes_decode_alike(make, tmp_path):
    """It makes no difference whether the audio comes from memory or from the disk."""
    path = tmp_path / "speech è 1%d.flac"
    path.write_bytes(make("flac"))
    assert np.array_equal(decode_audio(path), decode_audio(make("flac")))


def test_stereo_is_mixed_down(chirp, encode_audio):
    """What is said on either side is heard, as loud as on the other."""
    left, right = chirp(1), chirp(1, low=1500, high=200)
    mixed = decode_audio(encode_audio(np.stack([left, right]), "wav", "pcm_f32le"))
    assert mixed == pytest.approx((left + right) / 2, abs=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_stereo_of_opposite_content_mixes_to_the_mean(chirp, encode_audio, share):
    """Neither side is chosen: opposites cancel as far as they are equally loud."""
    mixed = decode_audio(encode_audio(np.stack([chirp(1), -share * chirp(1)]), "wav", "pcm_f32le"))
    assert mixed == pytest.approx((1 - share) / 2 * chirp(1), abs=1e-6)


def test_both_channels_alike_are_as_loud_as_one(chirp, encode_audio):
    """A loud recording that says the same on both sides is neither louder than its mono twin nor clipped."""
    loud = 1.8 * chirp(1)  # peak 0.9
    mono = decode_audio(encode_audio(loud, "wav", "pcm_s16le"))
    stereo = decode_audio(encode_audio(np.stack([loud, loud]), "wav", "pcm_s16le"))
    assert stereo == pytest.approx(mono, abs=1e-4)


def test_samples_beyond_full_scale_are_clipped(chirp, encode_audio):
    """A float file that is too loud stays within [-1, 1]."""
    samples = decode_audio(encode_audio(4 * chirp(1), "wav", "pcm_f32le"))
    assert samples.max() == 1.0
    assert samples.min() == -1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_samples_that_are_no_numbers_are_damaged_audio(chirp, encode_audio, rate, value):
    """One NaN or infinity in a float file is refused, resampled or not, before a model hears it."""
    samples = chirp(1, rate)
    samples[100] = value
    assert code_of(encode_audio(samples, "wav", "pcm_f32le", rate=rate)) == "damaged_audio"


def test_joined_mp3s_of_different_rates_are_all_heard(chirp, encode_audio):
    """A stream that changes its sampling rate in the middle is as long as its parts together."""
    parts = [
        encode_audio(chirp(s, rate), "mp3", "libmp3lame", rate=rate, muxer={"write_xing": "0", "id3v2_version": "0"})
        for s, rate in ((1, 44_100), (2, 16_000))
    ]
    samples = decode_audio(b"".join(parts))
    one_by_one = sum(decode_audio(part).size for part in parts)
    assert samples.size / SAMPLE_RATE == pytest.approx(one_by_one / SAMPLE_RATE, abs=LOSSY_PADDING_S)
    assert similarity(samples[: round(1.1 * SAMPLE_RATE)], chirp(1))[0] > 0.98
    assert similarity(samples[-round(2.1 * SAMPLE_RATE) :], chirp(2))[0] > 0.98


def film(sound, container, video_codec, audio_codec, rate, *, pictures):
    """Return a video of five pictures a second with a sound."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        video, audio = output.add_stream(video_codec, rate=5), output.add_stream(audio_codec, rate=rate, layout="mono")
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for i in range(pictures):
            picture = av.VideoFrame(32, 32, "yuv420p")
            picture.pts = i
            output.mux(video.encode(picture))
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        output.mux([*video.encode(None), *audio.encode(frame), *audio.encode(None)])
    return buffer.getvalue()


def test_the_first_audio_stream_is_taken(chirp):
    """A video's sound is audio like any other."""
    content = film(chirp(SECONDS, 44_100), "mp4", "mpeg4", "aac", 44_100, pictures=10)
    assert similarity(decode_audio(content), chirp(SECONDS))[0] > 0.98


@pytest.mark.parametrize("container", ["matroska", "webm"])
def test_a_video_may_outlast_its_sound(chirp, container):
    """Sound that ends eight seconds before the pictures do is not cut off."""
    content = film(chirp(SECONDS, 48_000), container, "libvpx", "libopus", 48_000, pictures=50)
    assert decode_audio(content).size / SAMPLE_RATE == pytest.approx(SECONDS, abs=LOSSY_PADDING_S)


def test_nothing_is_empty_audio():
    """Zero bytes are told from bytes that are no audio."""
    assert code_of(b"") == "empty_audio"


def test_an_empty_file_is_empty_audio(tmp_path):
    """So is a file without content."""
    path = tmp_path / "empty.wav"
    path.touch()
    assert code_of(path) == "empty_audio"


def test_a_header_without_samples_is_empty_audio(make):
    """A WAV that ends after its header holds nothing."""
    wav = make("wav-16")
    start = data_chunk(wav)
    assert code_of(wav[: start + 4] + struct.pack("<I", 0)) == "empty_audio"


@pytest.mark.parametrize(
    "content",
    [b"Buongiorno a tutti.\n" * 50, b"\x00" * 5000, b"%PDF-1.7\n" + b"\x01" * 500, b"RIFF", b"OggS", b"fLaC", b"ID3"],
    ids=["text", "zeros", "pdf", "riff", "ogg", "flac", "id3"],
)
def test_what_is_no_audio_is_unsupported(content):
    """Other files, and the bare marks of audio formats, are refused in words."""
    assert code_of(content) == "unsupported_audio"


def test_a_codec_that_nobody_knows_is_unsupported(make):
    """A WAV whose format tag no codec has is refused in words."""
    wav = make("wav-16")
    tag = wav.index(b"fmt ") + 8
    assert code_of(wav[:tag] + b"\xee\xee" + wav[tag + 2 :]) == "unsupported_audio"


def test_a_picture_has_no_audio_stream():
    """FFmpeg opens pictures, and videos without sound; both are told from what is no medium at all."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="image2pipe") as output:
        stream = output.add_stream("png", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "rgb24"
        output.mux([*stream.encode(av.VideoFrame(16, 16, "rgb24")), *stream.encode(None)])
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert code_of(buffer.getvalue()) == "no_audio_stream"


def test_a_missing_file_is_the_callers_mistake(tmp_path):
    """A path without a file is no property of any audio."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.wav"):
        decode_audio(tmp_path / "nothing.wav")


def test_a_colon_in_a_files_name_is_no_protocol(make, tmp_path, monkeypatch):
    """A relative path named after the time of day is opened like any other file."""
    monkeypatch.chdir(tmp_path)
    path = Path("12:30.wav")
    path.write_bytes(make("wav-16"))
    assert np.array_equal(decode_audio(path), decode_audio(make("wav-16")))


def test_a_folder_is_no_file(tmp_path):
    """Nor is a path to a folder."""
    with pytest.raises(FileNotFoundError):
        decode_audio(tmp_path)


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("name", ENDS_ARE_KNOWN)
def test_a_cut_file_is_never_taken_for_a_whole_one(make, name, share):
    """Half a recording must not pass for all that was said."""
    whole = make(name, 4.0)
    assert code_of(whole[: int(share * len(whole))]) in {"truncated_audio", "unsupported_audio", "damaged_audio"}


@pytest.mark.parametrize(
    "name", ["wav-16", "wav-u8", "wav-24", "wav-float", "wav-mulaw", "ogg-opus", "mp3", "flac", "aiff", "au", "m4a"]
)
def test_a_file_without_its_last_tenth_is_truncated(make, name):
    """A tenth of a 10 s recording is a second, twice what headers may be wrong by."""
    whole = make(name, 10.0)
    assert code_of(whole[: int(0.9 * len(whole))]) == "truncated_audio"


def test_a_damaged_end_is_told(make):
    """That the last packet cannot be decoded is told, however little it holds, and on however many cores."""
    whole = bytearray(make("flac", 10.0))
    whole[-20:-10] = bytes(10)
    with pytest.raises(AudioError, match=r"cut off after 9\.\d\d s: its last packet") as caught:
        decode_audio(bytes(whole))
    assert caught.value.code == "truncated_audio"


def test_a_cut_file_on_the_disk_is_truncated(make, tmp_path):
    """The check also works where only the ends of a file are looked at."""
    path = tmp_path / "cut.wav"
    wav = make("wav-16", 10.0)
    assert len(wav) > 2 * 128 * 1024
    path.write_bytes(wav[:-40_000])
    assert code_of(path) == "truncated_audio"


def test_the_message_says_where_it_ends(make):
    """Whoever uploaded it learns how much arrived."""
    wav = make("wav-16")
    with pytest.raises(AudioError, match=r"after 1\.00 s"):
        decode_audio(wav[: data_chunk(wav) + 8 + 2 * SAMPLE_RATE])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36])
def test_a_streamed_wav_is_accepted(make, size):
    """A program that writes to a pipe cannot know the length, and says so with a length of its own kind."""
    wav = make("wav-16")
    start = data_chunk(wav)
    streamed = b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + wav[8 : start + 4] + struct.pack("<I", size) + wav[start + 8 :]
    assert decode_audio(streamed).size == round(SECONDS * SAMPLE_RATE)


def test_an_odd_chunk_before_the_samples_is_stepped_over(make):
    """RIFF pads chunks to even lengths; a LIST of 5 bytes hides neither the samples nor their end."""
    wav = make("wav-16")
    start = data_chunk(wav)
    odd = wav[:start] + b"LIST" + struct.pack("<I", 5) + b"INFOx\x00" + wav[start:]
    assert np.array_equal(decode_audio(odd), decode_audio(wav))
    assert code_of(odd[:-16_000]) == "truncated_audio"


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_cut_is_seen_behind_200_kilobytes_of_other_things(make, tmp_path, on_disk):
    """A long LIST, as of a cover picture, hides neither the samples nor their end."""
    wav = make("wav-16", 4.0)
    start = data_chunk(wav)
    long = wav[:start] + b"LIST" + struct.pack("<I", 200_000) + bytes(200_000) + wav[start:]
    path = tmp_path / "long.wav"
    path.write_bytes(long)
    assert decode_audio(path if on_disk else long).size == 4 * SAMPLE_RATE
    path.write_bytes(long[:-60_000])
    assert code_of(path if on_disk else long[:-60_000]) == "truncated_audio"


def test_a_live_webm_without_a_length_is_accepted(chirp, encode_audio):
    """A browser's recorder declares no duration: there is nothing to compare with."""
    live = encode_audio(chirp(SECONDS, 48_000), "webm", "libopus", rate=48_000, muxer={"live": "1"})
    assert decode_audio(live).size / SAMPLE_RATE == pytest.approx(SECONDS, abs=LOSSY_PADDING_S)


def test_a_fragmented_mp4_is_accepted(chirp, encode_audio):
    """Nor does a phone's fragmented MP4."""
    flags = {"movflags": "frag_keyframe+empty_moov"}
    fragmented = encode_audio(chirp(SECONDS, 44_100), "mp4", "aac", rate=44_100, muxer=flags)
    assert decode_audio(fragmented).size / SAMPLE_RATE == pytest.approx(SECONDS, abs=LOSSY_PADDING_S)


def test_audio_of_exactly_the_limit_is_accepted(make):
    """The limit is the longest length that is allowed."""
    assert decode_audio(make("wav-16"), max_seconds=SECONDS).size == SECONDS * SAMPLE_RATE


def test_audio_beyond_the_limit_is_refused(make):
    """A sample more is too long, and the message names the limit."""
    assert code_of(make("wav-16"), max_seconds=SECONDS - 0.01) == "audio_too_long"
    with pytest.raises(AudioError, match=r"longer than 1\.5 seconds"):
        decode_audio(make("flac"), max_seconds=1.5)


def test_the_limit_is_enforced_while_decoding(encode_audio, monkeypatch):
    """Minutes of silence in a few kilobytes are given up at the limit, not at the end."""
    bomb = encode_audio(np.zeros(300 * SAMPLE_RATE, np.float32), "adts", "aac")
    assert len(bomb) < 100_000
    decoded = []

    def counting(**options):
        resampler = resample(**options)

        def count(frame):
            decoded.append(0 if frame is None else frame.samples)
            return resampler.resample(frame)

        return SimpleNamespace(resample=count)

    resample = av.AudioResampler
    monkeypatch.setattr(av, "AudioResampler", counting)
    assert code_of(bomb, max_seconds=3.0) == "audio_too_long"
    assert 3 * SAMPLE_RATE < sum(decoded) < 4 * SAMPLE_RATE


def test_a_declared_length_beyond_the_limit_is_refused_at_once(encode_audio, monkeypatch):
    """A header that promises hours costs nothing."""
    film = encode_audio(np.zeros(300 * SAMPLE_RATE, np.float32), "flac", "flac", sample_format="s16")
    monkeypatch.setattr(av, "AudioResampler", None)
    assert code_of(film, max_seconds=299) == "audio_too_long"


def test_audio_is_read_no_further_than_it_is_asked_for(make, tmp_path):
    """The first tenth of a second of a long file costs a tenth of a second's memory, from bytes, path or open file."""
    path = tmp_path / "clip.flac"
    path.write_bytes(make("flac"))
    whole = decode_audio(path)
    with path.open("rb") as file:
        for source in (path, path.read_bytes(), file):
            blocks = stream_audio(source)
            assert 0 < next(blocks).size < SAMPLE_RATE
            blocks.close()
            assert np.array_equal(np.concatenate(list(stream_audio(source))), whole)
        assert not file.closed


@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_what_was_heard_before_the_damage_is_there(make, kept):
    """A recording that is cut off gives its samples first and its error then, so that a caller may keep them."""
    encoded = make("wav-16")
    blocks = stream_audio(encoded[: int(kept * len(encoded))])
    heard = []
    with pytest.raises(AudioError) as raised:
        heard.extend(blocks)
    assert raised.value.code == "truncated_audio"
    assert sum(block.size for block in heard) / SAMPLE_RATE == pytest.approx(kept * SECONDS, abs=0.15)


@pytest.mark.parametrize("code", ["truncated_audio", "damaged_audio"])
def test_what_was_heard_is_kept_and_the_damage_told(code):
    """The blocks before it come as they are; the error is told once, at the end, and not raised."""
    fault, told = AudioError(code, "the end is missing"), []

    def broken(n_blocks):
        yield from ([np.zeros(10, np.float32)] * n_blocks)
        raise fault

    assert [block.size for block in until_damage(broken(3), told.append)] == [10, 10, 10]
    assert told == [fault]
    with pytest.raises(AudioError) as raised:
        list(until_damage(broken(0), told.append))
    assert (raised.value, told) == (fault, [fault])


@pytest.mark.parametrize("code", ["empty_audio", "unsupported_audio", "no_audio_stream", "audio_too_long"])
def test_what_is_no_damage_is_raised(code):
    """A film over the limit is refused, not answered in part."""

    def refused():
        yield np.zeros(10, np.float32)
        raise AudioError(code, "no")

    with pytest.raises(AudioError) as raised:
        list(until_damage(refused(), lambda _: pytest.fail("it was taken for damage")))
    assert raised.value.code == code


def test_a_whole_file_has_no_damage(make):
    """All of it, and nothing told."""
    whole = decode_audio(make("flac"))
    blocks = until_damage(stream_audio(make("flac")), lambda _: pytest.fail("nothing is wrong"))
    assert np.array_equal(np.concatenate(list(blocks)), whole)


@pytest.mark.parametrize("source", ["bytes", "path", "file"])
def test_the_declared_length_leaves_the_audio_as_it_was(make, tmp_path, source):
    """It is asked before the same file is decoded."""
    path = tmp_path / "clip.flac"
    path.write_bytes(make("flac"))
    with path.open("rb") as file:
        given = {"bytes": path.read_bytes(), "path": path, "file": file}[source]
        assert declared_seconds(given) == pytest.approx(SECONDS, abs=0.1)
        assert np.array_equal(decode_audio(given), decode_audio(path))


@pytest.mark.parametrize(("muxer", "codec"), [("flac", "flac"), ("mp3", "libmp3lame"), ("adts", "aac"), ("wav", None)])
def test_the_length_is_known_before_anything_is_decoded(encode_audio, chirp, make, monkeypatch, muxer, codec):
    """By the header, or by the packets where no header tells; hours are refused before they are transcribed."""
    encoded = make("wav-16") if codec is None else encode_audio(chirp(SECONDS, SAMPLE_RATE), muxer, codec)
    monkeypatch.setattr(av, "AudioResampler", None)
    assert declared_seconds(encoded) == pytest.approx(SECONDS, abs=4 * LOSSY_PADDING_S)


def test_what_is_no_audio_has_no_length():
    """Whoever decodes it says what is wrong."""
    assert declared_seconds(b"no audio") == 0.0


@pytest.fixture
def bait(make, tmp_path):
    """Return an innocent recording that a playlist might name."""
    path = tmp_path / "bait.wav"
    path.write_bytes(make("wav-16"))
    return path


PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\na={target}\n",
}


@pytest.mark.parametrize("scheme", ["", "file:", "file://"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_an_uploaded_playlist_opens_no_file(bait, kind, scheme):
    """An upload that names a recording on this disk does not get it."""
    assert decode_audio(bait).size > 0
    assert code_of(PLAYLISTS[kind].format(target=f"{scheme}{bait}").encode()) == "unsupported_audio"


@pytest.mark.parametrize("kind", ["ffconcat", "m3u8"])
def test_an_uploaded_playlist_beside_its_target_opens_no_file(bait, monkeypatch, kind):
    """Nor does one that names it relatively, from the folder that it lies in."""
    monkeypatch.chdir(bait.parent)
    assert code_of(PLAYLISTS[kind].format(target=bait.name).encode()) == "unsupported_audio"


@pytest.mark.parametrize("suffix", ["m3u8", "wav"])
@pytest.mark.parametrize(("kind", "name"), [("ffconcat", "wav-16"), ("m3u8", "adts")])
def test_a_playlist_on_the_disk_opens_no_file(make, tmp_path, kind, name, suffix):
    """Nor does a file of a data set that is a list of the recordings beside it, whatever it is called."""
    (tmp_path / "bait.aac").write_bytes(make(name))
    path = tmp_path / f"list.{suffix}"
    path.write_text(PLAYLISTS[kind].format(target="bait.aac"), encoding="utf-8")
    assert code_of(path) == "unsupported_audio"


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("kind", ["ffconcat", "m3u8"])
def test_a_playlist_reaches_no_address(tmp_path, kind, on_disk):
    """Nobody is called because an upload, or a file of a data set, names an address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        content = PLAYLISTS[kind].format(target=f"http://127.0.0.1:{server.getsockname()[1]}/x.ts").encode()
        path = tmp_path / f"list.{kind}"
        path.write_bytes(content)
        assert code_of(path if on_disk else content) == "unsupported_audio"
        with pytest.raises(BlockingIOError):
            server.accept()


def damage(content, seed):
    """Cut or flip a few bytes, reproducibly."""
    dice = random.Random(seed)  # noqa: S311 - damage, not a secret
    damaged = bytearray(content[: dice.randrange(1, len(content) + 1)] if dice.random() < 0.5 else content)
    for _ in range(dice.randrange(0, 20)):
        damaged[dice.randrange(len(damaged)) if dice.random() < 0.5 else dice.randrange(min(64, len(damaged)))] = (
            dice.randrange(256)
        )
    return bytes(damaged)


def check_outcome(content):
    """Decode: samples, or a refusal of ours and in words."""
    samples, code, message = None, None, ""
    try:
        samples = decode_audio(content, max_seconds=30)
    except AudioError as error:
        code, message = error.code, str(error)
    if samples is None:
        assert code in CODES
        assert message
    else:
        assert samples.size > 0


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
@example(b"RIFF\xff\xff\xff\xffWAVEfmt \x00\x00\x00\x00data")
@example(b"OggS" + b"\xff" * 40)
@example(b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f")
def test_random_bytes_are_refused_in_words(content):
    """No upload makes anything else than an AudioError with a known code."""
    check_outcome(content)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(BROWSERS_AND_PHONES), st.integers(0, 2**32))
def test_a_damaged_file_is_decoded_or_refused_in_words(make, name, seed):
    """Nor does a real file with wrong bytes in it, or without its end."""
    check_outcome(damage(make(name), seed))


def wave_file(n_channels, rate, samples):
    """Return a plain RIFF WAV of 16-bit samples, shape (n_samples, n_channels), whatever it claims to be."""
    data = samples.astype("<i2").tobytes()
    layout = struct.pack("<IHHIIHH", 16, 1, n_channels, rate, 2 * rate * n_channels, 2 * n_channels, 16)
    body = b"WAVEfmt " + layout + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("n_channels", [3, 6, 8, 9, 24])
def test_many_channels_mix_to_their_mean(n_channels):
    """As many channels as a mixing desk writes are averaged; eight and more once crashed the process."""
    samples = np.tile(100 * np.arange(1, n_channels + 1), (1600, 1))
    decoded = decode_audio(wave_file(n_channels, 16_000, samples))
    np.testing.assert_allclose(decoded, 100 * (n_channels + 1) / 2 / 32_768, atol=1e-4)


@pytest.mark.parametrize("rate", [1_000_007, 100_000_007, 2**31 - 1])
def test_an_absurd_rate_is_refused(rate):
    """A rate that no recorder has is refused at once: the resampler would take seconds and gigabytes for it."""
    with pytest.raises(AudioError) as caught:
        decode_audio(wave_file(1, rate, np.zeros((1600, 1))))
    assert caught.value.code == "unsupported_audio"


@pytest.mark.parametrize(("begins_s", "hole_s"), [(0.0, 5.0), (1.5, 0.0), (1.5, 5.0)])
def test_a_hole_is_silence(begins_s, hole_s):
    """Sound after a hole, or that begins late, is where it was: the times of its words are those of the recording."""
    file = io.BytesIO()
    tone = (8000 * np.sin(np.arange(2 * SAMPLE_RATE) / 5)).astype(np.int16)
    with av.open(file, "w", format="matroska") as container:
        picture = container.add_stream("mjpeg", rate=1, width=16, height=16, pix_fmt="yuvj420p")
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        black = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), dtype=np.uint8), format="rgb24")
        black.pts = 0
        container.mux(picture.encode(black.reformat(format="yuvj420p")))  # what begins at 0
        for start_s in (begins_s, begins_s + 2 + hole_s):
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, round(start_s * SAMPLE_RATE)
            container.mux(stream.encode(frame))
        container.mux(picture.encode(None))
        container.mux(stream.encode(None))
    samples = decode_audio(file.getvalue())
    assert samples.size / SAMPLE_RATE == pytest.approx(begins_s + 4 + hole_s, abs=0.02)
    loud = np.flatnonzero(np.abs(samples) > 0.01) / SAMPLE_RATE
    assert loud[0] == pytest.approx(begins_s, abs=0.02)
    second = loud[loud > begins_s + 2 + hole_s / 2]
    assert second[0] == pytest.approx(begins_s + 2 + hole_s, abs=0.02) if hole_s else second.size
