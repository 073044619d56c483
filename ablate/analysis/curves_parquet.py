"""`curves.parquet`: a whole study in one file, so that a report can be made again from what is committed.

One row a run and logged step; the record, and what is known of each run, stand in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ablate.analysis.arrow import Floats, from_floats, repeat, to_floats
from ablate.analysis.checked_records import check_manifest, check_record, clean
from ablate.analysis.lines import complete_columns, find_records
from ablate.analysis.results import Known, Results, RunCurve, assemble, device_of
from ablate.errors import RecordError
from ablate.formatting import name_error
from ablate.tracking.study_record import Status

NAME = "curves.parquet"

_KEY = b"ablate"
_RUN = "run_id"
_GROUP_LINES = 50_000


def write_archive(results: Results, file: BinaryIO) -> None:
    """Raises `OSError` where the file cannot be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    runs = list({run.run_id: run for run in results.runs}.values())
    names = dict.fromkeys(name for run in runs for name in run.columns)
    metadata = {"record": results.record.to_dict(), "runs": {run.run_id: _describe(run) for run in runs}}
    schema = pa.schema(
        [(_RUN, pa.dictionary(pa.int32(), pa.string())), *((name, pa.float64()) for name in names)],
        metadata={_KEY: json.dumps(metadata, separators=(",", ":")).encode()},
    )
    splits = dict.fromkeys(names, "BYTE_STREAM_SPLIT")  # smaller than dictionaries here, and four times as fast
    options = {"compression": "zstd", "use_dictionary": [_RUN], "column_encoding": splits, "write_statistics": False}
    with pq.ParquetWriter(file, schema, **options) as writer:
        for group in _group(runs):
            lengths = [run.columns["step"].size for run in group]
            arrays = [repeat([run.run_id for run in group], lengths)]
            for name in names:
                parts = [run.columns.get(name, np.full(n, np.nan)) for run, n in zip(group, lengths, strict=True)]
                arrays.append(from_floats(np.concatenate(parts)))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _group(runs: Sequence[RunCurve]) -> Iterator[list[RunCurve]]:
    """Runs that are written together: enough lines that what a group costs does not count, few enough for memory."""
    group: list[RunCurve] = []
    for run in runs:
        group.append(run)
        if sum(member.columns["step"].size for member in group) >= _GROUP_LINES:
            yield group
            group = []
    if group:
        yield group


def read_archive(path: Path) -> Results:
    """The study as it was archived. Raises `RecordError` where the file is missing or is no such archive."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
        metadata = clean(json.loads(table.schema.metadata[_KEY]))
        arrays = {name: to_floats(table[name]) for name in table.column_names if name != _RUN}
        record, abouts = check_record(metadata["record"], path), metadata["runs"]
        known, start = {}, 0
        for run_id, about in abouts.items():
            end = start + about["n_lines"]
            known[run_id] = _recall({name: values[start:end] for name, values in arrays.items()}, about, path)
            start = end
        return assemble(record, known, str(path))
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, AttributeError, RecursionError):
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
    )


def _describe(run: RunCurve) -> Mapping[str, Any]:
    """What is known of a run besides its curve, without names of machines and paths on them."""
    device = {key: value for key, value in device_of(run.manifest).items() if key != "host"}
    return {
        "n_lines": run.columns["step"].size,
        "status": replace(run.status, worker="", error=name_error(run.status.error)).to_dict(),
        "manifest": {**run.manifest, "device": device},
        "config": {key: value for key, value in run.config.items() if key != "data"},
        "n_passed_over": run.n_passed_over,
        "is_altered": run.is_altered,
        "unread": run.unread,
    }
