"""A headless Chromium through the WebDriver protocol, without a library for it."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

DRIVER, CHROMIUM = shutil.which("chromedriver"), shutil.which("chromium")
MISSING = "" if DRIVER and CHROMIUM else "no chromium with chromedriver on this machine"
PHONE, DESKTOP = 390, 1280
_CENTER = {"block": "center", "behavior": "instant"}
_DRAWN = "document.documentElement.hasAttribute('data-drawn')"
_ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


class Browser:
    """A browser with one page. `downloads` is the folder for saved files."""

    def __init__(self, downloads: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.downloads, self._base = downloads, f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._driver = subprocess.Popen(
            [str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait_for_driver()
            options = {
                "binary": CHROMIUM,
                "args": list(_ARGUMENTS),
                "prefs": {"download.default_directory": str(downloads), "download.prompt_for_download": False},
            }
            logs = {"browser": "ALL", "performance": "ALL"}
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logs}}}
            self._session = f"/session/{self._call('POST', '/session', wanted)['sessionId']}"
        except BaseException:
            self._stop()
            raise

    def open(
        self, page: Path, width: int = DESKTOP, is_dark: bool = False, *, height: int = 900, timeout_s: float = 10.0
    ) -> None:
        """Open a page of ablate, and wait until its figures are drawn."""
        self.visit(page.resolve().as_uri(), width, is_dark, height=height)
        self.wait_until(_DRAWN, timeout_s)

    def cpu_seconds(self) -> float:
        """The CPU time of Chromium's processes so far."""
        times = [process.cpu_times() for process in psutil.Process(self._driver.pid).children(recursive=True)]
        return sum(time.user + time.system for time in times)

    def visit(self, url: str, width: int = DESKTOP, is_dark: bool = False, *, height: int = 900) -> None:
        """Open any page."""
        phone = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self._command("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._command("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._post("/url", {"url": url})

    def choose(self, selector: str) -> None:
        """Click, and wait until the figures are drawn again."""
        self.click(selector)
        self.wait_until(_DRAWN)

    def press(self, key: str) -> None:
        """Press a key, such as `Tab`, in the element that has the focus."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._command("Input.dispatchKeyEvent", {"type": kind, "key": key, "windowsVirtualKeyCode": code, **text})

    def evaluate(self, script: str) -> Any:
        """Run a script that the page's policy would forbid, wait for its promise, and return its JSON."""
        given = {"expression": script, "awaitPromise": True, "returnByValue": True, "allowUnsafeEvalBlockedByCSP": True}
        value = self._command("Runtime.evaluate", given)["result"].get("value")
        return json.loads(value) if isinstance(value, str) else value

    def print_page(self) -> str:
        """The page as PDF on A4, in base64."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
        content: str = self._command("Page.printToPDF", paper)["data"]
        return content

    def run(self, script: str, *arguments: Any) -> Any:
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """Click on the first match like a mouse, after scrolling it into view."""
        self.run("document.querySelector(arguments[0]).scrollIntoView(arguments[1])", selector, _CENTER)
        element = self._post("/element", {"using": "css selector", "value": selector})
        self._post(f"/element/{next(iter(element.values()))}/click", {})

    def wait_until(self, script: str, timeout_s: float = 10.0) -> None:
        end = time.monotonic() + timeout_s
        while not self.run(f"return Boolean({script})"):
            if time.monotonic() > end:
                raise AssertionError(f"never became true: {script}")
            time.sleep(0.05)

    def wait_for_download(self, name: str, timeout_s: float = 20.0) -> bytes:
        path, end = self.downloads / name, time.monotonic() + timeout_s
        while not path.exists() or not path.stat().st_size:
            if time.monotonic() > end:
                raise AssertionError(f"never came: {name}, only {sorted(p.name for p in self.downloads.iterdir())}")
            time.sleep(0.05)
        return path.read_bytes()

    def console(self) -> list[str]:
        """The console's messages since the last call."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """The addresses requested since the last call."""
        entries = (json.loads(e["message"])["message"] for e in self._post("/se/log", {"type": "performance"}))
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path, *, height: int | None = None, selector: str = "html") -> None:
        """The whole page, its first `height` pixels, or the first element that matches the selector."""
        script = "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
        script += "return [r.left + scrollX, r.top + scrollY, r.width, r.height]"
        left, top, width, whole = self.run(script, selector)
        clip = {"x": left, "y": top, "width": width, "height": height or whole, "scale": 1}
        shot = self._command("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call("DELETE", self._session)
        self._stop()

    def _stop(self) -> None:
        self._driver.terminate()
        self._driver.wait(10)

    def _wait_for_driver(self) -> None:
        for _ in range(600):
            try:
                self._call("GET", "/status")
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("chromedriver did not start")

    def _command(self, name: str, parameters: dict[str, Any]) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", self._session + path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with self._opener.open(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None
