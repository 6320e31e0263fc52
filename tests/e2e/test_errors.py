"""What an operator of the service meets: `python -m streams ...` as a process, its exit code and its message."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from tests.e2e.place import Place, checked, wait


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ---------------------------------------------------------------- names and settings


def test_a_missing_topic(place: Place) -> None:
    message = place.fails("run", "program:typo")
    assert "'txs'; did you mean 'tx'?" in message
    assert str(place.path / "log") in message
    assert "streams topics create" in message


def test_a_wrong_module(place: Place) -> None:
    message = place.fails("run", "progam:app")
    assert "'progam'" in message
    assert str(place.path) in message


def test_a_wrong_app(place: Place) -> None:
    message = place.fails("run", "program:ap")
    assert "'ap'" in message
    assert "did you mean 'app'?" in message
    assert "program" in message
    assert "app, typo" in message


def test_no_app_named(place: Place) -> None:
    assert "MODULE:NAME" in place.fails("run", "program")


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "1 +", "1 / 0"])
def test_a_program_that_is_broken(place: Place, text: str) -> None:
    """Its own traceback is what its writer needs: the last line says the file."""
    place.path.joinpath("broken.py").write_text(text + "\n")
    done = subprocess.run(
        place.command("run", "broken:app"), cwd=place.path, env=place.environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "broken.py" in done.stderr


def test_an_unknown_setting(place: Place) -> None:
    place.path.joinpath("streams.toml").write_text('comit_interval = "1s"\n')
    message = place.fails("run", "program:app", "--settings", "streams.toml")
    assert "'comit_interval'; did you mean 'commit_interval'?" in message
    assert "streams.toml" in message


@pytest.mark.parametrize(
    ("text", "named"), [('commit_interval = "soon"', "soon"), ("poll_records = 0", "poll_records"), ("a = = 1", "TOML")]
)
def test_a_wrong_setting(place: Place, text: str, named: str) -> None:
    place.path.joinpath("streams.toml").write_text(text)
    message = place.fails("run", "program:app", "--settings", "streams.toml")
    assert named in message
    assert "streams.toml" in message


def test_no_settings_file(place: Place) -> None:
    assert "'nowhere.toml'" in place.fails("run", "program:app", "--settings", "nowhere.toml")


# ---------------------------------------------------------------- the network


def test_an_unreachable_broker(place: Place) -> None:
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        started = time.monotonic()
        message = place.fails("run", "program:app", "--brokers", address)
        assert time.monotonic() - started < 15
    assert address in message


def test_a_port_in_use(place: Place) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        message = place.fails("run", "program:app", "--http", address)
    assert address in message
    assert "in use" in message
    assert "--http" in message


@pytest.mark.parametrize("address", ["127.0.0.1:many", "127.0.0.1:99999", "no-such-host.invalid:9400"])
def test_a_wrong_http_address(place: Place, address: str) -> None:
    message = place.fails("run", "program:app", "--http", address)
    assert address in message
    assert "--http" in message


# ---------------------------------------------------------------- several workers


def test_a_state_directory_in_use(place: Place) -> None:
    with EmbeddedLog(place.path / "other") as other:
        other.create([TopicSpec("tx", 1, {})])
    place.feed(30)
    with place.worker() as first:
        wait(lambda: len(place.made()) == 30)
        message = place.fails("run", "program:app", log="other")
        assert f"process {first.pid}" in message
        assert str(Path("state", "counts", "0")) in message
        assert "slot" in message
        place.feed(30)
        wait(lambda: len(place.made()) == 60)  # the first one is not disturbed
        assert place.made() == place.right()


def test_a_second_worker_on_one_slot(place: Place) -> None:
    place.feed(30)
    with place.worker() as first, place.worker(state="state2") as second:
        for _ in range(100):
            if first.poll() is not None or second.poll() is not None:
                break
            place.feed(10)
            time.sleep(0.1)
        ended = [p for p in (first, second) if p.poll() is not None]
        assert len(ended) == 1
        said = checked(ended[0].returncode, "", ended[0].stdout.read())
        assert "slot '0'" in said
        assert str(next(p for p in (first, second) if p.poll() is None).pid) in said
        assert "slot of its own" in said
        wait(lambda: len(place.made()) >= place.sent)  # the other one goes on
    assert place.made() == place.right()


# ---------------------------------------------------------------- the disk


def stores(place: Place) -> Path:
    return place.path / "state" / "counts" / "0" / "0-0"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("what", ["CURRENT", "SST", "MANIFEST", "WAL", "all gone but SST"])
def test_a_corrupt_store_is_healed(place: Place, what: str, end: signal.Signals) -> None:
    for _ in range(2):  # the second start moves what the log of the first holds to an SST
        place.feed(200)
        place.run_until_done(end=end)
    assert list(stores(place).glob("*.sst"))
    for file in stores(place).iterdir():
        kind = {".sst": "SST", ".log": "WAL"}.get(file.suffix, file.name.split("-")[0])
        if what == "all gone but SST":
            if kind != "SST":
                file.unlink()
        elif kind == what:
            file.write_bytes(os.urandom(max(100, file.stat().st_size)))
    place.feed(200)
    said = place.run_until_done()
    assert "Traceback" not in said
    assert place.made() == place.right(), said
    if what != "WAL":  # a log of which the end is lost is a store from before: that is no damage
        assert "task 0/0: the files of a store are damaged" in said
        assert "made anew from the changelog" in said


def test_damage_that_is_found_while_reading(place: Place) -> None:
    """Data blocks of an SST that opens well: the worker says so, makes the store anew and goes on."""
    place.cards = 3000
    # Most cards are in an SST alone: the second start writes what the first one has committed, also where the kill came
    # before that was in the store; the third one makes a table of it.
    for count in (6000, 30, 30):
        place.feed(count)
        place.run_until_done(end=signal.SIGKILL)
    for file in stores(place).glob("*.sst"):
        data = bytearray(file.read_bytes())
        if len(data) > 20_000:
            data[1000 : len(data) // 4] = os.urandom(len(data) // 4 - 1000)
            file.write_bytes(data)
    place.feed(6000)
    said = place.run_until_done()
    assert "damaged: reading" in said
    assert "taking the leases anew" in said
    assert "made anew from the changelog" in said
    assert place.made() == place.right()


def test_no_place_for_state(place: Place) -> None:
    place.path.joinpath("state").write_text("a file")
    message = place.fails("run", "program:app")
    assert str(place.path / "state") in message
    assert "--state-dir" in message


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "streams-test", str(path)], capture_output=True
    )
    if made.returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> Path:
    """Fill the disk to the last byte."""
    filler = path / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    return filler


def no_space(message: str, where: str) -> None:
    assert "no space" in message, message
    assert where in message
    assert "space" in message.split("fix:")[1] or "room" in message.split("fix:")[1]


def test_a_full_disk_under_the_state(place: Place) -> None:
    with small_disk(place.path / "state", 8):
        place.feed(1000)
        with place.worker() as process:
            wait(lambda: len(place.made()) == 1000)
            filler = fill(place.path / "state")
            for _ in range(100):
                if process.poll() is not None:
                    break
                place.feed(100)
                time.sleep(0.1)
            said = checked(process.wait(timeout=20), "", process.stdout.read())
        no_space(said, "state/counts/0/0-0")
        no_space(place.fails("run", "program:app"), "state")  # still full
        filler.unlink()
        place.run_until_done()
        assert place.made() == place.right()


def test_a_full_disk_under_a_new_state(place: Place) -> None:
    place.feed(100)
    with small_disk(place.path / "state", 1):
        filler = fill(place.path / "state")
        no_space(place.fails("run", "program:app"), "state")
        filler.unlink()
    place.run_until_done()
    assert place.made() == place.right()


def test_a_full_disk_under_the_log(place: Place) -> None:
    (place.path / "log").rename(place.path / "before")
    with small_disk(place.path / "log", 4):
        for file in (place.path / "before").iterdir():
            shutil.copy(file, place.path / "log")
        place.feed(1000)
        with place.worker() as process:
            wait(lambda: len(place.made()) == 1000)
            place.feed(5000)
            filler = fill(place.path / "log")
            said = checked(process.wait(timeout=60), "", process.stdout.read())
        no_space(said, "log/log.db")
        no_space(place.fails("run", "program:app"), "log/log.db")
        filler.unlink()
        place.run_until_done()
        assert place.made() == place.right()
