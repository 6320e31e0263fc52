"""docker-compose.yml: it keeps to the specification, names what exists, and gives nothing away."""

import json
import re
import string
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from streams.broker import KAFKA
from streams.cli import assembled
from streams.programs import find
from streams.settings import load

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}

# Written in a change of their own: tested as soon as the directory is there, and then all of them must be.
DASHBOARDS = ROOT / "dashboards"
MOUNTED = ("prometheus/prometheus.yml", "prometheus/alerts.yml", "grafana/provisioning", "grafana/*.json")
dashboards = pytest.mark.skipif(not DASHBOARDS.exists(), reason="this tree has no dashboards/")

service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
ours = pytest.mark.parametrize("service", OURS.values(), ids=OURS)


def binds(service: dict[str, Any]) -> list[dict[str, Any]]:
    return [v for v in service.get("volumes", []) if isinstance(v, dict)]


def named_volumes(service: dict[str, Any]) -> list[str]:
    return [v.partition(":")[0] for v in service.get("volumes", []) if isinstance(v, str)]


# ---------------------------------------------------------------- form


def test_it_keeps_to_the_specification() -> None:
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
    checker = jsonschema.Draft202012Validator(schema)
    assert [f"{'/'.join(map(str, e.path))}: {e.message}" for e in checker.iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {"kafka": {"imgae": "x"}}}
    assert not checker.is_valid(broken), "the schema lets everything pass"


def test_what_services_name_of_each_other_is_there() -> None:
    for name, each in SERVICES.items():
        for other, how in each.get("depends_on", {}).items():
            assert other in SERVICES, (name, other)
            checked = not SERVICES[other].get("healthcheck", {}).get("disable", False)
            assert how["condition"] != "service_healthy" or checked, (name, other)
            ends = SERVICES[other].get("restart") != "unless-stopped"
            assert how["condition"] != "service_completed_successfully" or ends, (name, other)
    used = {volume for each in SERVICES.values() for volume in named_volumes(each)}
    assert used == set(COMPOSE["volumes"])


# ---------------------------------------------------------------- what it runs


def test_versions_are_those_of_the_repository() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA}"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {each["image"] for each in OURS.values()} == {f"streams:{version}"}
    for name, each in SERVICES.items():
        assert re.search(r":v?\d+\.\d+\.\d+$", each["image"]), f"{name}: the tag does not say which version"


@ours
def test_its_command_line_is_one(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every word is understood by the command itself: options, their values, the program, the settings."""
    words = list(service["command"])
    command: click.Command = assembled()
    context = click.Context(command, info_name="streams")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        context = found.make_context(name, words, parent=context) if not isinstance(found, click.Group) else context
        command = found
    assert context.params["brokers"] == "kafka:9092"
    if "program" in context.params:
        assert find(context.params["program"]).name == "fraud"
    told = {k: v for k, v in context.params.items() if k in ("brokers", "slot", "http", "state_dir")}
    load(told, service.get("environment", {}))


def test_a_wrong_option_would_be_seen() -> None:
    run = assembled().commands["run"]
    with pytest.raises(click.NoSuchOption):
        run.make_context("run", ["fraud.pipeline:app", "--brokerz", "kafka:9092"])


def test_workers_share_checkpoints_and_nothing_else() -> None:
    workers = {name: each for name, each in OURS.items() if each["command"][0] == "run"}
    assert len(workers) == 2
    slots = {each["command"][each["command"].index("--slot") + 1] for each in workers.values()}
    assert len(slots) == 2
    volumes = [set(named_volumes(each)) for each in workers.values()]
    assert volumes[0] & volumes[1] == {"checkpoints"}
    for each in workers.values():
        location = each["environment"]["STREAMS_CHECKPOINTS"]
        assert f"checkpoints:{location}" in each["volumes"]


def test_topics_are_made_as_the_generator_and_the_pipeline_need_them() -> None:
    topics, generator = SERVICES["topics"]["command"], SERVICES["generator"]["command"]
    sources = {topic for sub in find("fraud.pipeline:app").topology().subs for topic in sub.sources}
    assert sources
    assert sources <= set(topics)
    count = [words[words.index("--partitions") + 1] for words in (topics, generator)]
    assert count[0] == count[1]


# ---------------------------------------------------------------- what it gives away


@service
def test_it_is_hardened(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert str(service["user"]).partition(":")[0] not in ("", "0", "root")
    assert any(each.split(":")[0] == "/tmp" for each in service["tmpfs"])
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "cap_add"} & service.keys()
    assert all(bind["read_only"] is True for bind in binds(service))


@service
def test_ports_are_open_to_this_machine_alone(service: dict[str, Any]) -> None:
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []


@service
def test_its_end_and_its_health_are_thought_of(service: dict[str, Any]) -> None:
    check = service["healthcheck"]
    assert check.get("disable") or {"test", "interval", "timeout", "retries", "start_period"} <= check.keys()
    assert "restart" in service
    if service["restart"] == "unless-stopped":  # it has something to put in order
        assert int(service["stop_grace_period"].removesuffix("s")) >= 30


def test_published_ports_are_told_apart() -> None:
    ports = [port.rsplit(":", 1)[0] for each in SERVICES.values() for port in each.get("ports", [])]
    assert len(ports) == len(set(ports))


def test_it_has_no_secrets() -> None:
    names = [name for each in SERVICES.values() for name in each.get("environment", {})]
    assert [name for name in names if re.search("PASSWORD|SECRET_KEY|TOKEN", name)] == []


# ---------------------------------------------------------------- what it mounts


@dashboards
def test_every_mounted_path_is_there() -> None:
    assert [p for p in MOUNTED if not list(DASHBOARDS.glob(p))] == []
    for each in SERVICES.values():
        for bind in binds(each):
            assert bind["bind"] == {"create_host_path": False}
            assert (ROOT / bind["source"]).is_dir(), bind["source"]


def test_nothing_but_dashboards_is_mounted() -> None:
    sources = {bind["source"] for each in SERVICES.values() for bind in binds(each)}
    assert sources == {"./dashboards/prometheus", "./dashboards/grafana", "./dashboards/grafana/provisioning"}


@dashboards
def test_prometheus_scrapes_the_workers() -> None:
    """Each target is a service at the port that its command line serves on; each file of rules is mounted."""
    scraped = yaml.safe_load((DASHBOARDS / "prometheus" / "prometheus.yml").read_text())
    jobs = [job for job in scraped["scrape_configs"] if job["job_name"] != "prometheus"]
    targets = {t for job in jobs for group in job["static_configs"] for t in group["targets"]}
    serving = {
        f"{name}:{each['command'][each['command'].index('--http') + 1].rpartition(':')[2]}"
        for name, each in OURS.items()
        if "--http" in each["command"]
    }
    assert targets == serving
    for rules in scraped["rule_files"]:
        assert not Path(rules).is_absolute() or rules.startswith("/etc/prometheus/"), rules
        assert (DASHBOARDS / "prometheus" / rules.removeprefix("/etc/prometheus/")).is_file(), rules


@pytest.mark.skipif(not (DASHBOARDS / "grafana").exists(), reason="this tree has no dashboards/grafana")
def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    provisioning = DASHBOARDS / "grafana" / "provisioning"
    mounted = {bind["target"] for bind in binds(SERVICES["grafana"])}
    files = [f for f in provisioning.rglob("*") if f.suffix in (".yml", ".yaml")]
    variables = SERVICES["grafana"]["environment"]
    found = [yaml.safe_load(string.Template(f.read_text()).safe_substitute(variables)) for f in files]
    paths = {p["options"]["path"] for each in found for p in each.get("providers", [])}
    assert paths
    assert paths <= mounted, f"providers look in {paths}; mounted are {mounted}"
    urls = {source["url"] for each in found for source in each.get("datasources", [])}
    assert urls == {"http://prometheus:9090"}
