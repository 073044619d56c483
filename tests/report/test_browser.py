"""The page in a real browser draws, answers clicks, uses no network, and leaves the console empty."""

import json
import os
from pathlib import Path

import pytest
from browser import DESKTOP, MISSING, PHONE, Browser

from ablate.report import write_report
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status
from benchmarks.synthetic import SyntheticArm, write_study

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

BASE = "attention=standard,normalization=prenorm"
HOSTILE = (
    "</script><script>document.title='owned'</script><img src=http://example.invalid/x onerror=document.title='owned'>"
)
ARMS = [
    SyntheticArm(BASE, {"attention": "standard", "normalization": "prenorm"}, BASE),
    SyntheticArm(
        "attention=standard,normalization=ngpt",
        {"attention": "standard", "normalization": "ngpt"},
        BASE,
        speedup=2,
        step_s=0.15,
    ),
    SyntheticArm(HOSTILE, {"attention": HOSTILE, "normalization": "ngpt"}, BASE, speedup=0.7, n_params=1_050_000),
    SyntheticArm("plain", {"attention": HOSTILE, "normalization": "prenorm"}, BASE, speedup=1.1),
]
POINTS = "document.querySelectorAll('#figure-{} .plot path.js-line, #figure-{} .plot .points path').length"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    store = StudyFolder(folder / "hostile")
    write_study(store, ARMS, noise=0.01, question=f"Is <b>it</b> faster? {HOSTILE}")
    return write_report(store, folder / "report").paths["html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("downloads")) as browser:
        yield browser


def count(browser, figure):
    return browser.run("return " + POINTS.format(figure, figure))


def axis_title(browser, figure="curves"):
    return browser.run(f"return document.querySelector('#figure-{figure} .plot').layout.xaxis.title.text")


def test_the_page_shows_curves_tables_and_names_as_they_were_written(browser, page):
    browser.open(page)
    assert count(browser, "curves") >= 3
    assert count(browser, "speedup") >= 2
    assert count(browser, "ladder") >= 2
    assert count(browser, "differences") >= 2
    assert count(browser, "effects") >= 2
    assert browser.run("return document.title") == "hostile \N{EN DASH} ablate"
    assert HOSTILE in browser.run("return document.querySelector('h1').innerText")
    assert browser.run("return document.querySelectorAll('main img, main b').length") == 0
    assert browser.run("return document.querySelectorAll('#table-speedup tbody tr').length") == 3
    labels = browser.run("return [...document.querySelectorAll('#figure-speedup .ytick text')].map(e => e.textContent)")
    assert any(label.startswith("</script><script>") for label in labels)


def test_switches_redraw_every_figure(browser, page):
    browser.open(page)
    assert axis_title(browser) == "tokens"
    for axis, text in (("steps", "steps"), ("flops", "FLOPs"), ("seconds", "seconds")):
        browser.click(f"[data-axis={axis}]")
        assert axis_title(browser) == text
        assert axis_title(browser, "speedup") == f"speedup in {text}"
    assert browser.run("return document.querySelector('[data-axis=seconds]').getAttribute('aria-pressed')") == "true"
    assert browser.run("return document.querySelector('[data-axis=tokens]').getAttribute('aria-pressed')") == "false"
    kind = "return document.querySelector('#figure-curves .plot').layout.xaxis.type"
    assert browser.run(kind) == "log"
    browser.click("[data-toggle=xlog]")
    assert browser.run(kind) == "linear"
    browser.click("[data-column=train_loss]")
    assert "training loss" in browser.run(
        "return document.querySelector('#figure-curves .plot').layout.yaxis.title.text"
    )


def test_odd_studies_were_drawn_with_heaps_of_ticks_and_flat_lines(browser, tmp_path):
    store = StudyFolder(tmp_path / "odd")
    study = write_study(store, ARMS[:2], seeds=(0,))
    for run in study.runs:
        store.run(run.run_id).write_status(Status("running", 400, 800))
    folder = store.run(study.runs[0].run_id)
    records = [json.loads(line) for line in folder.curve.read_text().splitlines()]
    folder.curve.write_text("".join(json.dumps({**record, "val_loss": 6e4}) + "\n" for record in records))
    browser.open(write_report(store, tmp_path / "report").paths["html"])
    title = "return document.querySelector('#figure-curves .plot').layout.yaxis.title.text"
    assert ", cut at " in browser.run(title)
    browser.run("document.querySelector('[data-toggle=ylog]').click()")
    assert "cut" not in browser.run(title)
    for figure, is_hidden in (("curves", False), ("speedup", True), ("ladder", True)):
        assert browser.run(f"return document.querySelector('#figure-{figure}').hidden") is is_hidden


def test_bounds_are_open_markers_that_no_line_touches(browser, page):
    browser.open(page)
    plot = "document.querySelector('#figure-ladder .plot')"
    lines, bounds = browser.run(
        f"return [0, 1].map((odd) => {plot}.data.filter((_, i) => i % 2 === odd).map((t) => t.y))"
    )
    assert [sum(y is None for y in line) for line in lines] == [len(bound) for bound in bounds]
    assert any(bounds)
    modes = browser.run(f"return {plot}.data.map((t) => [t.mode, t.connectgaps, t.marker.symbol])")
    assert all(mode == "markers" and all(s.endswith("-open") for s in symbols) for mode, _, symbols in modes[1::2])
    assert all(gaps is False for _, gaps, _ in modes[::2])


def test_diagnostics_are_chosen_by_name(browser, page):
    browser.open(page)
    title = "return document.querySelector('#figure-diagnostics .plot').layout.yaxis.title.text"
    layers = "return document.querySelector('#figure-diagnostics .plot').data.length"
    assert (browser.run(title), browser.run(layers)) == ("grad_norm", len(ARMS))
    browser.click("[data-diagnostic=alpha_attn]")
    assert (browser.run(title), browser.run(layers)) == ("alpha_attn", 4 * len(ARMS))


def test_an_arm_is_hidden_and_shown_by_its_button(browser, page):
    browser.open(page)
    before = count(browser, "curves"), count(browser, "speedup")
    browser.click("[data-arm='1']")
    assert browser.run("return document.querySelector(\"[data-arm='1']\").getAttribute('aria-pressed')") == "false"
    after = count(browser, "curves"), count(browser, "speedup")
    assert after[0] < before[0] and after[1] < before[1]
    browser.click("[data-arm='1']")
    assert (count(browser, "curves"), count(browser, "speedup")) == before


def test_figures_are_saved_as_svg_png_and_csv(browser, page):
    browser.open(page)
    for ending, start in (("csv", b"arm,axis,target,ratio"), ("svg", b"<svg"), ("png", b"\x89PNG")):
        browser.click(f"#figure-speedup [data-save={ending}]")
        assert browser.wait_for_download(f"hostile-speedup.{ending}").startswith(start)
    assert f'"{HOSTILE}"' not in (browser.downloads / "hostile-speedup.svg").read_text()


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("is_dark", [False, True])
def test_nothing_overflows_at_any_width_in_either_scheme(browser, page, tmp_path, width, is_dark):
    browser.open(page, width, is_dark)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    plots = browser.run("return [...document.querySelectorAll('.plot')].map(e => e._fullLayout.width - e.clientWidth)")
    assert max(plots) <= 1
    ink = browser.run("return document.querySelector('#figure-curves .plot').layout.font.color")
    assert ink == ("#e7eaf0" if is_dark else "#1a1f29")
    shots = Path(os.environ.get("ABLATE_SCREENSHOTS", tmp_path))
    name = f"{'phone' if width == PHONE else 'desktop'}-{'dark' if is_dark else 'light'}.png"
    browser.screenshot(shots / name)
    assert (shots / name).stat().st_size > 10_000


def test_no_request_leaves_the_page_and_the_console_stays_empty(browser, page):
    browser.console(), browser.requests()
    browser.open(page)
    for selector in ("[data-axis=seconds]", "[data-toggle=ylog]", "[data-arm='0']", "#figure-ladder [data-save=svg]"):
        browser.click(selector)
    browser.wait_for_download("hostile-ladder.svg")
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.console() == []


def test_the_page_reads_without_javascript_tables(page):
    text = page.read_text()
    assert "<noscript>" in text
    assert text.index('id="table-speedup"') < text.index("<script>")
