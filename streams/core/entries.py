"""How the entries of a store read: for tools that look at state from outside."""

import json
from typing import Any

import msgspec


class Entries:
    """Keys and values of a store as text and as plain Python, and texts back to keys.

    This one knows nothing of the operator: text where the bytes are text, else hex ("0x..."); values also as
    MessagePack or JSON where they are that. An operator that stores something else gives its own: `Operator.entries`.

    >>> entries = Entries()
    >>> entries.key(b"c1"), entries.key(b"\\x00\\x07"), entries.stored("0x0007")
    ('c1', '0x0007', b'\\x00\\x07')
    >>> entries.value(b"k", b"\\x81\\xa1n\\x05"), entries.value(b"k", b"plain")
    ({'n': 5}, 'plain')
    """

    def key(self, key: bytes) -> str:
        """A key for people; `stored` takes it back."""
        return readable(key)

    def stored(self, text: str) -> bytes:
        """The key that `key` shows so. ValueError if there is no such key."""
        return bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode()

    def start(self, text: str) -> bytes:
        """What all keys begin with whose text begins so."""
        return self.stored(text)

    def value(self, key: bytes, value: bytes) -> Any:
        """A value, made of what JSON knows (and bytes)."""
        text = readable(value)
        if not text.startswith("0x"):
            try:
                return json.loads(text) if text[:1] in '[{"' else text
            except ValueError:
                return text
        try:
            return msgspec.msgpack.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return text


def readable(data: bytes) -> str:
    """Text where it is, else hex."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "0x" + data.hex()
    return text if text.isprintable() and not text.startswith("0x") else "0x" + data.hex()


def plain(value: Any) -> Any:
    """For `json.dumps(default=plain)`."""
    return readable(value) if isinstance(value, bytes) else str(value)
