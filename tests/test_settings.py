"""Settings: sources and their order, origins, the document, and secrets that must not be seen anywhere."""

import json
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.core.errors import LogUnreachable, SettingsError, StreamsError
from streams.log.kafka import KafkaLog, Timeouts
from streams.settings import Settings, load, resolve
from streams.settings_cli import reference
from streams.settings_cli import settings as command

ROOT = Path(__file__).parent.parent
CANARY = "c4n4ry-x7Q"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """./streams.toml of an empty directory, not there yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "streams.toml"


# ---------------------------------------------------------------- sources


def test_the_later_source_wins(file):
    file.write_text('slot = "file"\npartitions = 7\ncommit_interval = "2s"\n')
    resolved = resolve({"slot": "option"}, {"STREAMS_SLOT": "environment", "STREAMS_COMMIT_INTERVAL": "50ms"})
    assert resolved.settings == Settings(slot="option", partitions=7, commit_interval=50)
    assert resolved.origins == {
        "slot": "option --slot",
        "partitions": "streams.toml, line 2",
        "commit_interval": "environment variable STREAMS_COMMIT_INTERVAL",
    }


def test_an_option_that_was_not_given_changes_nothing(file):
    assert load({"slot": None}, {"STREAMS_SLOT": "a"}).slot == "a"


def test_the_default_file_is_said(file, caplog):
    file.write_text('slot = "a"')
    with caplog.at_level(logging.INFO, "streams"):
        assert load({}, {}).slot == "a"
    assert f"settings from {file}" in caplog.text


def test_another_file_takes_the_place_of_the_default_one(file, tmp_path):
    file.write_text('slot = "default"')
    other = tmp_path / "other.toml"
    other.write_text("partitions = 2")
    assert load({}, {}, other) == Settings(partitions=2)
    assert load({}, {"STREAMS_SETTINGS": str(other)}) == Settings(partitions=2)


def test_kafka_settings_of_all_sources_meet(file, tmp_path):
    (tmp_path / "secret").write_text("from a file\n")
    file.write_text(
        'brokers = "a:9092"\n[kafka]\n"security.protocol" = "SSL"\nssl.key.password = {file = "secret"}\n'
        'socket.keepalive.enable = true\nclient.id = "file"\n"sasl.password" = {env = "PASSWORD"}\n'
    )
    resolved = resolve({}, {"STREAMS_KAFKA_CLIENT_ID": "environment", "PASSWORD": "from the environment"})
    assert dict(resolved.settings.kafka) == {
        "security.protocol": "SSL",
        "ssl.key.password": "from a file",
        "socket.keepalive.enable": "true",
        "client.id": "environment",
        "sasl.password": "from the environment",
    }
    assert resolved.origins["kafka.ssl.key.password"] == "streams.toml, line 4"
    assert resolved.origins["kafka.client.id"] == "environment variable STREAMS_KAFKA_CLIENT_ID"


def test_what_kubernetes_puts_into_the_environment_is_no_setting():
    environment = {
        "STREAMS_PORT": "tcp://10.0.0.1:80",
        "STREAMS_SERVICE_HOST": "10.0.0.1",
        "STREAMS_SERVICE_PORT": "80",
        "STREAMS_WEB_SERVICE_PORT_HTTP": "80",
        "STREAMS_PORT_80_TCP_ADDR": "10.0.0.1",
        "STREAMS_CRASH": "begin:1",
        "STREAMS_READY_FILE": "ready",
    }
    assert load({}, environment) == Settings()
    with pytest.raises(SettingsError, match="STREAMS_PORT"):
        load({}, {"STREAMS_PORT": "80"})


def test_every_variable_that_the_code_reads_is_known():
    """A new one must be added to streams.settings_sources.OTHERS."""
    from streams.settings_sources import OTHERS

    names = {f"STREAMS_{f.name.upper()}" for f in fields(Settings)}
    for path in (p for package in ("streams", "operators", "fraud") for p in (ROOT / package).rglob("*.py")):
        if path.name == "settings_sources.py":  # its examples have names that are wrong
            continue
        for name in re.findall(r"""["'](STREAMS_[A-Z_]*[A-Z])["']""", path.read_text()):
            assert name in OTHERS | names, (path, name)


def test_all_problems_are_told_at_once(file):
    file.write_text('slot = "a b"\npartitions = 0\nunknown_thing = 1\n')
    with pytest.raises(SettingsError) as raised:
        load({"http": "nowhere"}, {"STREAMS_LOG_DIRR": "x"})
    assert len(raised.value.problems) == 5
    assert all(problem.where and problem.fix for problem in raised.value.problems)


def test_settings_are_data_only():
    settings = Settings(kafka={"sasl.password": "x"})
    with pytest.raises(FrozenInstanceError):
        settings.slot = "b"  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.kafka["sasl.password"] == "x"


# ---------------------------------------------------------------- what is shown


def test_the_document_is_up_to_date():
    said = "out of date: run python -m streams settings --markdown > docs/settings.md"
    assert (ROOT / "docs" / "settings.md").read_text() == reference(), said


def test_every_setting_has_a_help():
    for declared in fields(Settings):
        assert declared.metadata["help"].endswith("."), declared.name


def test_the_command_prints_values_and_origins(file):
    file.write_text('cache_bytes = "64MiB"\n')
    shown = CliRunner(env={"STREAMS_SLOT": "a"}).invoke(command, ["--commit-interval", "50ms"])
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in shown.output.splitlines() if line}
    assert lines["cache_bytes"] == ["64MiB", "streams.toml, line 1"]
    assert lines["slot"] == ["a", "environment variable STREAMS_SLOT"]
    assert lines["commit_interval"] == ["50ms", "option --commit-interval"]
    assert lines["partitions"] == ["4", "default"]
    assert str(file) in shown.output


def test_the_command_prints_json(file):
    made = json.loads(CliRunner(env={"STREAMS_SLOT": "a"}).invoke(command, ["--json"]).output)
    assert made["file"] is None
    assert made["settings"]["slot"] == {"value": "a", "origin": "environment variable STREAMS_SLOT"}
    assert made["settings"]["commit_interval"] == {"value": 1000, "origin": "default"}


# ---------------------------------------------------------------- secrets

SECRETS = (
    "sasl.password",
    "sasl.pasword",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "ssl.certificate.pem",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.jaas.config",
    "sasl.username",
    "my.token",
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_text_of_the_settings(file, name):
    file.write_text(f'brokers = "a:9092"\n[kafka]\n"{name}" = "{CANARY}"\n')
    resolved = resolve({}, {})
    settings = resolved.settings
    assert settings.kafka[name] == CANARY
    for text in (repr(settings), str(settings), f"{settings.kafka}", repr(asdict(settings)), str(resolved)):
        assert CANARY not in text
    for arguments in ([], ["--json"]):
        shown = CliRunner().invoke(command, arguments).output
        assert f"kafka.{name}" in shown
        assert "***" in shown
        assert CANARY not in shown


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("where", ["file", "environment"])
def test_a_secret_is_in_no_error_of_the_settings(file, name, where):
    environment = {}
    if where == "file":
        file.write_text(f'slot = 1.5\n"{name}" = "{CANARY}"\nkafka."{name}" = ["{CANARY}"]\n')
    else:
        variable = name.upper().replace(".", "_")
        environment = {f"STREAMS_{variable}": CANARY, f"STREAMS_KAFKA_{variable}": CANARY, "STREAMS_PARTITIONS": "x"}
    with pytest.raises(SettingsError) as raised:
        load({}, environment)
    assert CANARY not in f"{raised.value} {raised.value!r} {raised.value.__cause__!r} {raised.value.__context__!r}"


WRONG = (
    {"sasl.mechanism": CANARY},
    {"security.protocol": CANARY},
    {"ssl.key.pem": f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----"},
    {"ssl.ca.pem": CANARY, "security.protocol": "SSL"},
    {"ssl.keystore.location": "/nowhere", "ssl.keystore.password": CANARY, "security.protocol": "SSL"},
    {"no.such.setting": CANARY},
    {
        "sasl.mechanism": "PLAIN",
        "sasl.username": CANARY,
        "sasl.password": CANARY,
        "security.protocol": "SASL_PLAINTEXT",
    },
    {"sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.config": CANARY, "security.protocol": "SASL_PLAINTEXT"},
)


def connect(settings):
    """As a worker does, with less patience."""
    with closing(KafkaLog(settings.brokers, settings.kafka, timeouts=Timeouts(reach_seconds=1))) as log:
        log.all_topics()


@pytest.mark.parametrize("kafka", WRONG, ids=lambda k: ",".join(k))
def test_a_secret_is_in_no_word_of_a_connect_that_fails(kafka, caplog, capfd):
    with socket.socket() as closed, caplog.at_level(logging.DEBUG):
        closed.bind(("127.0.0.1", 0))
        settings = Settings(brokers=f"127.0.0.1:{closed.getsockname()[1]}", kafka=kafka)
        with pytest.raises(StreamsError) as raised:
            connect(settings)
    assert isinstance(raised.value, (SettingsError, LogUnreachable))
    said = f"{raised.value} {raised.value!r} {caplog.text} {''.join(capfd.readouterr())}"
    assert CANARY not in said


def test_a_secret_is_in_no_word_of_a_worker_that_cannot_connect(file):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        file.write_text(
            f'brokers = "{address}"\n[kafka]\nsecurity.protocol = "SASL_PLAINTEXT"\nsasl.mechanism = "PLAIN"\n'
            f'sasl.username = "me"\nsasl.password = "{CANARY}"\n'
        )
        done = subprocess.run(
            [sys.executable, "-m", "streams", "run", "fraud.pipeline:app"],
            cwd=file.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=90,
        )
    assert done.returncode == 1
    assert address in done.stderr
    assert CANARY not in done.stdout + done.stderr
