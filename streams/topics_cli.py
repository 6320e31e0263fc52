"""`streams topics`: create and list topics, write records to them and read them."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from streams.cli_group import Guessing
from streams.core.clock import SystemClock
from streams.core.errors import RecordError, TopicMismatch
from streams.core.record import Produced
from streams.log.base import Log, TopicSpec
from streams.log.reading import read_all, topic_info
from streams.settings import load
from streams.settings_cli import log_options as log_options


@click.group(cls=Guessing)
def topics() -> None:
    """Create and list topics, write and read records.

    For trying things out and for scripts: records are lines of text. They act on the embedded log, or with --brokers
    on Kafka.

    \b
    streams topics create payments --partitions 4
    streams topics write payments --key card_id < payments.jsonl
    streams topics read payments

    Exit codes: 0 fine, 1 an error, 2 wrong usage.
    """


def _open(file: Path | None, options: dict[str, Any]) -> Log:
    from streams.app import open_log

    return open_log(load(options, file=file))


@topics.command("create")
@click.argument("names", nargs=-1, required=True)
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True, help="Number of partitions.")
@log_options
def create(names: tuple[str, ...], partitions: int, file: Path | None, **options: Any) -> None:
    """Create topics that are kept for ever (retention.ms=-1).

    A topic that exists already with as many partitions is left as it is.

    \b
    streams topics create payments labels --partitions 8
    """
    log = _open(file, options)
    try:
        log.create([TopicSpec(name, partitions, {"retention.ms": "-1"}) for name in names])
        for name, info in log.topics(names).items():
            if info.partitions != partitions:
                raise TopicMismatch(
                    f"topic {name!r} exists already, with {info.partitions} partitions, not {partitions}",
                    where=log.name,
                    fix="choose another name, or keep the count",
                )
            click.echo(f"{name}: {info.partitions} partitions")
    finally:
        log.close()


@topics.command("list")
@log_options
def list_(file: Path | None, **options: Any) -> None:
    """List the topics of the log and their partitions, those that applications made for themselves included.

    \b
    streams topics list --brokers localhost:9092
    """
    log = _open(file, options)
    try:
        found = log.topics(log.all_topics())
        for name, info in sorted(found.items()):
            click.echo(f"{name}  {info.partitions} partitions")
        if not found:
            click.echo(f"no topics on {log.name}", err=True)
    finally:
        log.close()


@topics.command("write")
@click.argument("name")
@click.option("--key", help="Field of the JSON objects that becomes the key; it chooses the partition.")
@log_options
def write(name: str, key: str | None, file: Path | None, **options: Any) -> None:
    """Append the lines of standard input to topic NAME, a record each, in one commit.

    \b
    echo '{"card_id":"c1","at":1700000000000,"amount":5}' | streams topics write payments --key card_id
    """
    log = _open(file, options)
    try:
        topic_info(log, name)
        lines = [line.rstrip(b"\n") for line in sys.stdin.buffer if line.strip()]
        keys = [_key(line, key, number) for number, line in enumerate(lines, 1)]
        writer = log.writer("streams-topics-write", "cli")
        writer.append(Produced(name, None, keys, lines, SystemClock().now()))
        writer.commit({}, {})
        writer.close()
        click.echo(f"{len(lines)} records", err=True)
    finally:
        log.close()


def _key(line: bytes, field: str | None, number: int) -> bytes | None:
    if field is None:
        return None
    try:
        value = json.loads(line)[field]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"line {number} has no field {field!r} ({type(error).__name__})", fix="write JSON objects that have the key"
        ) from None
    return str(value).encode()


@topics.command("read")
@click.argument("name")
@log_options
def read(name: str, file: Path | None, **options: Any) -> None:
    """Print the committed records of topic NAME, a line each, and end.

    Partition by partition as they come; records that are committed later are not waited for.

    \b
    streams topics read alerts | head
    """
    log = _open(file, options)
    try:
        for records in read_all(log, name):
            for value in records.values():
                sys.stdout.buffer.write((value or b"") + b"\n")
    finally:
        sys.stdout.flush()
        log.close()
