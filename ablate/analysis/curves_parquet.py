"""`curves.parquet`: a whole study in one file, from which a report can be made again.

It has one row per run and logged step. The study's record and the facts about each run are in the file's metadata. The
next report of the study takes curves that have not changed from it, because JSON takes much longer to parse.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ablate.analysis.checked_records import check_manifest, check_record, clean
from ablate.analysis.curve_columns import CurveColumns, Floats, complete_columns, find_records, keep_known, to_floats
from ablate.analysis.results import Known, Results, assemble
from ablate.analysis.run_curve import RunCurve, device_of
from ablate.errors import RecordError
from ablate.files import open_regular
from ablate.formatting import name_error
from ablate.tracking.evaluations import EvaluationRecord
from ablate.tracking.reruns import Rerun
from ablate.tracking.study_record import Status

NAME = "curves.parquet"

_KEY, _SEAL = b"ablate", b"ablate.seal"
_READER = "1"  # raise it when `read_columns` gives other numbers for the same file
_RUN = "run_id"
_GROUP_LINES = 50_000
UNREADABLE = (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError, zlib.error)
"""What reading a file that is no archive, or a damaged one, raises. `_open` turns Arrow's errors into `ValueError`."""


def write_archive(results: Results, file: BinaryIO) -> None:
    """Write a study into one file. Raises `OSError` if it cannot be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    runs, names, metadata = _outline(results)
    schema = pa.schema([(_RUN, pa.dictionary(pa.int32(), pa.string())), *((name, pa.float64()) for name in names)])
    splits = dict.fromkeys(names, "BYTE_STREAM_SPLIT")  # smaller than dictionaries here, and four times faster
    options = {"compression": "zstd", "use_dictionary": [_RUN], "column_encoding": splits, "write_statistics": False}
    options["write_page_checksum"] = True
    with pq.ParquetWriter(file, schema, **options) as writer:
        for group in _group(runs):
            lengths = [run.columns["step"].size for run in group]
            arrays = [_repeat([run.run_id for run in group], lengths)]
            for name in names:
                parts = [run.columns.get(name, np.full(n, np.nan)) for run, n in zip(group, lengths, strict=True)]
                arrays.append(_from_floats(np.concatenate(parts)))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        writer.add_key_value_metadata(metadata)  # as part of the schema, it would be written twice


def _pack(metadata: Mapping[str, Any]) -> bytes:
    """Compress metadata to text, because Parquet does not compress it and wants UTF-8."""
    return base64.b64encode(zlib.compress(json.dumps(metadata, separators=(",", ":")).encode(), 9))


def _unpack(text: bytes) -> Any:
    """Read metadata, also as earlier versions wrote it: as plain JSON."""
    return json.loads(text if text.startswith(b"{") else zlib.decompress(base64.b64decode(text, validate=True)))


def is_archived(results: Results, path: Path) -> bool:
    """Tell whether the curves were read from this archive, and it says everything else that it would say now.

    Then it need not be written again: reading has checked its numbers, and the rest decides what they are.
    """
    if results.archive != path:
        return False
    try:
        with _open(path) as archive:
            return bool(archive.metadata.metadata.items() >= _outline(results)[2].items())
    except UNREADABLE:
        return False


def _outline(results: Results) -> tuple[list[RunCurve], list[str], dict[bytes, bytes]]:
    """The runs and the columns of an archive, and its metadata."""
    runs = list({run.run_id: run for run in results.runs}.values())
    names = list(dict.fromkeys(name for run in runs for name in run.columns))
    about = {"record": results.record.to_dict(), "runs": {run.run_id: _describe(run) for run in runs}}
    text = _pack(about)
    return runs, names, {_KEY: text, _SEAL: _seal(text, names)}


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
    try:
        with _open(path) as archive:
            about = clean(_unpack(archive.metadata.metadata[_KEY]))
            record, runs = check_record(about["record"], path), about["runs"]
            known = {run_id: _recall(curve, runs[run_id], path) for run_id, curve in _read_curves(archive, runs)}
        return assemble(record, known, str(path))
    except UNREADABLE:
        raise RecordError(f"{path}: cannot be read as an archive of a study") from None


def read_curves(path: Path) -> dict[str, CurveColumns]:
    """Read only the curves of an archive, by run id, as `read_columns` read them from their files.

    It is empty unless the archive was written by this version of the reader and every checksum in it is right.
    """
    try:
        with _open(path) as archive:
            metadata = archive.metadata.metadata
            if metadata[_SEAL] != _seal(metadata[_KEY], archive.schema_arrow.names[1:]):
                return {}
            return dict(_read_curves(archive, _unpack(metadata[_KEY])["runs"]))
    except UNREADABLE:
        return {}


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open an archive. Arrow's errors are raised as `ValueError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_regular(path) as file, pq.ParquetFile(file, page_checksum_verification=True) as archive:
            yield archive
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None


def _seal(text: bytes, names: Iterable[str]) -> bytes:
    """The checksum of everything that the checksums of the pages do not cover, and the version of the reader."""
    return str(zlib.crc32("\n".join([_READER, *names]).encode(), zlib.crc32(text))).encode()


def _read_curves(archive: Any, runs: Mapping[str, Any]) -> Iterator[tuple[str, CurveColumns]]:
    """Yield the curve of each run. Only its numbers stay in memory, not the whole table.

    Raises `ValueError` if lines are missing, or are not those of runs.
    """
    arrays = {name: np.empty(0) for name in archive.schema_arrow.names if name != _RUN}
    n_groups, n_read = archive.num_row_groups, 0
    for run_id, about in runs.items():
        n = about["n_lines"]
        while arrays["step"].size < n:
            if n_read == n_groups:
                raise ValueError("lines are missing")
            table, n_read = archive.read_row_group(n_read), n_read + 1
            arrays = {name: np.concatenate([rest, to_floats(table[name])]) for name, rest in arrays.items()}
        columns = complete_columns(keep_known({name: values[:n] for name, values in arrays.items()}), n)
        if not find_records(columns).all():
            raise ValueError("not the lines of a run")
        yield run_id, CurveColumns(columns, int(about.get("n_passed_over", 0)), tuple(about.get("extent", (0, 0))))
        arrays = {name: values[n:] for name, values in arrays.items()}


def _recall(curve: CurveColumns, about: Mapping[str, Any], path: Path) -> Known:
    return Known(
        Status.from_dict(about["status"], path),
        curve.columns,
        check_manifest(about["manifest"]),
        dict(about["config"]),
        curve.n_passed_over,
        bool(about.get("is_altered", False)),
        str(about.get("unread", "")),
        tuple(EvaluationRecord.from_dict(record, path) for record in about.get("evaluations", ())),
        tuple(Rerun.from_dict(rerun, path) for rerun in about.get("reruns", ())),
        curve.extent,
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
        "extent": run.extent,
        "is_altered": run.is_altered,
        "unread": run.unread,
        **_describe_evaluations(run),
        **({"reruns": [rerun.to_dict() for rerun in run.reruns]} if run.reruns else {}),
    }


def _describe_evaluations(run: RunCurve) -> Mapping[str, Any]:
    """The results of evaluations, without their knobs, which may be paths on a machine. Older archives have none."""
    records = [replace(record, knobs={}, error=name_error(record.error)).to_dict() for record in run.evaluations]
    return {"evaluations": records} if records else {}
