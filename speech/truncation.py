"""Is an encoded file cut off? Only what its own structure declares is believed.

FFmpeg decodes what is left of a cut file without a word, and computes a WAV's length from the file's size. Here
the promises that formats make are read: RIFF's chunk sizes, Ogg's numbered pages. Containers whose
declared duration FFmpeg reports truthfully (FLAC, MP4, Matroska, AIFF, AU …) are compared by `speech.audio` after
decoding. A format that declares nothing, or whose declaration is
not read here (raw MP3 without a Xing header, ADTS, CAF, W64), cannot be judged.
"""

import struct
from typing import BinaryIO, Literal

STREAMING_SIZES = frozenset({0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0xFFFFFFFF - 44})
"""RIFF data sizes that programs write to a pipe, when they cannot know the length."""

DURATION_IS_DECLARED = frozenset({"aiff", "au", "flac", "matroska", "mov", "ogg"})
"""FFmpeg's demuxers whose stream duration comes from the header, not from the file's size (Ogg's: the last page's)."""

MAX_BOXES = 1000
"""Of an MP4 file, at its top; recorders write a handful, and a hostile file millions."""


def declares_duration(format_name: str, head: bytes) -> bool:
    """Say whether FFmpeg's duration for this file comes from a header.

    Args:
        format_name: FFmpeg's name of the demuxer, alternatives separated by commas.
        head: the first bytes of the file.
    """
    if format_name == "mp3":
        start = _id3_size(head)
        frame = head[start : start + 4096]
        return b"Xing" in frame or b"Info" in frame
    return not DURATION_IS_DECLARED.isdisjoint(format_name.split(","))


def missing_bytes(head: bytes, size: int) -> int:
    """Count the bytes that a RIFF WAV of `size` bytes says it has and has not; 0 for every other format.

    Args:
        head: the first bytes of the file, a mebibyte or all of it.
        size: bytes in the whole file.
    """
    return _riff_missing(head, size) if head[:4] == b"RIFF" and head[8:12] == b"WAVE" else 0


def lacks_index(file: BinaryIO) -> bool:
    """Say whether an MP4 or QuickTime file ends before the box that says how to read it.

    Recorders write that box, `moov`, last: of a recording that was interrupted, or cut off on its way, FFmpeg knows
    nothing but that it is invalid.

    Args:
        file: is left anywhere.
    """
    # ISO/IEC 14496-12, 4.2: a box is its length, a type, and where the length is 1, a length of 64 bits.
    position = 0
    for i in range(MAX_BOXES):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return i > 0
        length, kind = int.from_bytes(header[:4]), header[4:]
        if kind == b"moov" or (i == 0 and kind != b"ftyp"):
            return False
        if length == 1:
            length = int.from_bytes(file.read(8))
        if length < 8:  # 0: to the end of the file
            return length == 0
        position += length
    return False


def ogg_fault(file: BinaryIO) -> Literal["truncated", "damaged"] | None:
    """Walk an Ogg file's pages: is one missing in the middle, or the last?

    FFmpeg skips what it cannot read until the next page, so that the middle of a recording vanishes without a word.

    Args:
        file: at its start; left anywhere.
    """
    # RFC 3533 §6: a page is 27 bytes, a table of segment lengths, the segments; flag 4 marks a stream's last page.
    pages: dict[int, int] = {}
    flags = 0
    while header := file.read(27):
        if header[:4] != b"OggS"[: len(header)]:
            return "damaged"
        if len(header) < 27:
            return "truncated"
        flags, serial, page, n_segments = header[5], *struct.unpack_from("<II", header, 14), header[26]
        if page != pages.get(serial, page - 1) + 1:
            return "damaged"
        pages[serial] = page
        table = file.read(n_segments)
        length = sum(table)
        if len(table) < n_segments or len(file.read(length)) < length:
            return "truncated"
    return None if flags & 4 else "truncated"


def _riff_missing(head: bytes, size: int) -> int:
    position = 12
    while position + 8 <= len(head):
        identifier, length = struct.unpack_from("<4sI", head, position)
        if identifier == b"data":
            return 0 if length in STREAMING_SIZES else max(0, position + 8 + length - size)
        position += 8 + length + length % 2  # chunks are padded to even lengths
    return 0


def _id3_size(head: bytes) -> int:
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:  # four bytes of seven bits each
        size = size << 7 | byte & 0x7F
    return 10 + size
