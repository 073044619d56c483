"""Write docs/mlflow/: MLflow's pages on the quickstart. `make pictures` calls it after the quickstart ran.

It needs Chromium and its driver.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ablate.tracking.mlflow_client import open_client  # noqa: E402
from ablate.tracking.mlflow_writer import PARENT  # noqa: E402
from benchmarks.browser import MISSING, Browser  # noqa: E402

STUDY = "quickstart"
WIDTH, HEIGHT = 1500, 830
PATIENCE_S = 60.0
SETTLE_S = 5.0  # until charts have all points and their final size
CLOSE = '[data-component-id="mlflow.assistant.chat_panel.close"]'  # MLflow opens an assistant beside the first page
DRAWN = "document.querySelectorAll('.js-plotly-plot .scatterlayer path').length"


@contextmanager
def serve(uri: str) -> Iterator[str]:
    """Run `mlflow ui` on a free port, and provide its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1", "--backend-store-uri", uri]
    server = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def main() -> None:
    if MISSING:
        sys.exit(MISSING)
    uri = f"sqlite:///{ROOT / 'runs' / 'mlflow.db'}"
    client = open_client(uri)
    experiment = client.get_experiment_by_name(STUDY).experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`{PARENT}` = '{STUDY}'")
    pages = {
        "study": f"#/experiments/{experiment}/runs?compareRunsMode=CHART",
        "parent": f"#/experiments/{experiment}/runs/{parent.info.run_id}/model-metrics",
    }
    with TemporaryDirectory() as name, serve(uri) as address:
        for page, path in pages.items():
            with Browser(Path(name)) as browser:
                browser.visit(f"{address}/{path}", WIDTH, height=HEIGHT)
                browser.wait_until(DRAWN, PATIENCE_S)
                time.sleep(SETTLE_S)
                browser.click(CLOSE)
                time.sleep(SETTLE_S)
                browser.screenshot(ROOT / "docs" / "mlflow" / f"{page}.png", height=HEIGHT)


if __name__ == "__main__":
    main()
