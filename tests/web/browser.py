"""A headless Chromium, driven through the DevTools protocol: what a page shows, and whether its script complains."""

import asyncio
import base64
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0


def executable() -> str:
    """Where Chromium is: $CHROMIUM, or on the PATH. Raises RuntimeError with the remedy if it is nowhere."""
    wanted = os.environ.get("CHROMIUM")
    for name in [wanted] if wanted else NAMES:
        if found := shutil.which(name):
            return found
    raise RuntimeError(
        f"no Chromium: looked for {wanted or ', '.join(NAMES)}; install it (Debian: apt-get install chromium), or name "
        "it in the environment variable CHROMIUM"
    )


class Tab:
    """A page. `complaints`: errors of its script and of its console, security policy included."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.complaints: list[str] = []
        self._listening = asyncio.create_task(self._listen())

    async def ask(self, method: str, **arguments: Any) -> Any:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": arguments})
        return await asyncio.wait_for(answer, PATIENCE)

    async def evaluate(self, script: str) -> Any:
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until the script is true."""
        deadline = time.monotonic() + PATIENCE
        while not await self.evaluate(f"!!({script})"):
            assert time.monotonic() < deadline, f"not so: {script}\n{await self.evaluate('document.body.innerText')}"
            await asyncio.sleep(0.1)

    async def open(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "dark") -> None:
        for domain in ("Runtime", "Log", "Page"):
            await self.ask(f"{domain}.enable")
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.ask("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def picture(self, area: dict[str, float] | None = None) -> bytes:
        """PNG of what is in view, or of an area of the document (x, y, width, height)."""
        more = {"clip": {**area, "scale": 1}, "captureBeyondViewport": True} if area else {}
        return base64.b64decode((await self.ask("Page.captureScreenshot", format="png", **more))["data"])

    async def close(self) -> None:
        self._listening.cancel()
        await self._socket.close()

    async def _listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if "error" in said:
                    answer.set_exception(RuntimeError(str(said["error"])))
                else:
                    answer.set_result(said["result"])
            elif said["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] in ("warning", "error"):
                self.complaints.append(str(said["params"]["entry"]))
            elif said["method"] == "Runtime.consoleAPICalled" and said["params"]["type"] in ("warning", "error"):
                self.complaints.append(str(said["params"]["args"]))


@asynccontextmanager
async def tab() -> AsyncIterator[Tab]:
    """A tab of a Chromium of its own, which ends with the block."""
    directory = Path(tempfile.mkdtemp(prefix="streams-browser-"))
    output = directory / "stderr"
    command = [executable(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--hide-scrollbars", "--no-first-run", "--remote-debugging-port=0"]
    command += [f"--user-data-dir={directory / 'profile'}", "about:blank"]
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"DevTools listening on ws://([^/]+)/", output.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Chromium does not start:\n{output.read_text()[-2000:]}")
            await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{found[1]}/json/list") as answer:
                targets = [t for t in await answer.json() if t["type"] == "page"]
            socket = await session.ws_connect(targets[0]["webSocketDebuggerUrl"], max_msg_size=2**26)
            made = Tab(socket)
            try:
                yield made
            finally:
                await made.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its helpers are in its own process group
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
