"""docs/errors.md says of each error class what is seen when it is provoked. `python -m tests.errors_doc` writes it."""

import pytest

from tests import errors_doc
from tests.errors_doc import CASES, DOCUMENT, HEAD, section, sections

WRITE = "out of date: run python -m tests.errors_doc"


def test_every_class_is_in_the_document_in_order():
    assert set(errors_doc.classes()) == set(CASES), "provoke it in tests/errors_doc.py"
    assert [kind.__name__ for kind in errors_doc.classes()] == list(sections(DOCUMENT.read_text())), WRITE
    assert DOCUMENT.read_text().startswith(HEAD), WRITE


@pytest.mark.parametrize("kind", [k for k in CASES if not CASES[k].kafka], ids=lambda k: k.__name__)
def test_the_message_is_what_is_seen(kind):
    made = section(kind)
    assert sections(DOCUMENT.read_text())[kind.__name__] == made, WRITE
    assert "fix: " in made


@pytest.mark.parametrize("kind", [k for k in CASES if CASES[k].kafka], ids=lambda k: k.__name__)
def test_the_message_is_what_is_seen_on_kafka(kind, kafka):
    made = section(kind, kafka.bootstrap)
    assert sections(DOCUMENT.read_text())[kind.__name__] == made, WRITE
    assert "fix: " in made
