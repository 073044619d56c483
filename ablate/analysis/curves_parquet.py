"""`curves.parquet`: a whole study in one file, from which a report can be made again.

It has one row per run and logged step. The study's record and the facts about each run are in the file's metadata.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ablate.analysis.checked_records import check_manifest, check_record, clean
from ablate.analysis.curve_columns import Floats, complete_columns, find_records, to_floats
from ablate.analysis.results import Known, Results, assemble
from ablate.analysis.run_curve import RunCurve, device_of
from ablate.errors import RecordError
from ablate.formatting import name_error
from ablate.tracking.evaluations import EvaluationRecord
from ablate.tracking.reruns import Rerun
from ablate.tracking.study_record import Status

NAME = "curves.parquet"

_KEY = b"ablate"
_RUN = "run_id"
_GROUP_LINES = 50_000
UNREADABLE = (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError, zlib.error)


def write_archive(results: Results, file: BinaryIO) -> None:
    """Write a study into one file. Raises `OSError` if it cannot be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    runs = list({run.run_id: run for run in results.runs}.values())
    names = dict.fromkeys(name for run in runs for name in run.columns)
    metadata = {"record": results.record.to_dict(), "runs": {run.run_id: _describe(run) for run in runs}}
    schema = pa.schema([(_RUN, pa.dictionary(pa.int32(), pa.string())), *((name, pa.float64()) for name in names)])
    splits = dict.fromkeys(names, "BYTE_STREAM_SPLIT")  # smaller than dictionaries here, and four times faster
    options = {"compression": "zstd", "use_dictionary": [_RUN], "column_encoding": splits, "write_statistics": False}
    with pq.ParquetWriter(file, schema, **options) as writer:
        for group in _group(runs):
            lengths = [run.columns["step"].size for run in group]
            arrays = [_repeat([run.run_id for run in group], lengths)]
            for name in names:
                parts = [run.columns.get(name, np.full(n, np.nan)) for run, n in zip(group, lengths, strict=True)]
                arrays.append(_from_floats(np.concatenate(parts)))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        writer.add_key_value_metadata({_KEY: _pack(metadata)})  # as part of the schema, it would be written twice


def _pack(metadata: Mapping[str, Any]) -> bytes:
    """Compress metadata to text, because Parquet does not compress it and wants UTF-8."""
    return base64.b64encode(zlib.compress(json.dumps(metadata, separators=(",", ":")).encode(), 9))


def _unpack(text: bytes) -> Any:
    """Read metadata, also as earlier versions wrote it: as plain JSON."""
    return json.loads(text if text.startswith(b"{") else zlib.decompress(base64.b64decode(text, validate=True)))


def _from_floats(values_n: Floats) -> Any:
    """Build an Arrow array of float64 from its buffers; nan becomes null. `pa.array` would import pandas."""
    import pyarrow as pa

    is_known = np.packbits(~np.isnan(values_n), bitorder="little")
    values = np.ascontiguousarray(values_n, np.float64)
    return pa.Array.from_buffers(pa.float64(), values.size, [pa.py_buffer(is_known), pa.py_buffer(values)])


def _repeat(texts: Sequence[str], times: Sequence[int]) -> Any:
    """Build an Arrow array that repeats each text the given number of times and stores it once."""
    import pyarrow as pa

    data = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int32)
    words = pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(data))])
    places = np.repeat(np.arange(len(texts), dtype=np.int32), times)
    indices = pa.Array.from_buffers(pa.int32(), places.size, [None, pa.py_buffer(places)])
    return pa.DictionaryArray.from_arrays(indices, words)


def _group(runs: Sequence[RunCurve]) -> Iterator[list[RunCurve]]:
    """Group the runs that are written together: large groups cost little overhead, small ones little memory."""
    group: list[RunCurve] = []
    n_lines = 0
    for run in runs:
        group.append(run)
        n_lines += run.columns["step"].size
        if n_lines >= _GROUP_LINES:
            yield group
            group, n_lines = [], 0
    if group:
        yield group


def read_archive(path: Path) -> Results:
    """Read the study as it was archived. Raises `RecordError` if the file is missing or is not such an archive."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table, metadata = file.read(), clean(_unpack(file.metadata.metadata[_KEY]))
        arrays = {name: to_floats(table[name]) for name in table.column_names if name != _RUN}
        record, abouts = check_record(metadata["record"], path), metadata["runs"]
        known, start = {}, 0
        for run_id, about in abouts.items():
            end = start + about["n_lines"]
            known[run_id] = _recall({name: values[start:end] for name, values in arrays.items()}, about, path)
            start = end
        return assemble(record, known, str(path))
    except (*UNREADABLE, pa.ArrowException):
        raise RecordError(f"{path}: cannot be read as an archive of a study") from None


def _recall(arrays: Mapping[str, Floats], about: Mapping[str, Any], path: Path) -> Known:
    known = {name: values for name, values in arrays.items() if np.isfinite(values).any()}
    columns = complete_columns(known, about["n_lines"])
    if not find_records(columns).all():
        raise ValueError("not the lines of a run")
    return Known(
        Status.from_dict(about["status"], path),
        columns,
        check_manifest(about["manifest"]),
        dict(about["config"]),
        int(about.get("n_passed_over", 0)),
        bool(about.get("is_altered", False)),
        str(about.get("unread", "")),
        tuple(EvaluationRecord.from_dict(record, path) for record in about.get("evaluations", ())),
        tuple(Rerun.from_dict(rerun, path) for rerun in about.get("reruns", ())),
    )


def _describe(run: RunCurve) -> Mapping[str, Any]:
    """Describe a run apart from its curve, without names of machines or paths on them."""
    device = {key: value for key, value in device_of(run.manifest).items() if key != "host"}
    return {
        "n_lines": run.columns["step"].size,
        "status": replace(run.status, worker="", error=name_error(run.status.error)).to_dict(),
        "manifest": {**run.manifest, "device": device},
        "config": {key: value for key, value in run.config.items() if key != "data"},
        "n_passed_over": run.n_passed_over,
        "is_altered": run.is_altered,
        "unread": run.unread,
        **_describe_evaluations(run),
        **({"reruns": [rerun.to_dict() for rerun in run.reruns]} if run.reruns else {}),
    }


def _describe_evaluations(run: RunCurve) -> Mapping[str, Any]:
    """The results of evaluations, without their knobs, which may be paths on a machine. Older archives have none."""
    records = [replace(record, knobs={}, error=name_error(record.error)).to_dict() for record in run.evaluations]
    return {"evaluations": records} if records else {}
