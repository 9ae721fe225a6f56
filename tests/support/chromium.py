"""A headless Chromium that tests control through its debugging pipe, without a port, a driver or another package."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
        "--disable-dev-shm-usage",
        "--mute-audio",
    ),
    "--remote-debugging-pipe",
)


class Browser:
    """One page, with its console messages and network requests."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read, self.left, self.number = write, read, b"", 0
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session: str | None = None
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that arrive before the result are kept."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.left:
            chunk = os.read(self.read, 1 << 20)
            assert chunk, "Chromium has gone"
            self.left += chunk
        message, self.left = self.left.split(b"\0", 1)
        return dict(json.loads(message))

    def open(self, page: Path, width: int = 1200, height: int = 900, **features: str) -> None:
        """Open a file, with media ``features`` such as prefers_color_scheme="dark"."""
        given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", features=given)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.until("document.readyState === 'complete' && document.title")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        end = time.monotonic() + seconds
        while not (found := self.ask(script)):
            assert time.monotonic() < end, f"not true within {seconds} s: {script}"
            time.sleep(0.1)
        return found

    def press(self, key: str) -> None:
        """Press a named key: Tab, Enter, Escape."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save a screenshot of the visible part, or of the whole page."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def requests(self) -> list[str]:
        """Requested URLs, except the page itself and data URLs inside the page."""
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url[:200] for url in asked[1:] if not url.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        """Console errors and warnings, blocked requests, exceptions."""
        found = [e["params"]["entry"] for e in self.events if e.get("method") == "Log.entryAdded"]
        said = [entry["text"] for entry in found if entry["level"] in ("error", "warning")]
        said += [str(e["params"]) for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        calls = [e["params"] for e in self.events if e.get("method") == "Runtime.consoleAPICalled"]
        return said + [str(call["args"]) for call in calls if call["type"] in ("error", "warning", "assert")]


@contextlib.contextmanager
def browser(profile: Path, *flags: str) -> Iterator[Browser]:
    """Start Chromium with its own profile, and stop it at the end."""
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()

    def pipes() -> None:  # Chromium reads commands from file descriptor 3 and answers on 4
        first, second = os.dup(theirs_read), os.dup(theirs_write)
        os.dup2(first, 3)
        os.dup2(second, 4)

    command = [str(PROGRAM), *_FLAGS, *flags, f"--user-data-dir={profile}"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, preexec_fn=pipes, close_fds=False, **quiet)  # type: ignore[call-overload]
    os.close(theirs_read)
    os.close(theirs_write)
    try:
        yield Browser(ours_write, ours_read)
    finally:
        with contextlib.suppress(OSError):
            os.write(ours_write, json.dumps({"id": 10**6, "method": "Browser.close"}).encode() + b"\0")
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_read)
        os.close(ours_write)
