"""The JSON documents: what the worker does, and what the program is."""

from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import msgspec

from streams.core.topology import Topology
from streams.runtime.plan import Plan
from streams.runtime.report import WorkerReport
from streams.settings import Settings
from streams.web.health import Health
from streams.web.holders import Known

_SECRET = ("password", "secret", "pem", "token", "passphrase", "jaas", "credential", "access_key", "access.key")


class Status(msgspec.Struct, frozen=True):
    """`/api/status`: everything that the page shows. `now` in milliseconds since the epoch."""

    app: str
    slot: str
    log: str
    version: str
    now: int
    health: Health
    ready: Health
    worker: WorkerReport
    application: Known
    settings: dict[str, str]


def redacted(settings: Settings) -> dict[str, str]:
    """The settings in force as text. What looks like a secret, or a password within an address, is shown as ***.

    >>> shown = redacted(Settings(slot="a", kafka={"sasl.password": "hush", "client.id": "me"}))
    >>> shown["slot"], shown["kafka sasl.password"], shown["kafka client.id"]
    ('a', '***', 'me')
    """
    out: dict[str, str] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if isinstance(value, Mapping):
            out.update({f"{item.name} {key}": _shown(str(key), inner) for key, inner in value.items()})
        else:
            out[item.name] = _shown(item.name, value)
    return out


def _shown(name: str, value: Any) -> str:
    if any(part in name.lower() for part in _SECRET):
        return "***"
    text = str(value)
    if "://" in text and "@" in text and (at := urlsplit(text)).password:
        return text.replace(f":{at.password}@", ":***@")
    return text


def topology_document(topology: Topology, plan: Plan) -> dict[str, Any]:
    """`/api/topology`: sub-topologies, nodes and edges."""
    home = {node.id: sub.index for sub in topology.subs for node in sub.nodes}
    nodes = []
    for node in topology.graph.nodes.values():
        topic = node.source.topic if node.source else node.sink.topic if node.sink else None
        stores = [s.name for s in node.operator.stores] if node.operator is not None else []
        kind = type(node.operator).__name__ if node.operator is not None else None
        if node.outside is not None:
            kind = type(node.outside.sink).__name__
        nodes.append(
            {
                "id": node.id,
                "kind": node.kind,
                "operator": kind,
                "sub": home[node.id],
                "topic": topic,
                "key": list(node.sink.key if node.sink is not None and node.sink.key else node.type.key),
                "stores": stores,
                "columns": {name: str(field.dtype) for name, field in node.type.fields.items()},
            }
        )
    return {
        "app": plan.app,
        "fingerprint": plan.fingerprint,
        "subs": [
            {
                "index": sub.index,
                "partitions": plan.partitions[sub.index],
                "stateful": sub.stateful,
                "ordered": sub.ordered,
                "inputs": [plan.input_topic(sub, i) for i in range(len(sub.inputs))],
                "stores": list(sub.stores),
                "tasks": [str(t) for t in plan.tasks if t.sub == sub.index],
            }
            for sub in topology.subs
        ],
        "nodes": nodes,
        "edges": [
            {"from": edge.node, "side": edge.side, "to": node.id, "shuffle": node.kind == "shuffle"}
            for node in topology.graph.nodes.values()
            for edge in node.inputs
        ],
    }


def program_version() -> str:
    return version("streams")
