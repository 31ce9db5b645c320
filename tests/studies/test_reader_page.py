"""The reader study's page in a browser: keys, clicks, a reload in between, the CSV at the end."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyfree_ray.reports.pages import render
from hyfree_ray.studies.reader_scores import read_answers

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
IMAGES = 6
TRUTH = {str(n): "synthetic" if n % 2 else "real" for n in range(IMAGES)}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kc"
    "QAAAABJRU5ErkJggg=="
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]

Evaluate = Callable[[str], Awaitable[Any]]


class Tab:
    """A page in the browser, by its DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0

    async def send(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            found = json.loads((await self._socket.receive(timeout=30)).data)
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    async def evaluate(self, script: str) -> Any:
        found = await self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key)

    async def click(self, name: str) -> None:
        """Click in the middle of an element, as a mouse does."""
        box = await self.evaluate(
            f"(() => {{const b = document.getElementById('{name}').getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send(
                "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left",
                clickCount=1,
            )  # fmt: skip

    async def open(self, page: Path) -> None:
        await self.send("Page.navigate", url=page.as_uri())
        for _ in range(100):
            if await self.evaluate("document.readyState + (typeof PICTURES)") == "completeobject":
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the page does not load")

    async def begin(self, reader: str) -> None:
        await self.click("reader")
        await self.send("Input.insertText", text=reader)
        await self.click("start")

    async def count(self) -> str:
        return str(await self.evaluate("document.getElementById('count').textContent"))


@pytest.fixture
def browser() -> Iterator[str]:
    """The address of a headless browser's first tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        assert BROWSER is not None
        process = subprocess.Popen(
            [
                *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--remote-debugging-port=0", "--remote-allow-origins=*"),
                *(f"--user-data-dir={profile}", "--window-size=1100,800", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = Path(profile) / "DevToolsActivePort"
            until = time.monotonic() + 60
            while not (port.is_file() and "\n" in port.read_text()):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        finally:
            process.terminate()
            process.wait()


async def in_tab(address: str, use: Callable[[Tab], Awaitable[None]]) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/json/list") as listed:
            tabs = [tab for tab in await listed.json() if tab["type"] == "page"]
        async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            await use(Tab(socket))


def test_a_reader_answers_by_key_and_mouse_goes_on_after_a_reload_and_saves_a_csv(
    browser: str, tmp_path: Path
) -> None:
    page, saved = tmp_path / "reader-study.html", tmp_path / "saved"
    saved.mkdir()
    page.write_text(
        render(
            "reader-study.html",
            study="s1",
            site="north <b>",
            pictures=[PIXEL] * IMAGES,
            channels="T1",
            enlarged=200,
        )
    )

    async def read(tab: Tab) -> None:
        await tab.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(saved))
        await tab.open(page)
        assert "REAL images" in await tab.evaluate("document.body.innerText")
        await tab.begin("Reader 1")
        assert await tab.count() == f"1 of {IMAGES}"
        await tab.press("r")
        await tab.press("ArrowRight")
        await tab.click("synthetic")
        await tab.press("Backspace")
        assert await tab.count() == f"3 of {IMAGES}"
        await tab.open(page)  # closed and opened again
        await tab.begin("Reader 1")
        assert await tab.count() == f"3 of {IMAGES}"
        first = await tab.evaluate("order.join()")
        for key in ("s", "ArrowLeft", "S", "x", "r"):
            await tab.press(key)
        assert await tab.evaluate("document.getElementById('end').hidden") is False
        await tab.click("save")
        for _ in range(100):
            if (saved / "answers-Reader_1.csv").is_file():
                break
            await asyncio.sleep(0.05)
        await tab.open(page)
        await tab.begin("Reader 2")
        assert await tab.count() == f"1 of {IMAGES}"
        assert await tab.evaluate("order.join()") != first

    asyncio.run(in_tab(browser, read))
    found = read_answers(saved / "answers-Reader_1.csv", "s1", TRUTH)["Reader 1"]
    assert sorted(found) == sorted(TRUTH)
    assert sorted(found.values()) == ["real"] * 3 + ["synthetic"] * 3
