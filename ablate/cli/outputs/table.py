"""The models of what `--json` prints, verb by verb. `ablate schema --outputs` prints them as JSON Schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from ablate.cli.outputs.archive import Cleaned, MergedStudy, PackedStudy
from ablate.cli.outputs.campaign import CampaignState, CheckedGrid, ListedCampaign
from ablate.cli.outputs.machine import AgentTool, CheckedVariant, Finding, Speeds, VariantEntry, Warmed
from ablate.cli.outputs.records import RankedBenchmark
from ablate.cli.outputs.results import (
    ArmPower,
    Continuation,
    EvaluatedArm,
    EvaluationKind,
    ListedStudy,
    RunLog,
    RunState,
)
from ablate.cli.outputs.study import (
    DataSource,
    PlannedRun,
    PlannedSearch,
    PreparedCorpus,
    RunOutcome,
    SearchOutcome,
    Starter,
    StarterKind,
    StopRequest,
    SubmittedJob,
)
from ablate.tracking.verifications import Verification

OUTPUTS: Mapping[str, Any] = {
    "init": Starter | list[StarterKind],
    "plan": list[PlannedRun] | list[PlannedSearch],
    "run": RunOutcome,
    "stop": StopRequest,
    "submit": SubmittedJob,
    "data prepare": PreparedCorpus,
    "data sources": list[DataSource],
    "status": list[RunState] | list[ListedStudy],
    "logs": RunLog,
    "power": list[ArmPower],
    "generate": Continuation,
    "evaluate": list[EvaluatedArm] | dict[str, EvaluationKind],
    "campaign": CampaignState | CheckedGrid | list[ListedCampaign],
    "search": SearchOutcome,
    "verify": Verification,
    "leaderboard": RankedBenchmark,
    "clean": Cleaned,
    "pack": PackedStudy,
    "merge": MergedStudy,
    "variants": dict[str, dict[str, VariantEntry]],
    "check": CheckedVariant,
    "doctor": list[Finding],
    "warm": list[Warmed],
    "bench": Speeds,
    "mcp": list[AgentTool],
}


def output_schemas() -> dict[str, Any]:
    """Verb to the JSON Schema (draft 2020-12) of what it prints with `--json`."""
    return {verb: TypeAdapter(model).json_schema(mode="serialization") for verb, model in OUTPUTS.items()}
