"""What a kept value's type is, as texts that a later version of the program is compared with."""

from collections.abc import Iterator
from typing import Any

from msgspec import inspect

_FIELDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)


def type_texts(name: str, type_: Any, packed: bool) -> dict[str, str]:
    """By part of the value: `name` itself and, of classes with fields, each field; what the part is.

    A later program may have further parts (fields with a default), but none less and none changed, or it would misread
    or lose what is kept. Fields are known by the names they are kept under; what a class is called, or where it lies,
    does not matter. Neither do the values of an enum or a literal: one that is gone is seen when it is read.

    >>> import msgspec
    >>> class Stat(msgspec.Struct):
    ...     count: int
    ...     seen: list[str] = []
    >>> type_texts("names", list[str], True)
    {'names': 'packed list[str]'}
    >>> type_texts("stat", dict[str, Stat], True)
    {'stat': 'packed dict[str, fields]', 'stat{}.count': 'int', 'stat{}.seen': 'list[str]'}
    """
    if not packed:
        return {name: str(type_.__name__)}
    info = inspect.type_info(type_)
    return {name: f"packed {_text(info)}", **dict(_parts(name, info, ()))}


def _text(info: inspect.Type) -> str:
    """The type in one line; classes with fields without their names."""
    match info:
        case inspect.Metadata():
            return _text(info.type)
        case inspect.StructType():
            tag = "" if info.tag is None else f" {info.tag_field}={info.tag!r}"
            return f"{'array of ' if info.array_like else ''}fields{tag}"
        case inspect.NamedTupleType():
            return "array of fields"
        case inspect.DataclassType() | inspect.TypedDictType():
            return "fields"
        case inspect.UnionType():
            return " | ".join(sorted(map(_text, info.types)))
        case inspect.TupleType():
            return f"tuple[{', '.join(map(_text, info.item_types))}]"
        case inspect.VarTupleType():
            return f"tuple[{_text(info.item_type)}, ...]"
        case inspect.DictType():
            return f"dict[{_text(info.key_type)}, {_text(info.value_type)}]"
        case inspect.CollectionType():
            return f"{_kind(info)}[{_text(info.item_type)}]"
        case inspect.CustomType():
            return str(info.cls.__name__)
    return _kind(info)


def _parts(path: str, info: inspect.Type, within: tuple[type, ...]) -> Iterator[tuple[str, str]]:
    """Each field of each class that the type is made of, `within` those classes. One within itself is told once."""
    match info:
        case inspect.Metadata():
            yield from _parts(path, info.type, within)
        case inspect.UnionType():
            several = sum(isinstance(one, _FIELDS) for one in info.types) > 1
            for one in info.types:
                tag = f"<{one.tag}>" if several and isinstance(one, inspect.StructType) else ""
                yield from _parts(path + tag, one, within)
        case inspect.TupleType():
            for number, item in enumerate(info.item_types):
                yield from _parts(f"{path}[{number}]", item, within)
        case inspect.DictType():
            yield from _parts(f"{path}{{key}}", info.key_type, within)
            yield from _parts(f"{path}{{}}", info.value_type, within)
        case inspect.CollectionType():
            yield from _parts(f"{path}[]", info.item_type, within)
        case _ if isinstance(info, _FIELDS) and info.cls not in within:
            in_order = isinstance(info, inspect.NamedTupleType) or getattr(info, "array_like", False)
            for number, field in enumerate(info.fields):
                part = f"{path}[{number}]" if in_order else f"{path}.{field.encode_name}"
                yield part, _text(field.type)
                yield from _parts(part, field.type, (*within, info.cls))


def _kind(info: inspect.Type) -> str:
    return type(info).__name__.removesuffix("Type").lower()
