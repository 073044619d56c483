"""The documentation site: its pages, its links, and the pages that commands write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablate.plan.json_schema import grid_schema
from ablate.plan.schema_reference import write_reference

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_keys_of_a_grid_are_those_of_its_schema() -> None:
    told = (DOCS / "grid-reference.md").read_text()
    assert told == write_reference(grid_schema()), "run `ablate schema --markdown > docs/grid-reference.md`"


def list_pages(entry: Any) -> Iterator[str]:
    """The pages of an entry of the navigation: a page with its name, or a section with its entries."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from list_pages(part)


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {path.name for path in DOCS.glob("*.md")} | {f"{path.stem}.md" for path in DOCS.glob("*.ipynb")}
    assert sorted(list_pages(settings["nav"])) == sorted(pages)
    home = (DOCS / "index.md").read_text()
    assert not {page for page in pages - {"index.md"} if f"({page.removesuffix('.md')}." not in home}


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    page = (tmp_path / "studies.html").read_text()
    assert 'href="reports/ngpt-vs-gpt/report.html"' in page  # in the repository, this link begins with ../
    assert (tmp_path / "reports" / "ngpt-vs-gpt" / "figures" / "curves.svg").exists()
    for notebook in ("tutorial", "speedup"):
        assert 'href="reading-a-report.html"' in (tmp_path / f"{notebook}.html").read_text()
    assert "plot_curves" in (tmp_path / "api.html").read_text()
