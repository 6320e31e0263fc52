"""The page in a real browser."""

import asyncio
import os

import pytest

from tests.debian import program
from tests.web.browser import NAMES, tab
from tests.web.conftest import Site


@pytest.fixture(autouse=True)
def chromium() -> None:
    if not os.environ.get("CHROMIUM"):
        program("chromium", *NAMES)


@pytest.mark.slow
def test_the_page_lives_and_its_script_does_not_complain(site: Site) -> None:
    async def look() -> None:
        async with tab() as page:
            await page.open(f"{site.url}/")
            await page.until("document.querySelector('.graph').textContent.includes('<b>count&')")
            site.feed("evil", *(f"c{i}" for i in range(200)))
            # Refreshed without a reload: rows, a rate, and the cause of a dead letter as text.
            await page.evaluate("window.kept = true; document.querySelector('#settings details').open = true")
            await page.until("/200/.test(document.querySelector('#operators').innerText)")
            await page.until("/[0-9.]+ ?k?\\/s/.test(document.querySelector('.graph .operator .live').textContent)")
            await page.until("/<script>alert/.test((document.querySelector('#letters') || {}).innerText)")
            assert await page.evaluate("window.kept && document.querySelector('#settings details').open")
            assert await page.evaluate("document.scripts.length") == 1
            assert await page.evaluate("document.getElementById('gone').hidden")
            assert page.complaints == []
            site.process.kill()
            await page.until("!document.getElementById('gone').hidden && /since \\d+ s/.test(gone.innerText)")

    asyncio.run(look())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_fits_a_phone(site: Site, scheme: str) -> None:
    async def look() -> None:
        async with tab() as page:
            await page.open(f"{site.url}/", width=420, height=800, scheme=scheme)
            assert await page.evaluate("document.documentElement.scrollWidth") <= 420
            assert page.complaints == []

    asyncio.run(look())


@pytest.mark.slow
def test_texts_of_the_graph_stay_in_their_nodes(site: Site) -> None:
    async def look() -> None:
        async with tab() as page:
            await page.open(f"{site.url}/")
            wide = """[...document.querySelectorAll('.graph .node')].flatMap(g => {
                const box = g.querySelector('rect, polygon').getBoundingClientRect();
                return [...g.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])
                    .filter(([_, r]) => r.right > box.right || r.left < box.left).map(([text]) => text) })"""
            assert await page.evaluate(wide) == []

    asyncio.run(look())
