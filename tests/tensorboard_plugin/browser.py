"""A TensorBoard server with the tab, and a browser without a window to look at it."""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent.parent

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


@contextlib.contextmanager
def tensorboard(log_dir):
    """Serve a directory with the tab of this checkout, installed or not; yield the address."""
    with tempfile.TemporaryDirectory() as site, open(pathlib.Path(site, "log"), "w+") as log:
        about = pathlib.Path(site, "keras_bp-0.dist-info")
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: keras_bp\nVersion: 0\n")
        entry = re.search(r"tensorboard_plugins\]\n(.*)", (ROOT / "pyproject.toml").read_text())[1]
        entry = entry.replace('"', "")
        (about / "entry_points.txt").write_text(f"[tensorboard_plugins]\n{entry}\n")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([site, str(ROOT)])}
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
        command += ["--host", "127.0.0.1", "--port", "0"]
        with subprocess.Popen(command, stderr=log, env=environment) as server:
            try:
                for _ in range(600):
                    found = re.search(
                        r"http://127\.0\.0\.1:\d+", pathlib.Path(log.name).read_text()
                    )
                    if found:
                        break
                    time.sleep(0.1)
                yield found.group()
            finally:
                server.terminate()


class Browser:
    """A page in a new browser, to be used in a `with` block.

    Through the pipes of `--remote-debugging-pipe`, messages are JSON that ends with a zero byte.
    """

    def __init__(self, width=1400, height=1000):
        self._numbers = itertools.count(1)
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
        ]
        command += [f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"]
        # It reads from file descriptor 3 and writes to 4.
        pipes = f"import os, sys; os.dup2({to_browser}, 3); os.dup2({from_browser}, 4); "
        pipes += "os.execv(sys.argv[1], sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", pipes, *command],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._pending = b""
        self.complaints = []
        target = self._ask("Target.createTarget", url="about:blank")
        attached = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._ask("Browser.close")
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._out)
            os.close(self._in)
            self._profile.cleanup()

    def open(self, url):
        """Go to an address."""
        self.ask("Page.navigate", url=url)

    def run(self, script):
        """Return what a JavaScript expression gives, a promise awaited."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, script, seconds=20):
        """Wait until an expression is true, and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                value = self.run(script)
            except RuntimeError:  # the page is still being made
                value = None
            if value:
                return value
            time.sleep(0.03)
        raise AssertionError(f"never true: {script}; the browser said {self.complaints}")

    def mouse(self, kind, x, y, clicks=0):
        """Move, press or release the mouse: `mouseMoved`, `mousePressed`, `mouseReleased`."""
        button = "none" if kind == "mouseMoved" and not clicks else "left"
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=clicks)

    def click(self, x, y):
        """Click at a place of the window."""
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, 1)
        self.mouse("mouseReleased", x, y, 1)

    def drag(self, x, y, to_x):
        """Drag along a line from left to right."""
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, 1)
        self.mouse("mouseMoved", (x + to_x) / 2, y, 1)
        self.mouse("mouseMoved", to_x, y, 1)
        self.mouse("mouseReleased", to_x, y, 1)

    def screenshot(self, path, whole=False):
        """Save a picture of the window, or of the whole page."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(answer["data"]))

    def ask(self, method, **parameters):
        """Send a command to the page and return its result."""
        return self._ask(method, self._session, **parameters)

    def _ask(self, method, session=None, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _receive(self):
        while b"\0" not in self._pending:
            data = os.read(self._in, 1 << 16)
            if not data:
                raise RuntimeError("The browser has ended")
            self._pending += data
        message, _, self._pending = self._pending.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        """Keep what the page's scripts complain about."""
        about = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(about["entry"]["text"] + " " + about["entry"].get("url", ""))
        elif event.get("method") == "Runtime.consoleAPICalled" and about["type"] in (
            "error",
            "warning",
        ):
            self.complaints.append(
                " ".join(str(a.get("description", a.get("value"))) for a in about["args"])
            )
