"""Bytes of a text file to text: UTF-8 where it is, else what the bytes look like, with a note of what was assumed.

UTF-16 and UTF-32 are known by their byte order mark. A file that is UTF-8 but for a few lines is read line by line. Everything
else is left to charset-normalizer; text that was read wrongly is caught later, by the share of damaged characters.
"""

from __future__ import annotations

import codecs

from charset_normalizer import from_bytes

from stages.ingest.reasons import DropReason, UnusableError

_MARKS = (  # the longer first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 1 << 16
# Of the lines that are not plain ASCII, so many must be UTF-8 for the file to count as UTF-8 with strays.
_UTF8_SHARE = 0.5


def decode(data: bytes) -> tuple[str, str]:
    """(text, note); the note is empty for UTF-8. Raises UnusableError (binary, unknown_encoding)."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strictly(data, encoding), f"decoded as {encoding}"
    if b"\0" in data:
        raise UnusableError(DropReason.BINARY, f"holds a NUL byte at {data.index(0)}; it is no text file")
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return _by_line(data) or _by_looks(data)


def _strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnusableError(
            DropReason.UNKNOWN_ENCODING,
            f"byte {error.start} is no {encoding}; convert the file, for example with iconv",
        ) from None


def _by_line(data: bytes) -> tuple[str, str] | None:
    """For mixed files: lines that are no UTF-8 are read as Windows-1252, if they are the smaller part."""
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    texts: list[str] = []
    utf8 = other = 0
    for line in lines:
        try:
            text = line.decode("utf-8")
            utf8 += not line.isascii()
        except UnicodeDecodeError:
            text = line.decode("cp1252", errors="replace")
            other += 1
        texts.append(text)
    if utf8 < _UTF8_SHARE * (utf8 + other):
        return None
    return "\n".join(texts), f"{other} of {len(lines)} lines are no UTF-8 and were decoded as cp1252"


def _by_looks(data: bytes) -> tuple[str, str]:
    sample = data
    if len(data) > _SAMPLE_BYTES:  # around the first byte that is not ASCII, whole lines
        first = next(index for index in range(0, len(data), 4096) if not data[index : index + 4096].isascii())
        start = data.rfind(b"\n", 0, first) + 1
        sample = data[start : start + _SAMPLE_BYTES]
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    best = from_bytes(sample).best()
    if best is None:
        raise UnusableError(
            DropReason.UNKNOWN_ENCODING, "no UTF-8, and no other encoding reads as text; convert it with iconv"
        )
    return _strictly(data, best.encoding), f"decoded as {best.encoding}"
