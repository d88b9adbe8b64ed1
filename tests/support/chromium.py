"""Chromium without a window, driven over its own DevTools."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

from tests.support.common import wait_until

#: None of what a browser for people does by itself; no sandbox, since CI is root.
_OPTIONS = """
    --headless --no-sandbox --disable-gpu --disable-background-networking
    --disable-component-update --disable-sync --disable-extensions
    --disable-dev-shm-usage --no-first-run --hide-scrollbars --remote-debugging-port=0
""".split()
#: Of everything that is shown, in shadow trees, too.
_TEXT = """
(function text(node) {
    const parts = [];
    if (node.nodeType === Node.TEXT_NODE) parts.push(node.textContent);
    if (!["HEAD", "SCRIPT", "STYLE"].includes(node.nodeName))
        for (const root of [node, node.shadowRoot])
            for (const child of root?.childNodes ?? []) parts.push(text(child));
    return parts.join(" ");
})(document)
"""


def find() -> str | None:
    """Return Chromium's path, or that of a browser that is the same."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Chromium:
    """One browser; each :meth:`open` is a tab of it.

    Parameters
    ----------
    directory
        For its profile, and whatever else it writes; empty.
    """

    def __init__(self, directory: Path) -> None:
        path = find()
        assert path is not None
        port = directory / "DevToolsActivePort"
        self._process = subprocess.Popen(
            [path, *_OPTIONS, f"--user-data-dir={directory}", "about:blank"],
            env={**os.environ, "HOME": str(directory)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._runner = asyncio.Runner()
        self._number = 0
        #: Session -> what its console said that is an error.
        self._errors: dict[str, list[str]] = {}
        try:
            wait_until(
                lambda: port.exists() and "\n" in port.read_text(), "Chromium", 60
            )
            where, at = port.read_text().split("\n")[:2]
            self._socket = self._runner.run(
                self._connect(f"ws://127.0.0.1:{where}{at}")
            )
        except BaseException:
            self._end()
            raise

    async def _connect(self, address: str) -> Any:
        return await websocket_connect(address, max_message_size=2**26)

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Return what DevTools answer; see their protocol."""
        return self._runner.run(self._call(method, session, params))

    async def _call(self, method: str, session: str | None, params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        await self._socket.write_message(json.dumps(message))
        while True:
            answer = json.loads(await asyncio.wait_for(self._socket.read_message(), 60))
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event["method"]:
            case "Runtime.exceptionThrown":
                found = told["exceptionDetails"]
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "assert"):
                found = told["args"]
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                found = told["entry"]
            case _:
                return
        self._errors[event["sessionId"]].append(json.dumps(found))

    def open(self, address: str, width: int = 1200, height: int = 800) -> Tab:
        """Open a page."""
        target = self.call("Target.createTarget", url="about:blank")
        attached = self.call("Target.attachToTarget", flatten=True, **target)
        session = attached["sessionId"]
        self._errors[session] = []
        tab = Tab(self, session, target["targetId"], self._errors[session])
        for domain in ("Runtime", "Log", "Page"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        tab.call("Page.navigate", url=address)
        return tab

    def close(self) -> None:
        """End it."""
        self._runner.run(self._disconnect())
        self._end()

    async def _disconnect(self) -> None:
        self._socket.close()
        while await self._socket.read_message() is not None:
            pass  # until both sides have

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._runner.close()


class Tab:
    """A page that is open.

    Attributes
    ----------
    errors
        What its console said that is an error, as of the last call.
    """

    def __init__(
        self, browser: Chromium, session: str, target: str, errors: list[str]
    ) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.errors = errors

    def call(self, method: str, **params: Any) -> Any:
        """See :meth:`Chromium.call`."""
        return self._browser.call(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """Return all text, with one space in the place of any."""
        return " ".join((self.evaluate(_TEXT) or "").split())

    def resize(self, width: int, height: int) -> None:
        """Give the page a size, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def picture(self) -> bytes:
        """Return what is to be seen, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)
