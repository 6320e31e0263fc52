"""A sink outside the log where programs are shown: text, Mermaid, the web page and its documents."""

from types import SimpleNamespace

from operators import FileSink, KeyBy
from streams import App, Schema
from streams.core.drawing import as_mermaid, as_text
from streams.runtime.report import OperatorReport, WorkerReport
from streams.web.drawing import _words
from streams.web.layout import place
from streams.web.status import topology_document


class Payment(Schema):
    card: str
    amount: int


def program() -> App:
    app = App("shop")
    payments = app.source("payments", Payment, start="earliest")
    payments | KeyBy("card") | app.write_to(FileSink("/data/out"), name="files")
    return app


def test_as_text_and_as_mermaid():
    topology = program().topology()
    assert as_text(topology).splitlines()[-2:] == [
        "  shuffle keyby-1  reads card, amount  key card",
        "  outside files  <- keyby-1  FileSink /data/out",
    ]
    assert '    files[("files")]' in as_mermaid(topology)


def test_on_the_web_page():
    topology = program().topology()
    (placed,) = [node for node in place(topology).nodes if node.node.id == "files"]
    words = _words(placed, OperatorReport(), WorkerReport(at=0, since=0))
    assert words[:2] == ("files", "sink FileSink /data/out")
    plan = SimpleNamespace(
        app="shop", fingerprint="f", partitions={0: 1, 1: 1}, tasks=[], input_topic=lambda sub, index: "topic"
    )
    (node,) = [n for n in topology_document(topology, plan)["nodes"] if n["id"] == "files"]
    assert (node["kind"], node["operator"], node["topic"]) == ("sink", "FileSink", None)
