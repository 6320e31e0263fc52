"""State over HTTP: a real worker on the embedded log, and `streams state --http` beside it."""

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner

from streams.cli import assembled
from streams.web.state import MOST, Answer, Refused, encoded, refuse_where
from streams.web.state_many import Many, Member
from tests.web.conftest import Site

COUNT = "<b>count&/values"  # the program's operator tries to be hostile


def state(site: Site, path: str, **given: str) -> tuple[int, dict]:
    status, text, headers = site.get(f"/api/state{path}?{urlencode(given)}")
    assert headers["Content-Type"].startswith("application/json")
    return status, json.loads(text)


def say(site: Site, *arguments: str, code: int = 0, http: bool = True) -> str:
    """What `streams state` prints; in the directory of the program."""
    places = ["--http", site.url.removeprefix("http://")] if http else ["--log-dir", "log", "--state-dir", "state"]
    done = CliRunner().invoke(assembled(), ["state", arguments[0], "program:app", *arguments[1:], *places])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.fixture
def there(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The program can be imported."""
    monkeypatch.chdir(site.path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "program", raising=False)
    yield site
    sys.modules.pop("program", None)


def test_the_command_prints_of_a_living_worker_what_it_prints_of_a_stopped_one(there: Site) -> None:
    site = there
    site.feed(*(f"c{i % 10}" for i in range(100)))
    site.until(lambda: state(site, "/get", store=COUNT, key="s")[1]["entries"])
    site.until(lambda: state(site, "/get", store=COUNT, key="s")[1]["entries"][0]["value"] == {"n": 100})
    commands = [
        ["scan", COUNT],
        ["scan", "minutes", "--limit", "4"],
        ["scan", "minutes", "--json", "--from", "1699999980000:c5"],
        ["scan", "minutes", "--prefix", "1699999980000:c1"],
        ["get", COUNT, "s"],
        ["get", COUNT, "s", "--json"],
    ]
    live = [say(site, *command) for command in commands]
    assert '{"n": 100}' in live[0]
    assert "there are more" in live[1]
    assert say(site, "get", COUNT, "nobody", code=1) == f"no task has the key 'nobody' in {COUNT}\n"
    in_use = say(site, "stats", code=1, http=False)
    assert "--http HOST:PORT" in in_use
    said = say(site, "get", "minute", "x", code=1)
    assert "did you mean 'minutes/windows'" in said
    assert "give one of them" in say(site, "stats", "--from-changelog", code=2)
    stats = say(site, "stats")
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(30) == 0
    assert [say(site, *command, http=False) for command in commands] == live
    counts = [[line.split()[:4], line.split()[-2:]] for line in stats.splitlines()]
    assert counts == [[line.split()[:4], line.split()[-2:]] for line in say(site, "stats", http=False).splitlines()]
    assert "no answer from 127.0.0.1" in say(site, "stats", code=1)


def test_a_worker_that_hangs_answers_in_bounded_time_and_forgets_who_is_gone(site: Site) -> None:
    site.until(lambda: site.get("/readyz")[0] == 200)
    site.feed("hang")
    site.until(lambda: "Count.on_row (program:" in site.get("/healthz?within=1")[1])
    address = ("127.0.0.1", int(site.url.rpartition(":")[2]))
    gone = [socket.create_connection(address) for _ in range(MOST)]
    for each in gone:
        each.sendall(b"GET /api/state/stats?timeout=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    site.until(lambda: "wait already" in json.dumps(state(site, "", timeout="0.1")[1]))
    for each in gone:
        each.close()
    site.until(lambda: "wait already" not in json.dumps(state(site, "", timeout="0.1")[1]))
    began = time.monotonic()
    status, found = state(site, "/get", store=COUNT, key="s", timeout="0.5")
    assert time.monotonic() - began < 20
    assert status == 503
    assert "has not turned for" in found["error"]["what"]
    assert found["error"]["where"] == "slot 0"
    assert site.get("/healthz?within=600")[0] == 200
    (site.path / "go-on").touch()
    site.until(lambda: state(site, "/get", store=COUNT, key="s")[0] == 200)


def test_nothing_but_reading_and_only_for_this_machine(site: Site) -> None:
    assert site.get("/api/state", "POST")[0] == 405
    assert site.get("/api/state", "DELETE")[0] == 405
    assert site.get("/api/state/scan?store=minutes", Host="evil.example")[0] == 421
    assert state(site, "/scan", store="minute")[0] == 404
    assert state(site, "/get", store="minutes", key="soon")[0] == 400
    assert state(site, "/get", store="minutes")[0] == 400


@pytest.mark.parametrize(
    ("setting", "loopback", "allowed"),
    [("local", True, True), ("local", False, False), ("all", False, True), ("none", True, False)],
)
def test_who_may_read(setting: str, loopback: bool, allowed: bool) -> None:
    refused = refuse_where(setting, loopback)
    assert (refused is None) == allowed
    if refused is not None:
        assert refused.status == 403
        assert "http_state" in refused.where


def test_a_server_that_others_reach_does_not_show_state(site: Site) -> None:
    from streams.app import make_worker, open_log
    from streams.settings import Settings
    from streams.web.server import Server
    from tests.web.test_report import program

    settings = Settings(log_dir=str(site.path / "log"), state_dir=str(site.path / "other"))
    log = open_log(settings)
    worker = make_worker(program(), settings, log)
    server = Server(worker, "0.0.0.0:0", lambda: open_log(settings))
    try:
        server.start()
        site.url = server.url.rstrip("/")
        status, found = state(site, "/stats")
        assert status == 403
        assert "--http-state all" in found["error"]["fix"]
        assert site.get("/api/topology")[0] == 200
    finally:
        server.close()
        worker.close()
        log.close()


# ---- several workers as one


def member(name: str, tasks: dict[str, list[str]], commit: int = 1, down: bool = False, every: str = "0/0 0/1 0/2"):
    """A worker that has these keys in the store "s/m" of these tasks."""

    def ask(path: str, given) -> Answer:
        if down:
            raise Refused(503, f"{name} is down")
        if given.get("task") and given["task"] not in tasks:
            document = {"error": {"what": "not here", "where": name, "fix": "", "task": given["task"]}}
            return Answer(404, encoded(document))
        wanted = {given["task"]: tasks[given["task"]]} if given.get("task") else tasks
        head = {"app": "a", "slot": name, "covers": {t: {"commit": commit, "upto": commit} for t in wanted}}
        head["missing"] = [t for t in every.split() if t not in tasks]
        if path == "/api/state":
            about = {"stores": {t: ["s/m"] for t in tasks}, "of": {"s/m": every.split()}, "restoring": []}
            return Answer(200, encoded({**head, **about}))
        keys = [(t, k) for t in wanted for k in wanted[t]]
        if given.get("next"):
            keys = [(t, k) for t, k in keys if k.encode() >= bytes.fromhex(given["next"].partition(":")[2])]
        limit = int(given.get("limit", 100))
        next = f"{keys[limit][0]}:{keys[limit][1].encode().hex()}" if len(keys) > limit else None
        entries = [{"task": t, "key": k, "value": name, "note": ""} for t, k in keys[:limit]]
        return Answer(200, encoded({**head, "store": "s/m", "entries": entries, "next": next}))

    return Member(name, ask)


def test_a_scan_goes_task_by_task_over_all_workers() -> None:
    many = Many([member("b", {"0/1": ["k", "l"]}), member("a", {"0/0": ["x", "y"], "0/2": ["z"]})])
    found, next = [], ""
    while next is not None:
        page = many.document("/api/state/scan", {"store": "s/m", "limit": "2", "next": next})
        found, next = found + [(e["task"], e["key"]) for e in page["entries"]], page["next"]
        assert len(page["entries"]) <= 2
        assert page["missing"] == []
    assert found == [("0/0", "x"), ("0/0", "y"), ("0/1", "k"), ("0/1", "l"), ("0/2", "z")]


def test_a_task_is_taken_from_whoever_has_its_latest_commit() -> None:
    many = Many([member("old", {"0/0": ["k"]}, commit=3), member("new", {"0/0": ["k"]}, commit=4)])
    page = many.document("/api/state/get", {"store": "s/m", "key": "k"})
    assert [e["value"] for e in page["entries"]] == ["new"]
    assert page["missing"] == ["0/1", "0/2"]


def test_a_worker_that_is_down_matters_only_if_others_lack_its_tasks() -> None:
    whole = {"0/0": ["k"], "0/1": [], "0/2": []}
    assert Many([member("a", whole), member("b", {}, down=True)]).document("/api/state", {})["missing"] == []
    with pytest.raises(Refused, match="b is down"):
        Many([member("a", {"0/0": ["k"]}), member("b", {}, down=True)]).document("/api/state", {})
    asked = {"store": "s/m", "key": "k", "task": "0/0"}
    both = Many([member("a", {"0/0": ["k"]}), member("b", {}, down=True)])
    assert len(both.document("/api/state/get", asked)["entries"]) == 1
    with pytest.raises(Refused, match="b is down"):
        both.document("/api/state/get", {**asked, "task": "0/1"})


def test_what_is_no_worker_is_told() -> None:
    for body in (b"hello", b"{}", b"[]", b'{"error": 1}'):
        with pytest.raises(Refused, match="does not answer as a worker does"):
            Member("x", lambda path, given, body=body: Answer(200, body)).document("/api/state", {})
