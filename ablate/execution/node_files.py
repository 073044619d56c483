"""The files of a worker: the driver's own where its node sees them, and copies that travel through Ray elsewhere.

A worker on a node without the study's folder trains each run in a temporary folder. A thread sends what is new there to
the courier on the driver's node.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.data.corpora import Corpus, CorpusSequence
from ablate.errors import AblateError, ResourceError
from ablate.execution.cluster import PREFIX, remove_abandoned
from ablate.execution.courier import Sign, has_content
from ablate.execution.sending import BLOCK_BYTES, Sending, get
from ablate.files import make_folder, open_regular
from ablate.sources.files import hash_program
from ablate.tasks.contract import Job
from ablate.tracking.folders import RunFolder, StudyFolder

COMPLETE, LOCK = ".complete", ".lock"


class NodeFiles:
    """Finds the files that the driver names. `study` is the folder in which this worker reads and writes runs: the
    driver's, or a temporary one if this node does not see that or there is another folder under its path.

    Without a `courier`, every path is the driver's.
    """

    def __init__(self, study: Path, courier: Any = None) -> None:
        self.home, self.courier = study, courier
        self.is_shared = courier is None or has_content(*get(courier.token.remote()))
        self._sending: Sending | None = None
        self.study = study
        if not self.is_shared:
            self.study = self._scratch / str(os.getpid()) / study.name
            make_folder(self.study)

    @cached_property
    def _scratch(self) -> Path:
        """A temporary folder for this driver's workers on this node. A later worker removes it if they were killed."""
        place = Path(tempfile.gettempdir())
        remove_abandoned(place)
        folder = place / f"{PREFIX}{get(self.courier.token.remote())[0].name.lstrip('.')}"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(self._held, fcntl.LOCK_SH)
        return folder

    def leave(self) -> None:
        """Remove the temporary folder, unless other workers on this node still use it."""
        if "_scratch" in self.__dict__:
            with suppress(BlockingIOError):
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def has_failed(self) -> bool:
        """Whether the run in progress cannot reach the driver, so training it further is useless."""
        return self._sending is not None and self._sending.error is not None

    def find(self, path: Path, names: Iterable[str] | None = None) -> Path:
        """A file or folder of the driver on this node, which is fetched unless this node sees it. If
        `names` are given, only those of a folder are. Returns `path` itself if the driver does not have it either."""
        if self.courier is None or (self.is_shared and path.exists()):
            return path
        signs: list[Sign] = get(self.courier.list_files.remote(path, names))
        if not signs:
            return path
        key = hashlib.sha256(json.dumps([str(path), signs]).encode()).hexdigest()[:16]
        target = self._scratch / "files" / key / path.name
        make_folder(target.parent)
        with open_regular(target.parent / LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another worker on this node may be fetching it
            if not (target.parent / COMPLETE).exists():
                for name, n_bytes, _ in signs:
                    self._fetch(path / name, target / name, n_bytes)
                (target.parent / COMPLETE).touch()
        return target

    def _fetch(self, source: Path, target: Path, n_bytes: int) -> None:
        make_folder(target.parent)
        with target.open("wb") as file:
            for offset in range(0, n_bytes, BLOCK_BYTES):
                file.write(get(self.courier.read.remote(source, offset, min(BLOCK_BYTES, n_bytes - offset))))

    def find_corpus(self, corpus: Corpus | None) -> Corpus | None:
        """The corpus with the files of this node."""
        if isinstance(corpus, CorpusSequence):
            phases = tuple(found for phase in corpus.phases if (found := self.find_corpus(phase)) is not None)
            last = phases[-1]
            return replace(corpus, phases=phases, train_path=last.train_path, validation_path=last.validation_path)
        if corpus is None:
            return None
        return replace(
            corpus, train_path=self.find(corpus.train_path), validation_path=self.find(corpus.validation_path)
        )

    def fetch_code(self) -> None:
        """Copy the versions of the user's code that this node does not have yet."""
        if self.is_shared:
            return
        home, here = StudyFolder(self.home).code, StudyFolder(self.study).code
        signs: list[Sign] = get(self.courier.list_files.remote(home))
        for version in {name.partition("/")[0] for name, _, _ in signs}:
            if not (here / version).exists():
                found = self.find(home / version)
                make_folder(here)
                with suppress(FileExistsError):  # another worker of this node was faster
                    (here / version).symlink_to(found)

    def fetch_run(self, run_id: str, names: Iterable[str]) -> RunFolder:
        """The folder of a run on this node, with these files of it."""
        folder = StudyFolder(self.study).run(run_id)
        if not self.is_shared:
            shutil.rmtree(folder.path, ignore_errors=True)
            source = StudyFolder(self.home).run(run_id).path
            for name, n_bytes, _ in get(self.courier.list_files.remote(source, tuple(names))):
                self._fetch(source / name, folder.path / name, n_bytes)
        return folder

    def localize(self, job: Job) -> Job:
        """The job with the paths of this node. The hash in the config of a run checks the data of its task."""
        if self.courier is None:
            return job
        self.fetch_code()
        told = dict(job.directions)
        if start := told.get("start"):
            told["start"] = {**start, "weights": str(self.find(Path(start["weights"])))}
        if task := told.get("task"):
            told["task"] = {knob: self._find_value(value) for knob, value in task.items()}
        if "cwd" in told:
            told |= self._find_program(told, job.config["program"]["code"])
        return replace(job, directions=told)

    def _find_value(self, value: Any) -> Any:
        """The value of a knob, with the places of files here if it is an absolute path, or has several."""
        if isinstance(value, list | tuple):
            return type(value)(map(self._find_value, value))
        return str(self.find(Path(value))) if isinstance(value, str) and Path(value).is_absolute() else value

    def _find_program(self, told: Mapping[str, Any], code: str) -> dict[str, Any]:
        """Where a program runs: in its folder if this node has the same files there, otherwise in a copy of them."""
        folder = Path(told["folder"])
        if told["files"] is None:
            tree = Path(told["diff"].removesuffix(".diff"))
            cwd = self.find(tree) / Path(told["cwd"]).relative_to(tree)
            return {"cwd": str(cwd), "diff": str(self.find(Path(told["diff"])))}
        with suppress(AblateError):
            if hash_program(folder, told["files"]) == code:
                return {}
        found = str(self.find(folder, told["files"]))
        return {"folder": found, "cwd": found}

    @contextmanager
    def opened(self, job: Job) -> Iterator[Job]:
        """Fetch what a run needs and has so far, and send what it writes until the end of the block, where everything
        is on the driver's disk. Yields the job with the paths of this node.

        Raises `BusyError` if another process trains the run, and what kept files from being sent.
        """
        if self.is_shared:
            yield self.localize(job)
            return
        owner = secrets.token_hex(8)
        signs: list[Sign] = get(self.courier.open.remote(job.run_id, owner))
        folder = StudyFolder(self.study).run(job.run_id)
        try:
            self.fetch_run(job.run_id, [name for name, _, _ in signs])
            make_folder(folder.path)
            with Sending(self.courier, folder, owner) as self._sending:
                try:
                    yield self.localize(job)
                except OSError as error:
                    where = f"{socket.gethostname()}: {error.filename or self.study}"
                    raise ResourceError(f"{where}: {error.strerror or error}; this node has its own disk") from None
        finally:
            self._sending = None
            get(self.courier.close.remote(job.run_id, owner))
            shutil.rmtree(folder.path, ignore_errors=True)
