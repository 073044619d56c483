"""Training models of `ablate_model` with ablate's own loop."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from ablate.data import Corpus
from ablate.errors import DataError
from ablate.study.schema import TrainConfig
from ablate.tasks.contract import Job, Order, Result, Trainer
from ablate.tasks.recorder import Assistant, FolderRecorder
from ablate.tasks.task import read_task
from ablate.tracking.folders import RunFolder
from ablate.tracking.json_files import write_json
from ablate.tracking.study_record import State
from ablate.training.contract import Outcome, Recorder, TrainingTask
from ablate.training.device import free_memory, is_out_of_memory, keep_loaded
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import train
from ablate.training.parallel import Group
from ablate.training.start import StartWeights
from ablate_model import ModelConfig
from ablate_model.attention_backend import report_attention
from ablate_model.gpt import HeadedModel
from ablate_model.kinds import parse_config

Train = Callable[..., Outcome]  # `ablate.training.loop.train`, or a substitute


class LoopTrainer(Trainer):
    """Trains each run by itself, or together with the other workers of a `group`.

    `corpus` is that of language models; the runs of other tasks say themselves what their data are.
    """

    def __init__(self, corpus: Corpus | None, device: str, threads: int, group: Group, loop: Train = train) -> None:
        self.corpus, self.device, self.threads, self.group, self._loop = corpus, device, threads, group, loop
        self._attention: dict[str, Mapping[str, str]] = {}

    def decline(self) -> None:
        self.group.share(lambda: None)

    def assist(self, job: Job) -> Result:
        settings: TrainConfig | None = self.group.share(lambda: None)
        if settings is None:
            return "busy"
        return self._run_loop(job, settings, Assistant(), lambda: False).state

    def _run_loop(
        self, job: Job, settings: TrainConfig, recorder: Recorder, should_stop: Callable[[], bool]
    ) -> Outcome:
        keep_loaded()
        return self._loop(
            self.open(job, settings),
            settings,
            job.config["seed"],
            recorder,
            device=self.device,
            threads=self.threads,
            should_stop=should_stop,
            group=self.group,
            **({"start": start} if (start := find_start(job)) is not None else {}),
        )

    def open(self, job: Job, settings: TrainConfig) -> TrainingTask:
        """What a run trains. Raises `DataError` if its data are not those that its id was made of."""
        if self.corpus is not None:
            return LanguageModelling(
                ModelConfig.parse(job.config["model"]), self.corpus, settings.eval_tokens, settings.steps
            )
        task = read_task(job.directions["task"])
        if task.describe(Path()).hash != job.config["data"]["hash"]:
            raise DataError(
                "the data have changed since the study was planned, so this run was not trained further; the same "
                "command plans it again, with new runs for the new data"
            )
        return task.open(parse_config(job.config["model"]), Path())

    def train(self, job: Job, folder: RunFolder, recorder: FolderRecorder, order: Order) -> Result:
        declared = TrainConfig.model_validate(job.config["train"])
        settings = limit_micro_batch(declared, recorder.status.micro_batch_size)
        self.begin(job, folder, recorder)
        self.group.share(partial(limit_micro_batch, declared, recorder.status.micro_batch_size))
        while True:
            manifest = self.describe_run(job, settings)
            write_json(folder.manifest, manifest, durable=False)  # it is written again at the end
            try:
                outcome = self._run_loop(job, settings, recorder, order.should_stop)
                break
            except Exception as error:
                smaller = settings.smaller_micro_batch() if is_out_of_memory(error) else None
                # other micro-batches round differently, so a deterministic run keeps its own
                if smaller is None or self.group.size > 1 or settings.deterministic:
                    raise
            settings = limit_micro_batch(declared, smaller)
            recorder.status = replace(recorder.status, micro_batch_size=smaller)
            recorder.note(f"out of memory at step {recorder.status.step + 1}: {smaller} sequences at once from here on")
            free_memory(torch.device(self.device))  # of the failed step, before the next attempt
        return self.conclude(job, recorder, outcome, order, settings, manifest)

    def begin(self, job: Job, folder: RunFolder, recorder: FolderRecorder) -> None:
        """Write what is known of a run before it trains."""
        write_json(folder.config, job.config)
        recorder.n_steps = job.config["train"]["steps"]
        recorder.write_status("running")

    def describe_run(self, job: Job, settings: TrainConfig) -> dict[str, Any]:
        """The manifest of a run that starts."""
        return {
            **job.manifest,
            **describe_device(self.device),
            "threads": self.threads,
            "torch": torch.__version__,
            "micro_batch_size": settings.micro_batch_size,
            "deterministic": settings.deterministic,
        }

    def conclude(
        self,
        job: Job,
        recorder: FolderRecorder,
        outcome: Outcome,
        order: Order,
        settings: TrainConfig,
        manifest: Mapping[str, Any],
    ) -> Result:
        """Write weights and manifest, and then how the run ended."""
        folder = recorder.folder
        cut_reason = order.cut_reason() if outcome.state == "stopped" else ""
        if outcome.state == "finished" or cut_reason:
            recorder.write_weights(folder.weights, outcome.model.state_dict())
        attention = self._report_attention(job, settings, outcome.model)
        write_json(
            folder.manifest,
            {
                **manifest,
                "peak_memory_bytes": outcome.peak_memory_bytes,
                "micro_batch_size": outcome.micro_batch_size,
                "attention": attention,
                "attention_backend": f"{attention['backend']} ({attention['kernel']})",
            },
        )
        state: State = "finished" if outcome.state == "stopped" else outcome.state
        recorder.status = replace(recorder.status, step=outcome.step)
        recorder.finish_writing()  # before the status says that the run has ended, or waits to resume
        if outcome.state == "stopped":
            if not cut_reason:
                recorder.write_status("queued")
                return "stopped"
            recorder.note_cut(cut_reason)
        recorder.write_status(state)
        if outcome.state != "stopped":  # a run that was cut can resume from its checkpoint
            folder.checkpoint.unlink(missing_ok=True)
        return state  # type: ignore[return-value]

    def _report_attention(self, job: Job, settings: TrainConfig, model: HeadedModel) -> Mapping[str, str]:
        """Find the attention kernels of a run. This takes a forward pass, so it is cached across seeds."""
        key = json.dumps(
            [
                job.config["model"],
                settings.attention_backend,
                model.backend,
                settings.precision,
                settings.deterministic,
            ],
            sort_keys=True,
        )
        if key not in self._attention:
            dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
            self._attention[key] = report_attention(model, dtype)
        return self._attention[key]


def describe_device(kind: str) -> dict[str, Any]:
    """The device of a worker, as the manifest keeps it."""
    name = torch.cuda.get_device_name() if kind == "cuda" else _processor_name()
    return {"device": {"kind": kind, "name": name, "host": socket.gethostname()}}


def find_start(job: Job) -> StartWeights | None:
    start = job.directions.get("start")
    return None if start is None else StartWeights(Path(start["weights"]), frozenset(start["fresh"]))


def limit_micro_batch(train: TrainConfig, limit: int | None) -> TrainConfig:
    if limit is None or limit >= train.sequences_at_once:
        return train
    return train.model_copy(update={"micro_batch_size": limit})


@cache
def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
