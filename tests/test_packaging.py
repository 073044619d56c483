"""Packaging: the installed files, versions, hooks and constraints agree with the tree."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import yaml

import ablate

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in(folder: str, name: str) -> set[str]:
    root = ROOT / folder
    return {".".join([name, *path.parent.relative_to(root).parts]) for path in root.rglob("__init__.py")}


def test_the_packages_named_are_the_packages_there() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_in("ablate", "ablate") | packages_in(
        "model", "ablate_model"
    )


def test_the_distribution_is_not_the_other_project_of_this_name() -> None:
    assert PROJECT["project"]["name"] == "ablate-studies"
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        text = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        assert not re.search(rb"pip3? install [^\n`]*(?<![\w./-])ablate(?![\w-])", text), name


def test_every_version_is_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["project"]["version"] == ablate.__version__ == str(citation["version"])


def test_the_hooks_and_the_workflow_call_what_make_calls() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    called = set(re.findall(r"\bmake ([\w-]+)", workflow))
    assert {"check"} <= called <= targets
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = settings["repos"]
    assert local["repo"] == "local"
    entries = [hook["entry"] for hook in local["hooks"]]
    stages = {stage for hook in local["hooks"] for stage in hook.get("stages", settings["default_stages"])}
    assert stages == set(settings["default_install_hook_types"])
    assert {entry.split()[1] for entry in entries if entry.startswith("make ")} <= targets
    assert set(re.findall(r"\$\(BIN\)/(ruff|mypy)", (ROOT / "Makefile").read_text())) == {
        tool for entry in entries for tool in ("ruff", "mypy") if tool in entry
    }


def test_every_file_that_is_no_module_is_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for folder, name in (("ablate", "ablate"), ("model", "ablate_model")):
        modules = {path for path in (ROOT / folder).rglob("*.py") if (path.parent / "__init__.py").is_file()}
        others = {
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
        } - modules
        packaged = {path for pattern in patterns[name] for path in (ROOT / folder).glob(pattern)}
        packaged = {path for path in packaged if path.is_file() and path.suffix != ".pyc"}
        assert others == packaged


def test_the_command_is_installed() -> None:
    scripts = {entry.value for entry in entry_points(group="console_scripts") if entry.name == "ablate"}
    assert scripts == {"ablate.cli:main"}


def test_the_constraints_pin_what_the_project_asks_for() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    asked = PROJECT["project"]["dependencies"] + extras["dev"] + extras["docs"]
    names = {requirement.split(">=")[0].lower() for requirement in asked}
    assert names <= pinned


def test_the_type_checkers_link_leads_to_the_model_package() -> None:
    link = ROOT / ".typings" / "ablate_model"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "model"


def test_nothing_that_is_made_is_committed() -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert not [name for name in listed if name.startswith(("runs/", ".venv/", "build/")) or name.endswith(".pyc")]
