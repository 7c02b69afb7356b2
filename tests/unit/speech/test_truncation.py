"""The promises of reading a file's own word on where it ends."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.truncation import MAX_BOXES, STREAMING_SIZES, declares_duration, lacks_index, missing_bytes, ogg_fault


def riff(n_bytes, *, declared=None, before=b""):
    """Make a WAV of `n_bytes` of samples."""
    declared = n_bytes if declared is None else declared
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    data = b"data" + struct.pack("<I", declared) + b"\x01" * n_bytes
    body = b"WAVE" + form + before + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ogg_page(number, *segments, last=False):
    """Make an Ogg page; its checksum is nobody's business here."""
    header = struct.pack("<4sBBQIIIB", b"OggS", 0, 4 if last else 0, 0, 1, number, 0, len(segments))
    return header + bytes(segments) + b"\x02" * sum(segments)


def missing(content):
    """Ask about a WAV that is small enough to be its own head."""
    return missing_bytes(content, len(content))


def fault(content):
    """Ask about an Ogg file."""
    return ogg_fault(io.BytesIO(content))


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_wav_knows_its_length_to_the_byte(held, lost):
    """As many bytes are missing as were cut off."""
    if held + lost in STREAMING_SIZES:
        lost += 1
    assert missing(riff(held, declared=held + lost)) == lost


@pytest.mark.parametrize("size", sorted(STREAMING_SIZES))
def test_a_streamed_wav_misses_nothing(size):
    """The sizes that are written to pipes promise nothing."""
    assert missing(riff(100, declared=size)) == 0


@pytest.mark.parametrize("length", [4, 5, 0])
def test_chunks_before_the_samples_are_stepped_over(length):
    """Chunks of even and odd lengths (padded by one) lead to the samples."""
    chunk = b"LIST" + struct.pack("<I", length) + b"\x00" * (length + length % 2)
    assert missing(riff(100, before=chunk)) == 0
    assert missing(riff(100, declared=130, before=chunk)) == 30


def test_the_word_data_inside_a_chunk_is_no_chunk():
    """Only the chunks' own names count."""
    text = b"data\xff\xff\x00\x00"
    chunk = b"LIST" + struct.pack("<I", len(text)) + text
    assert missing(riff(100, before=chunk)) == 0


def test_bytes_after_the_samples_do_no_harm():
    """A WAV may go on after its samples."""
    assert missing(riff(100) + b"LIST" + struct.pack("<I", 0)) == 0


OGG = [ogg_page(0, 200), ogg_page(1, 100, 50), ogg_page(2, 60, last=True)]


def test_an_ogg_file_ends_with_a_last_page():
    """Numbered pages without a gap, and the end-of-stream flag, make it whole."""
    assert fault(b"".join(OGG)) is None


@given(st.integers(1, len(b"".join(OGG)) - 1))
def test_an_ogg_file_that_ends_early_is_cut(lost):
    """Between two pages, in a page, in its table or in its header: whatever lacks its end is cut."""
    assert fault(b"".join(OGG)[:-lost]) == "truncated"


def test_an_ogg_file_that_lacks_a_page_in_the_middle_is_damaged():
    """A page that is gone, or is no page any more, leaves a hole that FFmpeg would jump over."""
    assert fault(OGG[0] + OGG[2]) == "damaged"
    assert fault(OGG[0] + b"\x00" * len(OGG[1]) + OGG[2]) == "damaged"


@pytest.mark.parametrize("content", [b"", b"fLaC" + b"\x00" * 50, b"RIFF\x00\x00\x00\x00AVI data", b"\xff\xfb\x90\x00"])
def test_other_formats_promise_nothing_here(content):
    """Only RIFF WAVE is judged by its bytes."""
    assert missing(content) == 0


@given(st.binary(max_size=200), st.sampled_from([b"", b"RIFF\x00\x00\x00\x00WAVE", b"OggS"]))
def test_no_bytes_make_it_fail(content, start):
    """Whatever comes after the mark, there is an answer."""
    assert missing(start + content) >= 0
    assert fault(start + content) in {None, "truncated", "damaged"}


@pytest.mark.parametrize("name", ["flac", "aiff", "ogg", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"])
def test_formats_with_a_duration_in_their_header_declare_it(name):
    """One of FFmpeg's alternative names is enough."""
    assert declares_duration(name, b"")


@pytest.mark.parametrize("name", ["wav", "caf", "aac", "amr", "mpegts"])
def test_formats_whose_duration_is_computed_do_not(name):
    """A length that was computed from the size of the file proves nothing."""
    assert not declares_duration(name, b"")


@pytest.mark.parametrize("mark", [b"Xing", b"Info"])
@pytest.mark.parametrize("tag", [0, 50, 5000])
def test_an_mp3_declares_it_in_its_first_frame(mark, tag):
    """A Xing header counts, behind an ID3 tag of any length."""
    id3 = b"ID3\x04\x00\x00" + bytes([0, 0, tag >> 7, tag & 0x7F]) + b"\x00" * tag if tag else b""
    assert declares_duration("mp3", id3 + b"\xff\xfb\x90\x00" + b"\x00" * 32 + mark)


def test_an_mp3_without_xing_declares_nothing():
    """The word has to stand in the first frame: a song's title is not a header."""
    title = b"ID3\x04\x00\x00\x00\x00\x00\x20" + b"Xing".ljust(32, b"\x00")
    assert not declares_duration("mp3", title + b"\xff\xfb\x90\x00" + b"\x00" * 4096 + b"Xing")


def box(kind, content=b"", length=None):
    """Write a box of an MP4 file."""
    return struct.pack(">I4s", 8 + len(content) if length is None else length, kind) + content


FTYP = box(b"ftyp", b"M4A \0\0\0\0")
WIDE = box(b"mdat", struct.pack(">Q", 16 + 100) + bytes(100), length=1)


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        (FTYP + box(b"mdat", bytes(100)) + box(b"moov", bytes(9)), False),
        (FTYP + box(b"moov", bytes(9)) + box(b"mdat", bytes(100))[:50], False),
        (FTYP + box(b"mdat", bytes(100)), True),
        (FTYP + box(b"mdat", bytes(100))[:50], True),
        (FTYP + box(b"mdat", bytes(100), length=0), True),
        (FTYP + WIDE + box(b"moov"), False),
        (FTYP + WIDE, True),
        (FTYP, True),
        (FTYP + box(b"free", length=7) + bytes(50), False),
        (FTYP + box(b"free") * MAX_BOXES, False),
        (box(b"mdat", bytes(100)), False),
        (b"ftyp", False),
        (b"", False),
    ],
)
def test_an_mp4_without_its_index_is_told_from_what_is_none(content, lacks):
    """Wherever it ends, whatever its boxes claim, and however many there are."""
    assert lacks_index(io.BytesIO(content)) is lacks
