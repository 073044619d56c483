"""Between numpy and Arrow without pandas, which pyarrow's own conversions load: that takes longer than the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST_FIRST: Any = "little"  # Arrow's order of the bits that say which values are there


def is_numeric(kind: Any) -> bool:
    """Whether an Arrow type is one that numbers in JSON get."""
    import pyarrow as pa

    return kind in (pa.float64(), pa.int64())


def to_floats(column: Any) -> Floats:
    """An Arrow column of numbers, nan where it is null."""
    return np.concatenate([np.empty(0), *map(_read_chunk, column.chunks)])


def from_floats(values_n: Floats) -> Any:
    """An Arrow array of float64, null where a value is nan."""
    import pyarrow as pa

    is_there = np.packbits(~np.isnan(values_n), bitorder=_LEAST_FIRST)
    values = np.ascontiguousarray(values_n, np.float64)
    return pa.Array.from_buffers(pa.float64(), values.size, [pa.py_buffer(is_there), pa.py_buffer(values)])


def repeat(texts: Sequence[str], times: Sequence[int]) -> Any:
    """An Arrow array of each text so many times, each stored once."""
    import pyarrow as pa

    data = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int32)
    words = pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(data))])
    places = np.repeat(np.arange(len(texts), dtype=np.int32), times)
    indices = pa.Array.from_buffers(pa.int32(), places.size, [None, pa.py_buffer(places)])
    return pa.DictionaryArray.from_arrays(indices, words)


def _read_chunk(chunk: Any) -> Floats:
    validity, data = chunk.buffers()
    kind = np.int64 if str(chunk.type) == "int64" else np.float64
    values = np.frombuffer(data, kind, len(chunk), chunk.offset * 8).astype(np.float64)
    if chunk.null_count:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder=_LEAST_FIRST)
        values[bits[chunk.offset : chunk.offset + len(chunk)] == 0] = np.nan
    return values
