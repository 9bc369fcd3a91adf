"""A headless browser, where there is one, worked as a person would: by mouse, keys and looking.

It is spoken to over a pipe in the DevTools protocol: JSON messages with a zero byte after each.
"""

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
    "--window-size=1280,900",
)
HANGING_S = 300.0
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Tab:
    """One page in the browser.

    Attributes:
        failures: Errors of the page's scripts and breaches of its policy, as they come.
        requests: Every address the page asked for.
    """

    def __init__(self, to_browser: IO[bytes], from_browser: IO[bytes]) -> None:
        self._to, self._from = to_browser, from_browser
        self._session: str | None = None
        self._number = 0
        self.failures: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, file: Path) -> None:
        """Loads a page and waits until it is drawn."""
        self._call("Page.navigate", url=file.as_uri())
        self.run("document.readyState === 'complete' || new Promise((done) => onload = done)")
        self.run(TWO_FRAMES)

    def run(self, script: str) -> Any:
        """Returns what an expression, or its promise, comes to."""
        done = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Does `mousePressed`, `mouseMoved`, `mouseReleased` or `mouseWheel` at a place."""
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        self.run(TWO_FRAMES)

    def key(self, key: str) -> None:
        """Presses a key and lets it go."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key)
        self.run(TWO_FRAMES)

    def dark(self) -> None:
        """Lets the person prefer dark pages."""
        feature = {"name": "prefers-color-scheme", "value": "dark"}
        self._call("Emulation.setEmulatedMedia", features=[feature])
        self.run(TWO_FRAMES)

    def screenshot(self, path: Path) -> None:
        """Takes a picture of what can be seen."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser ended"
            data += byte
        return dict(json.loads(data))

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.failures.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.failures.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


@contextmanager
def browser_tab(folder: Path) -> Iterator[Tab]:
    """Starts a browser, and ends it; skips the test where there is none.

    Args:
        folder: Where the browser may keep what it keeps.
    """
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"there is no browser here: none of {', '.join(NAMES)} is installed")
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    # The protocol's pipes are the browser's descriptors 3 and 4.
    wired = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
    process = subprocess.Popen(
        ["bash", "-c", wired, "bash", executable, *OPTIONS, f"--user-data-dir={folder}/profile"],
        pass_fds=(commands_out, answers_in),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands_out)
    os.close(answers_in)
    # One that hangs would never answer: when it is ended, the answer is that it ended.
    guard = threading.Timer(HANGING_S, process.kill)
    guard.start()
    try:
        with os.fdopen(commands_in, "wb") as to_browser, os.fdopen(answers_out, "rb") as answers:
            yield Tab(to_browser, answers)
    finally:
        guard.cancel()
        process.terminate()
        process.wait()
