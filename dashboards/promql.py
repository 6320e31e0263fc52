"""Which metrics a PromQL query names. Enough of the language to find names; Prometheus itself checks the rest."""

import re

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`')
_SELECTORS = re.compile(r"\{[^}]*\}|\[[^]]*\]")
_GROUPINGS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", re.IGNORECASE)
_OPERATORS = ("and", "or", "unless", "bool", "offset", "start", "end", "inf", "nan")
_WORDS = frozenset([*_OPERATORS, "by", "without", "on", "ignoring", "group_left", "group_right"])
_NAME = re.compile(r"(?<![\w:.$])([A-Za-z_:][\w:]*)(?!\s*\(|[\w:])")


def metrics(query: str) -> set[str]:
    """The names of the metrics.

    >>> sorted(metrics('sum by (app) (rate(up{job="x"}[5m])) / on (app) group_left() count(y offset 1h) > 1e9'))
    ['up', 'y']
    """
    bare = _GROUPINGS.sub(" ", _SELECTORS.sub(" ", _STRINGS.sub('""', query)))
    return {name for name in _NAME.findall(bare) if name.lower() not in _WORDS}
