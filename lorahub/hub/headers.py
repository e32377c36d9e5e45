"""The header of a safetensors file: names, types, shapes and places of its tensors, before any of them is read.

In: a file on this machine, or one on the Hub, of which only the header is fetched. Out: checked `Tensor`s by name, or a
HeaderError. The parser of huggingface_hub multiplies the entries of a shape, which may be text of any length; this one
accepts small whole numbers only.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from lorahub.errors import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Several times what the largest real adapters have: a layer has up to three tensors and a name of about 80 characters.
MOST_TENSORS = 20_000
LONGEST_NAME = 300
LARGEST_HEADER = 8 * 1024**2
_LARGEST_SIZE, _MOST_DIMENSIONS = 2**48, 8
_METADATA = "__metadata__"
_LENGTH_BYTES = 8
# Most headers are shorter, so that they need one request.
_FIRST_REQUEST = 100_000
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4,
    "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


class HeaderError(ValueError):
    """A header that cannot be read, or that contradicts itself or the size of its file."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Type, shape and place of a tensor: from byte `start` to before byte `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read(file: BinaryIO, size: int) -> dict[str, Tensor]:
    """Return the tensors of an open file of `size` bytes by name; raises HeaderError and OSError."""
    length = _length(file.read(_LENGTH_BYTES))
    return parse(file.read(length), length, size)


def fetch(api: "HfApi", repo: str, filename: str, revision: str, size: int) -> dict[str, Tensor]:
    """Return the tensors of a file of `size` bytes on the Hub by name; raises HeaderError and the Hub's errors."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    url = hf_hub_url(repo, filename, revision=revision, endpoint=api.endpoint)

    def part(start: int, end: int) -> bytes:
        headers = {**build_hf_headers(token=api.token), "Range": f"bytes={start}-{end - 1}"}
        response = get_session().get(url, headers=headers, timeout=10)
        hf_raise_for_status(response)
        return bytes(response.content)

    first = part(0, min(_FIRST_REQUEST, max(size, 1)))
    length = _length(first[:_LENGTH_BYTES])
    content = first[_LENGTH_BYTES : _LENGTH_BYTES + length]
    if len(content) < length and _LENGTH_BYTES + length <= size:
        content = part(_LENGTH_BYTES, _LENGTH_BYTES + length)[:length]
    return parse(content, length, size)


def _length(content: bytes) -> int:
    length = int.from_bytes(content, "little")
    if len(content) < _LENGTH_BYTES or length > LARGEST_HEADER:
        raise HeaderError(f"it does not begin with the length of a header of at most {LARGEST_HEADER:,} bytes")
    return length


def parse(content: bytes, length: int, size: int) -> dict[str, Tensor]:
    """Return the tensors of a header of `length` bytes in a file of `size` bytes by name; raises HeaderError."""
    if len(content) < length:
        raise HeaderError("the file ends before it does")
    try:
        header = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"it is not JSON: {one_line(error)}") from None
    if not isinstance(header, dict):
        raise HeaderError("it is not a JSON object")
    header.pop(_METADATA, None)
    if len(header) > MOST_TENSORS:
        raise HeaderError(f"it names {len(header):,} tensors, more than the {MOST_TENSORS:,} of any real adapter")
    start = _LENGTH_BYTES + length
    tensors = {name: _tensor(name, fields, start) for name, fields in header.items()}
    _check_places(tensors, start, size)
    return tensors


def _tensor(name: str, fields: Any, start: int) -> Tensor:
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise HeaderError(f"the name {name[:60]!r} has more than {LONGEST_NAME} characters, or control characters")
    match fields:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [low, high]} if (
            len(shape) <= _MOST_DIMENSIONS and all(map(_is_size, [*shape, low, high])) and low <= high
        ):
            return Tensor(dtype=dtype, shape=tuple(shape), start=start + low, end=start + high)
    raise HeaderError(f"type, shape or place of {name} is damaged")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_SIZE


def _check_places(tensors: Mapping[str, Tensor], start: int, size: int) -> None:
    """Raise HeaderError unless the tensors fill the file from `start` to its end, each as large as its shape says."""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        item_bytes = _ITEM_BYTES.get(tensor.dtype)
        if item_bytes is not None and tensor.end - tensor.start != math.prod(tensor.shape) * item_bytes:
            raise HeaderError(f"the size of {name} does not fit its shape {tensor.shape}")
        if tensor.start != start:
            raise HeaderError(f"{name} does not begin where the tensor before it ends")
        start = tensor.end
    if start != size:
        raise HeaderError(f"its tensors end at byte {start:,}, the file at byte {size:,}")
