"""The encoding of a text file: UTF-8, UTF-16 or UTF-32 with a byte order mark, or Windows-1252.

A file without a mark that is valid UTF-8 is UTF-8. Of other files, chardet says whether they are Windows-1252; any
other answer is an error that names it. Lines of ASCII alone are left out: they say nothing about the encoding, and
detectors do better without them (docs/log.md).
"""

import codecs
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

from lorahub.errors import DataError, need, one_line

# The longest line of a text file, in characters: nothing that is read to its end may be endless.
LONGEST_LINE = 2**26
_MARKS = (
    # That of UTF-32 begins like that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLOCK = 2**20
# Bytes of lines with other characters than ASCII that are enough to detect an encoding.
_ENOUGH = 2**17
_SHOWN = 30
# What separates words in a line.
_BETWEEN = (b" ", b",", b";", b"\t", b"|", b'"', b"\n")
# No text of a language: a symbol inside of a word, a capital with an accent between small letters, a word of two
# scripts. Text of old Macintosh and DOS programs, which modern detectors leave out, looks so in Windows-1252.
_LATIN = r"A-Za-zÀ-ÖØ-öø-ɏ"
_IMPLAUSIBLE = re.compile(
    r"(?<=[^\W\d_])[^\w\s\x00-\x7f’‘“”–—…·\xad](?=[^\W\d_])"
    r"|(?<=[a-zß-öø-ÿ])[À-ÖØ-ÝŠŽŒŸ](?=[a-zß-öø-ÿ])"
    rf"|[{_LATIN}][^\W\d_{_LATIN}]|[^\W\d_{_LATIN}][{_LATIN}]"
)


def lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a text file; raises DataError for bytes that are not of the encoding and for endless lines."""
    try:
        with path.open(encoding=encoding, newline="") as file:
            while line := file.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise DataError(f"{path} has a line of more than {LONGEST_LINE:,} characters. Split it.")
                yield line
    except UnicodeError as error:
        raise DataError(f"{path} is not valid {encoding.upper()} ({one_line(error)}). Save it as UTF-8.") from None


def detect(path: Path) -> tuple[str, str | None]:
    """Return the codec of a text file, and what was assumed (None for UTF-8); raises DataError if it is ambiguous."""
    with path.open("rb") as file:
        start = file.read(_BLOCK)
        for mark, codec in _MARKS:
            if start.startswith(mark):
                return codec, codec.upper()
        first = start.split(b"\n", 1)[0]
        if first.count(b"\0") * 3 > len(first):
            raise DataError(
                f"{path} looks like UTF-16 without a byte order mark. Save it as UTF-8, for example: "
                "iconv -f UTF-16LE -t UTF-8 OLD > NEW."
            )
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            block = start
            while block:
                decoder.decode(block)
                block = file.read(_BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252", _windows_1252(path)
    return "utf-8-sig", None


def _windows_1252(path: Path) -> str:
    """Return what was assumed, with a sample, if a file that is not UTF-8 is Windows-1252; else raise DataError."""
    telling: list[bytes] = []
    size, where, shown = 0, "", ""
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), start=1):
            if line.isascii():
                continue
            try:
                line.decode()
            except UnicodeDecodeError as error:
                if not telling:
                    where = f"{path}, line {number}: byte 0x{line[error.start]:02x}"
                    shown = f"line {number}: {_around(line, error.start)!r}"
            else:
                _refuse_mixed(path, number)
            if size < _ENOUGH:
                telling.append(line)
                size += len(line)
    found = _detected(b"".join(telling))
    if found is None or found[1] != _decoded(b"".join(telling), "cp1252"):
        guess = f"it may be {found[0]}" if found else "its encoding is unknown"
        raise DataError(
            f"{where} is not UTF-8, and {guess}. Save the file as UTF-8, for example: "
            f"iconv -f {found[0] if found else 'ENCODING'} -t UTF-8 OLD > NEW."
        )
    return f"Windows-1252 ({shown})"


def _detected(sample: bytes) -> tuple[str, str] | None:
    """Return the likeliest encoding in which the sample has plausible words, and the text; None if there is none."""
    chardet = need("chardet", extra="train")
    era = chardet.EncodingEra.MODERN_WEB
    for guess in chardet.detect_all(sample, ignore_threshold=True, encoding_era=era):
        text = None if guess["encoding"] is None else _decoded(sample, guess["encoding"])
        if text is not None and not _IMPLAUSIBLE.search(text):
            return guess["encoding"], text
    return None


def _decoded(sample: bytes, encoding: str) -> str | None:
    try:
        return sample.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _around(line: bytes, place: int) -> str:
    """Return the word at this byte of a line."""
    start = max(line.rfind(sign, 0, place) for sign in _BETWEEN) + 1
    end = min((found for sign in _BETWEEN if (found := line.find(sign, place)) >= 0), default=len(line))
    return line[start:end][:_SHOWN].decode("cp1252", "replace").strip()


def _refuse_mixed(path: Path, place: int) -> NoReturn:
    raise DataError(
        f"{path} is not UTF-8 as a whole, but line {place} is: it mixes encodings. Save it again as UTF-8 from its "
        "source."
    )
