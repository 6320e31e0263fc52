"""`streams topics`: create, list and delete topics, write records to them and read them."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from streams.cli_group import Guessing
from streams.core.clock import SystemClock
from streams.core.errors import LogError, RecordError, TopicMismatch
from streams.core.record import Produced, TopicPartition
from streams.core.schema import nearest
from streams.core.wording import counted
from streams.log.base import Log, TopicInfo, TopicSpec
from streams.log.reading import read_all, topic_info
from streams.settings import load
from streams.settings_cli import log_options as log_options

_TASKS = "-tasks"


@click.group(cls=Guessing)
def topics() -> None:
    """Create, list and delete topics, write and read records.

    For trying things out and for scripts: records are lines of text. They act on the embedded log, or with --brokers
    on Kafka.

    \b
    streams topics create payments --partitions 4
    streams topics write payments --key card_id < payments.jsonl
    streams topics read payments

    Exit codes: 0 fine, 1 an error, 2 wrong usage.
    """


def _open(file: Path | None, options: dict[str, Any], *, make: bool = False) -> Log:
    """The log; who only looks at what there is makes none."""
    from streams.app import open_log

    return open_log(load(options, file=file), make=make)


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
    log = _open(file, options, make=True)
    try:
        before = log.topics(names)
        log.create([TopicSpec(name, partitions, {"retention.ms": "-1"}) for name in names])
        for name, info in log.topics(names).items():
            if info.partitions != partitions:
                raise TopicMismatch(
                    f"topic {name!r} exists already, with {counted(info.partitions, 'partition')}, not {partitions}",
                    where=log.name,
                    fix="choose another name, or keep the count",
                )
            there = "it exists already, with " if name in before else ""
            click.echo(f"{name}: {there}{counted(info.partitions, 'partition')}")
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
            click.echo(f"{name}  {counted(info.partitions, 'partition')}")
        if not found:
            click.echo(f"no topics on {log.name}", err=True)
    finally:
        log.close()


@topics.command("write")
@click.argument("name")
@click.option("--key", help="Field of the JSON objects that becomes the key; it chooses the partition.")
@log_options
def write(name: str, key: str | None, file: Path | None, **options: Any) -> None:
    """Append the lines of standard input to topic NAME, a record each, in one commit: all of them or none.

    With --key each line has to be a JSON object; without it a line may be anything.

    \b
    echo '{"card_id":"c1","at":1700000000000,"amount":5}' | streams topics write payments --key card_id
    """
    log = _open(file, options)
    try:
        topic_info(log, name)
        numbered = [(n, line.rstrip(b"\n")) for n, line in enumerate(sys.stdin.buffer, 1) if line.strip()]
        lines = [line for _, line in numbered]
        keys = [_key(line, key, number) for number, line in numbered]
        writer = log.writer("streams-topics-write", "cli")
        writer.append(Produced(name, None, keys, lines, SystemClock().now()))
        writer.commit({}, {})
        writer.close()
        click.echo(counted(len(lines), "record"), err=True)
    finally:
        log.close()


def _key(line: bytes, field: str | None, number: int) -> bytes | None:
    """The key of a line of standard input. Called for all lines before anything is written."""
    if field is None:
        return None
    try:
        value = json.loads(line)
    except ValueError as error:
        why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise RecordError(
            f"nothing was written: line {number} is not JSON: {why}",
            where=_shown(line),
            fix="write a JSON object a line, in double quotes; or leave --key out, then a line may be anything",
        ) from None
    if not isinstance(value, dict):
        raise RecordError(
            f"nothing was written: line {number} is JSON, but not an object with fields",
            where=_shown(line),
            fix=f'write objects, like {{"{field}": ...}}; or leave --key out, then a line may be anything',
        )
    if field not in value:
        raise RecordError(
            f"nothing was written: line {number} has no field {field!r}{nearest(field, value)}",
            where=_shown(line),
            fix="write JSON objects that have the key, or name another field as --key",
        )
    return str(value[field]).encode()


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace")
    return text if len(text) <= 80 else f"{text[:77]}..."


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


@topics.command("delete")
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_options
def delete(names: tuple[str, ...], yes: bool, file: Path | None, **options: Any) -> None:
    """Delete topics with all their records. Asks first.

    Refuses while workers live that read a topic, or whose application has made it for itself. To forget an application
    with the topics that it made, use `streams reset`.

    \b
    streams topics delete payments
    streams topics delete payments labels --yes
    """
    log = _open(file, options)
    try:
        found = {name: topic_info(log, name) for name in dict.fromkeys(names)}
        for name, info in found.items():
            _refuse_in_use(log, info)
            places = [TopicPartition(name, partition) for partition in range(info.partitions)]
            starts, ends = log.starts(places), log.ends(places)
            records = sum(ends[place] - starts[place] for place in places)
            click.echo(f"{name}: {counted(info.partitions, 'partition')}, up to {counted(records, 'record')}", err=True)
        if not yes and not _agreed(f"delete {'it' if len(found) == 1 else 'them'} from {log.name}?"):
            click.echo("nothing was deleted", err=True)
            click.get_current_context().exit(1)
        log.delete(list(found))
        for name in found:
            click.echo(f"deleted {name}")
    finally:
        log.close()


def _agreed(question: str) -> bool:
    """Not click's own question, which writes a blank to stdout."""
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not sys.stdin.isatty():
        click.echo(err=True)
    return answer.strip().lower() in ("y", "yes")


def _refuse_in_use(log: Log, info: TopicInfo) -> None:
    """LogError where living workers need the topic: their application reads it, or has made it for itself."""
    from streams.terminal.figures import is_internal

    for app in [topic.removesuffix(_TASKS) for topic in log.all_topics() if topic.endswith(_TASKS)]:
        own = is_internal(app, info.name) or info.name == f"{app}{_TASKS}"
        places = [TopicPartition(info.name, partition) for partition in range(info.partitions)]
        reads = any(at is not None for at in log.committed(app, places).values())
        if (own or reads) and (members := log.living(app)):
            raise LogError(
                f"topic {info.name!r} is in use: application {app!r} {'made it for itself' if own else 'reads it'} and "
                f"is working: {', '.join(map(str, members))}",
                where=log.name,
                fix="stop its workers first (Ctrl-C or SIGTERM)"
                + (f"; `streams reset` deletes all that {app!r} has made for itself" if own else ""),
            )
