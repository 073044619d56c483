"""The tools for agents, called by the protocol's own client over stdio."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client

from ablate.cli.mcp import ANSWER, CommandError, Tools
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study

TOO_LONG_S = 120.0


@pytest.mark.slow
def test_an_agent_plans_trains_and_tests_over_stdio(tmp_path: Path, write_grid: Callable[..., Path]) -> None:
    grid = write_grid(matrix={"normalization": ["prenorm", "peri"]}, baseline={}, seeds=2)
    arms = [SyntheticArm(f"a={name}", {"a": name}, "a=x", speedup=speed) for name, speed in (("x", 1.0), ("y", 3.0))]
    write_study(StudyFolder(tmp_path / "runs" / "made-up"), arms, seeds=range(5), noise=0.01)

    async def talk() -> None:
        command = StdioServerParameters(command=sys.executable, args=["-m", "ablate", "mcp"], cwd=tmp_path)
        async with Client(stdio_client(command)) as client:

            async def call(name: str, /, **arguments: Any) -> Any:
                answer = await client.call_tool(name, arguments)
                assert not answer.is_error, answer.content
                return answer.structured_content

            async def fail(name: str, /, **arguments: Any) -> str:
                answer = await client.call_tool(name, arguments)
                assert answer.is_error
                return str(answer.content[0].text)  # type: ignore[union-attr]

            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert tools.keys() == {"plan", "run", "status", "stop", "report", "verdict", "campaign"}
            assert all(tool.description for tool in tools.values())

            assert "matrix.normalization" in await fail("plan", grid=str(grid), settings=["matrix.normalization=[no]"])
            begun = time.monotonic()
            started = await call("run", grid=str(grid), wait_s=0)
            assert started["is_running"]  # and the tools below answer while it does
            answer = await call("verdict", study="made-up")
            assert set(answer) == set(ANSWER) and answer["differences"][0]["verdict"] == "better"
            tried = await call("campaign", name="goal", goal="learn faster", add="made-up")
            assert (tried["added"], tried["tries"][0]["arms"][0]["verdict"]) == (1, "better")
            assert "did you mean 'goal'?" in await fail("campaign", name="gaol", keep=1)
            while (mine := (await call("status"))["started"][0])["is_running"]:
                assert time.monotonic() - begun < TOO_LONG_S
                await asyncio.sleep(0.5)
            assert mine["outcome"]["states"] == {"finished": 4} and mine["exit_code"] == 0, mine

    asyncio.run(talk())


def test_a_command_that_fails_in_the_background_is_told_by_its_message(tmp_path: Path) -> None:
    tools = Tools(tmp_path / "runs")
    started = tools._start("run", str(tmp_path / "missing.yaml"), [])
    started.process.wait(TOO_LONG_S)
    (found,) = tools.status()["started"]
    assert (found["is_running"], found["exit_code"], found["outcome"]) == (False, 2, None)
    assert "missing.yaml" in found["error"] and not found["error"].startswith("error:")


def test_arguments_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Sequence[str]] = []
    monkeypatch.setattr(Tools, "_call", lambda _self, *arguments: told.append(arguments) or {"study": "s"})
    tools = Tools(Path("runs"))
    tools.campaign("goal", drop=2, because="no gain")
    tools.plan("grid.yaml", ["a=1", "b=2"])
    assert told == [
        ("campaign", "goal", ["--drop", "2", "--because", "no gain"]),
        ("plan", "grid.yaml", ["--set", "a=1", "--set", "b=2"]),
    ]
    assert tools.report("s", ["study"]) == {"study": "s"}
    with pytest.raises(CommandError, match=r"keys: 'nope' is not in the summary \(legal: study\)"):
        tools.report("s", ["nope"])
    assert tools._command("plan", "--help", [])[-2:] == ["--", "--help"]  # a name is never an option
