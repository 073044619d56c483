"""The page in a real browser: what is visible, every control, no request, and no serious accessibility violation."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gallery import GALLERY, HOSTILE

from ablate.report import write_report
from ablate.tracking.folders import StudyFolder
from benchmarks.browser import DESKTOP, MISSING, PHONE, Browser

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

SIZES = ((DESKTOP, 900), (PHONE, 844))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that writes the page of a study of the gallery, once."""
    folder, made = tmp_path_factory.mktemp("gallery"), {}

    def write(name: str) -> Path:
        if name not in made:
            store = StudyFolder(folder / name)
            GALLERY[name](store)
            made[name] = write_report(store, folder / f"{name}-report").paths["html"]
        return made[name]

    return write


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("downloads")) as browser:
        yield browser


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    if not shutil.which("npm"):
        pytest.skip("there is no npm to fetch axe-core")
    fetched = subprocess.run(["npm", "pack", "axe-core@4"], cwd=folder, capture_output=True, text=True, timeout=120)
    archives = list(folder.glob("*.tgz"))
    if not archives:
        pytest.skip(f"axe-core cannot be fetched: {fetched.stderr[-200:]}")
    with tarfile.open(archives[0]) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def rows(browser: Browser, figure: str) -> list[dict[str, Any]]:
    """The rows that a figure draws."""
    found: list[dict[str, Any]] = browser.run(
        f"return document.querySelector('#figure-{figure}').view.data('rows').map((row) => ({{...row}}))"
    )
    return found


def texts(browser: Browser, figure: str) -> list[str]:
    found: list[str] = browser.run(
        f"return [...document.querySelectorAll('#figure-{figure} .plot svg text')].map((e) => e.textContent)"
    )
    return found


def test_the_page_shows_its_verdict_first_and_names_as_they_were_written(browser: Browser, pages: Any) -> None:
    browser.console(), browser.requests()
    for width, height in SIZES:
        browser.open(pages("hostile"), width, height=height)
        bottom = browser.run("return document.querySelector('.verdict').getBoundingClientRect().bottom")
        assert 0 < bottom < height
        assert browser.run("return document.documentElement.scrollWidth") <= width
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.console() == []
    assert browser.run("return document.title") == "hostile \N{EN DASH} ablate"
    assert HOSTILE in browser.run("return document.querySelector('h1').innerText")
    assert browser.run("return document.querySelectorAll('main img, main b').length") == 0
    assert browser.run("return document.querySelectorAll('#table-speedup tbody tr').length") == 3
    shown = ("differences", "curves", "minus-baseline", "speedup", "ladder", "interactions", "effects", "diagnostics")
    assert all(rows(browser, figure) for figure in shown)
    assert any(text.startswith("</script><script>") for text in texts(browser, "differences"))


@pytest.mark.slow
@pytest.mark.parametrize("name", GALLERY)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_dark", [False, True])
def test_nothing_overflows_and_the_verdict_is_on_the_first_screen(
    browser: Browser, pages: Any, tmp_path: Path, name: str, size: tuple[int, int], is_dark: bool
) -> None:
    width, height = size
    browser.console()
    browser.open(pages(name), width, is_dark, height=height)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return document.querySelector('.verdict').getBoundingClientRect().bottom") < height
    cut = browser.run(
        "return [...document.querySelectorAll('.plot')].filter((e) => e.scrollWidth > e.clientWidth + 2).length"
    )
    assert cut == 0
    assert browser.console() == []
    shots = Path(os.environ.get("ABLATE_SCREENSHOTS", tmp_path))
    path = shots / f"{name}-{'phone' if width == PHONE else 'desktop'}-{'dark' if is_dark else 'light'}.png"
    browser.screenshot(path)
    assert path.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", GALLERY)
@pytest.mark.parametrize("is_dark", [False, True])
def test_axe_finds_no_serious_violation(browser: Browser, pages: Any, axe: str, name: str, is_dark: bool) -> None:
    for width, height in SIZES:
        browser.open(pages(name), width, is_dark, height=height)
        browser.run("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        browser.evaluate(axe)
        found = browser.evaluate("axe.run().then((r) => JSON.stringify(r.violations))")
        serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == []


@pytest.mark.slow
def test_every_control_works_by_keyboard(browser: Browser, pages: Any) -> None:
    browser.open(pages("factorial"))
    reached = set()
    for _ in range(200):
        browser.press("Tab")
        reached.add(browser.run("const e = document.activeElement; return e.outerHTML.slice(0, 160)"))
    controls = browser.run(
        "return [...document.querySelectorAll('button, a, summary')].filter((e) => e.checkVisibility())"
        ".map((e) => e.outerHTML.slice(0, 160))"
    )
    assert len(controls) > 20 and set(controls) <= reached
    browser.run("document.querySelector('[data-value=seconds]').focus()")
    browser.press("Enter")
    browser.wait_until("document.documentElement.hasAttribute('data-drawn')")
    assert "seconds" in texts(browser, "curves")


@pytest.mark.slow
def test_choices_redraw_the_figures(browser: Browser, pages: Any) -> None:
    browser.open(pages("hostile"))
    for axis, text in (("steps", "steps"), ("flops", "FLOPs"), ("seconds", "seconds")):
        browser.choose(f"[data-choice=axis][data-value={axis}]")
        assert text in texts(browser, "curves") and f"speedup in {text}" in texts(browser, "ladder")
        assert f"speedup in {text} to the baseline's final loss" in texts(browser, "speedup")
    pressed = "return [...document.querySelectorAll('[data-choice=axis]')].map((e) => e.getAttribute('aria-pressed'))"
    assert browser.run(pressed) == ["false", "false", "false", "true"]
    whole = rows(browser, "curves")
    browser.choose("[data-value='val_loss:end']")
    end = rows(browser, "curves")
    assert 0 < len(end) < len(whole) / 2
    browser.choose("[data-value=train_loss]")
    assert "training loss (nats per token)" in texts(browser, "curves")
    browser.choose("[data-value=alpha_attn]")
    assert {row["seed"] for row in rows(browser, "diagnostics")} == {f"layer {layer}" for layer in range(4)}


@pytest.mark.slow
def test_an_arm_is_hidden_and_shown_by_its_button(browser: Browser, pages: Any) -> None:
    browser.open(pages("factorial"))
    arms = {row["arm"] for row in rows(browser, "minus-baseline") if "arm" in row}
    browser.run("document.querySelector('.arms').open = true")
    arm = browser.run("return document.querySelectorAll('[data-arm]')[1].dataset.arm")
    browser.choose(f"[data-arm='{arm}']")
    assert {row["arm"] for row in rows(browser, "minus-baseline") if "arm" in row} == arms - {arm}
    assert arm not in {row["arm"] for row in rows(browser, "differences")}
    browser.choose(f"[data-arm='{arm}']")
    assert {row["arm"] for row in rows(browser, "minus-baseline") if "arm" in row} == arms


@pytest.mark.slow
def test_no_heading_hides_behind_the_bar(browser: Browser, pages: Any) -> None:
    for width, height in SIZES:
        browser.open(pages("contexts"), width, height=height)
        for anchor in browser.run("return [...document.querySelectorAll('.toc a')].map((e) => e.hash)"):
            place = browser.run(
                "document.documentElement.style.scrollBehavior = 'auto';"
                "location.hash = ''; location.hash = arguments[0];"
                "const bar = document.querySelector('.bar').getBoundingClientRect();"
                "const head = document.querySelector(arguments[0] + ' h2').getBoundingClientRect();"
                "return [bar.bottom, head.top]",
                anchor,
            )
            assert place[0] <= place[1] + 1, anchor


@pytest.mark.slow
def test_figures_are_saved_as_svg_png_and_csv(browser: Browser, pages: Any) -> None:
    browser.open(pages("hostile"))
    for ending, start in (("csv", b"arm,name,place"), ("svg", b"<svg"), ("png", b"\x89PNG")):
        browser.click(f"#figure-speedup [data-save={ending}]")
        assert browser.wait_for_download(f"hostile-speedup.{ending}").startswith(start)
    assert "<script" not in (browser.downloads / "hostile-speedup.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["factorial", "contexts"])
def test_the_page_prints(browser: Browser, pages: Any, tmp_path: Path, name: str) -> None:
    """The printed pages have the verdict, every table and every figure, none wider than the paper."""
    browser.open(pages(name))
    content = base64.b64decode(browser.print_page())
    path = Path(os.environ.get("ABLATE_SCREENSHOTS", tmp_path)) / f"{name}.pdf"
    path.write_bytes(content)
    assert content.startswith(b"%PDF") and 4 < content.count(b"/Type /Page\n") < 30
    wide = browser.run("return [...document.querySelectorAll('details:not(.arms)')].filter((e) => !e.open).length")
    assert wide == 0


@pytest.mark.slow
def test_a_page_of_a_hundred_runs_is_small_and_quick(browser: Browser, tmp_path: Path) -> None:
    from benchmarks.report import bench_report

    made = bench_report(tmp_path, n_runs=100, n_points=1_000)
    assert made.page_bytes <= 1.8e6
    page = next(tmp_path.glob("*/report/report.html"))
    browser.open(page)
    print(browser.run("return performance.getEntriesByType('navigation')[0].domInteractive"))


def test_the_page_reads_without_javascript_tables(pages: Any) -> None:
    text = pages("hostile").read_text()
    assert "<noscript>" in text
    assert text.index('id="table-speedup"') < text.index("<script>")
