"""What a supervisor asks a worker, and what becomes of it when the worker is silent or ends."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

from streams.core.errors import StreamsError
from streams.runtime.queries import MOST
from streams.runtime.reporter import Status
from streams.supervisor.child import Child
from streams.supervisor.parent import UNREACHABLE, VARIABLE, Dropped, Parent, Question
from streams.supervisor.supervisor import Supervisor
from streams.web.health_many import question
from streams.web.state import Answer, Asked
from tests.terminal.place import Place

_HEALTH_ALONE = """
import os
from multiprocessing.connection import Connection
from streams.supervisor.parent import VARIABLE, Answered, Question
from streams.web.state import Answer
said = Connection(int(os.environ[VARIABLE]))
while True:
    asked = said.recv()
    if isinstance(asked, Question) and asked.path == "/healthz":
        said.send(Answered(asked.number, Answer(200, b"{}")))
"""


@contextmanager
def child() -> Iterator[Child]:
    """A worker that tells its health, and answers no question about state."""
    made = Child("0-0", [sys.executable, "-c", _HEALTH_ALONE], dict(os.environ))
    try:
        yield made
    finally:
        if not made.ended:
            os.kill(made.pid, 9)
        made.finish()


def test_those_who_wait_for_state_do_not_make_a_worker_seem_dead() -> None:
    with child() as made:
        for _ in range(MOST + 1):
            assert made.state(Asked("/api/state/stats", {"timeout": "0.01"})).status == 503
        assert made.state(question()).status == 200


@pytest.mark.parametrize("how", ["the worker ends", "nobody waits"])
def test_a_question_does_not_outlive_who_answers_or_asks(how: str) -> None:
    with child() as made:
        assert made.state(Asked("/healthz", {"timeout": "60"})).status == 200  # it runs
        asked, found = Asked("/api/state/stats", {"timeout": "60"}), list[Answer]()
        thread = threading.Thread(target=lambda: found.append(made.state(asked)))
        thread.start()
        time.sleep(0.1)
        if how == "nobody waits":
            asked.give_up()
        else:
            os.kill(made.pid, 9)
        thread.join(15)  # a supervisor that ends waits for its threads
        assert [answer.status for answer in found] == [503]


class Spared(Parent):
    """It does not end this process with its supervisor."""

    def _orphaned(self) -> None:
        pass


def test_questions_that_come_all_the_time_hold_no_status_up() -> None:
    ours, theirs = Pipe()
    parent = Spared(os.dup(theirs.fileno()))
    theirs.close()
    parent._worker = SimpleNamespace(status=Status(records_in=7))  # type: ignore[assignment]
    until = time.monotonic() + 5
    try:
        while not ours.poll(0) and time.monotonic() < until:
            ours.send(Dropped(-1))
            time.sleep(0.05)
        assert ours.poll(0), "no status came"
        assert ours.recv().records_in == 7
    finally:
        ours.close()


def test_without_a_thread_for_the_answer_the_supervisor_is_still_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Pipe()
    parent = Spared(os.dup(theirs.fileno()))
    theirs.close()

    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    try:
        for number in range(2):
            ours.send(Question(number, "/api/state", {}))
            assert ours.poll(5), "no answer"
            assert ours.recv().answer.status == 503
        assert not parent._asked
    finally:
        ours.close()


def test_a_worker_that_cannot_be_started_now_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("streams.supervisor.supervisor.Child", none)
    supervisor = Supervisor("app", "log", {"0-0": ["x"]})
    [member] = supervisor.members
    for _ in range(4):
        member.due = 0.0
        supervisor._look_after(member)
        assert member.due > time.monotonic()
    member.due = 0.0
    with pytest.raises(StreamsError, match=r"cannot be started: .*unavailable"):
        supervisor._look_after(member)


_UNREACHABLE = f"""
import os
from multiprocessing.connection import Connection
Connection(int(os.environ[{VARIABLE!r}])).send({UNREACHABLE!r})
raise SystemExit(1)
"""


def deaths(supervisor: Supervisor, most: int) -> int:
    """How often the worker dies before the supervisor gives up, at most so often."""
    [member] = supervisor.members
    for number in range(most):
        member.due = 0.0
        try:
            while member.due == 0.0 or member.child is not None:
                supervisor._look_after(member)
                time.sleep(0.01)
        except StreamsError:
            return number + 1
    return most


@pytest.mark.parametrize(("joined", "expected"), [(True, 7), (False, 5)])
def test_deaths_while_the_log_is_away_do_not_count_once_it_was_there(joined: bool, expected: int) -> None:
    """A worker that was killed in an outage of the brokers had all others stopped, after five starts."""
    supervisor = Supervisor("app", "log", {"0-0": [sys.executable, "-c", _UNREACHABLE]})
    supervisor._joined = joined
    assert deaths(supervisor, 7) == expected


def test_a_worker_tells_that_the_log_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere" / "log.db").mkdir(parents=True)
    made = Child("0-0", place.command("--log-dir", "elsewhere"), place.environment())
    made.finish()
    assert (made.unreachable, made.why()) == (True, "ended with exit code 1"), made.said()
