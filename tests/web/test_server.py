"""Every endpoint, against a real worker on the embedded log."""

import json
import re
import signal
import socket

import pytest

from streams.core.errors import StreamsError
from streams.web.listener import parse
from streams.web.server import ENDPOINTS
from tests.web.conftest import Site


def test_every_endpoint(site: Site) -> None:
    site.feed(*(f"c{i}" for i in range(100)))
    site.write([b"not JSON"])
    site.until(lambda: site.status()["worker"]["operators"]["sink-seen-1"]["rows"] == 100)
    site.until(lambda: site.status()["worker"]["dead"] == 1)
    status = site.status()
    assert status["ready"]["ok"]
    assert status["worker"]["records_in"] == 101
    assert status["worker"]["operators"]["minutes"]["rows"] == 100
    assert status["worker"]["operators"]["by-shop"]["rows"] == 100
    assert status["worker"]["last_letters"][0]["operator"] == "source-tx"
    assert "not JSON" not in json.dumps(status["worker"]["last_letters"][0]["topic"])
    assert sum(c["records_in"] for c in status["worker"]["last_commits"]) <= 101
    assert {t["task"] for t in status["worker"]["tasks"]} == {"0/0", "0/1", "1/0", "1/1"}
    site.until(lambda: all(t["held"] and t["slot"] == "0" for t in site.status()["application"]["tasks"]))

    assert site.get("/healthz")[0] == site.get("/readyz")[0] == 200
    code, text, headers = site.get("/metrics")
    assert code == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert 'streams_records_in_total{topic="tx"} 101.0' in text
    assert 'operator_rows_total{operator="sink' not in text  # a metric of operators alone, as before
    topology = json.loads(site.get("/api/topology")[1])
    assert {"from": "source-tx", "side": "", "to": "by-shop", "shuffle": True} in topology["edges"]
    assert [s["partitions"] for s in topology["subs"]] == [2, 2]

    code, page, headers = site.get("/")
    assert code == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert not re.search(r"""(src|href)=["']?//|://|url\((?!#)|@import""", page)  # nothing from elsewhere
    assert "&lt;b&gt;count&amp;" in page
    assert "<b>" not in page


def test_nothing_else_is_answered(site: Site) -> None:
    code, text, _ = site.get("/nowhere")
    assert code == 404
    assert all(path in text for path in ENDPOINTS)
    assert site.get("/api/status", "POST")[0] == 405
    assert site.get("/", Host="evil.example")[0] == 421
    assert site.get("/", Host="localhost:80")[0] == 200
    assert site.get("/healthz?within=soon")[0] == 400


def test_a_loop_that_stands_still_is_told_with_the_place(site: Site) -> None:
    site.until(lambda: site.get("/readyz")[0] == 200)
    site.feed("hang")
    # A busy machine can hold the loop up for a second anywhere: it is this place that has to be told.
    site.until(lambda: "Count.on_row (program:" in site.get("/healthz?within=1")[1])
    status, text = site.get("/healthz?within=1")[:2]
    assert status == 503
    assert "has not turned for" in text
    assert site.get("/")[0] == 200  # the page does not need the worker's thread
    (site.path / "go-on").touch()
    site.until(lambda: site.get("/healthz?within=1")[0] == 200)


def test_a_hostile_cause_is_text(site: Site) -> None:
    site.feed("good", "evil")
    site.until(lambda: site.status()["worker"]["dead"] == 1)
    _, page, _ = site.get("/")
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    live = json.loads(site.get("/api/status?page")[1])["page"]
    assert "<script" not in live


def test_it_ends_with_the_worker(site: Site) -> None:
    site.until(lambda: site.get("/readyz")[0] == 200)
    site.get("/")
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(30) == 0, (site.path / "worker.log").read_text()


@pytest.mark.parametrize("address", ["", "many", "127.0.0.1:", "127.0.0.1:70000"])
def test_a_wrong_address(address: str) -> None:
    with pytest.raises(StreamsError, match="--http"):
        parse(address)


def test_a_port_in_use(site: Site) -> None:
    from streams.app import make_worker, open_log
    from streams.settings import Settings
    from streams.web.server import Server
    from tests.web.test_report import program

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        settings = Settings(log_dir=str(site.path / "log"), state_dir=str(site.path / "other"))
        log = open_log(settings)
        worker = make_worker(program(), settings, log)
        server = Server(worker, f"127.0.0.1:{busy.getsockname()[1]}", lambda: open_log(settings))
        with pytest.raises(StreamsError, match=r"(?s)in use.*fix: .*free HOST:PORT"):
            server.start()
        worker.close()
        log.close()
