"""Where snapshots lie: a directory, S3, GCS or Azure, through obstore. The only module that knows obstore."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from streams.core.errors import CheckpointError, LocationUnreachable, SettingsError

PART = 8 << 20
"""Bytes of a part of an upload."""

CHUNK = 1 << 20
"""Bytes that are read, hashed and handed on at once: little enough that the GIL is never held for long."""

_PARTS_AT_ONCE = 3
_AT_ONCE = 1000  # objects that are deleted by one request
_CLIENT = ("allow_http", "timeout", "connect_timeout", "proxy_url", "root_certificate", "allow_invalid_certificates")
_PLACES = "a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


@dataclass(frozen=True)
class Stored:
    """An object of a location: its key, size in bytes, and age in seconds by this machine's clock."""

    key: str
    size: int
    age: float


class Location:
    """A checkpoint location. Keys are texts with slashes, below the location's path. May be used by several threads.

    `url` is a directory, or `file://`, `s3://`, `gs://`, `az://` with bucket (container) and prefix. `options` go to
    the store by obstore's names (`endpoint`, `region`, `access_key_id`, `secret_access_key`, `account_name` ...) or to
    its HTTP client (`allow_http`, `timeout`, `connect_timeout`, `root_certificate`, `proxy_url`); what is not given
    comes from the usual places (AWS_..., GOOGLE_..., AZURE_... in the environment, the machine's own identity).
    `retries` and `retry_seconds` bound how often and how long one request is tried again, with growing pauses. `make`:
    a directory that is not there is made; False is for who only looks.

    >>> from tempfile import TemporaryDirectory
    >>> temporary = TemporaryDirectory(); location = Location(temporary.name + "/snapshots")
    >>> location.create("app/token", b"one"), location.create("app/token", b"two"), location.read("app/token")
    (True, False, b'one')
    >>> [found.key for found in location.objects("app")]
    ['app/token']
    >>> location.delete(["app/token"]); location.read("app/token") is None
    True
    >>> temporary.cleanup()

    Raises `SettingsError` (a URL or an option that is not one), and from every call `LocationUnreachable` (may pass by
    itself) or `CheckpointError` (has to be mended: no permission, no bucket, no space).
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, str] | None = None,
        *,
        retries: int = 4,
        retry_seconds: float = 30.0,
        make: bool = True,
    ) -> None:
        self.directory: Path | None = None
        parts = urlsplit(url)
        if not url:
            raise SettingsError("the checkpoint location is empty", fix=f"give {_PLACES}")
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            self.directory = Path(unquote(parts.path)).absolute()
        elif not parts.scheme:
            self.directory = Path(os.path.expanduser(url)).absolute()
        elif parts.scheme not in _SCHEMES or not parts.netloc:
            raise SettingsError("the checkpoint location is of an unknown kind", where=url, fix=f"give {_PLACES}")
        if parts.password or (parts.username and parts.scheme != "az"):
            raise SettingsError("the checkpoint location's URL holds credentials", fix="give them as options")
        endpoint = str((options or {}).get("endpoint", ""))
        if endpoint.startswith("http://") and "allow_http" not in (options or {}):
            raise SettingsError(
                "the endpoint is not encrypted", where=endpoint, fix='use https, or set allow_http = "true"'
            )
        self.url = str(self.directory) if self.directory is not None else url
        given = {str(key).lower(): value for key, value in (options or {}).items()}
        try:
            if self.directory is not None:
                if given:
                    raise SettingsError(
                        f"a directory takes no options, {', '.join(sorted(given))} was given", where=self.url
                    )
                if make:
                    self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                elif not self.directory.is_dir():
                    raise CheckpointError(
                        "there is no such checkpoint location", where=self.url, fix="give the one that the workers have"
                    )
                self._store: Any = LocalStore(self.directory)
            else:
                client: dict[str, Any] = {"timeout": "30s", "connect_timeout": "5s"}
                client.update({key: _truth(given.pop(key)) for key in _CLIENT if key in given})
                backoff = {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                }
                retry = {
                    "max_retries": retries,
                    "retry_timeout": timedelta(seconds=retry_seconds),
                    "backoff": backoff,
                }
                self._store = from_url(url, config=given, client_options=client, retry_config=retry)  # type: ignore[call-overload]
        except OSError as error:
            raise self._named(error, "opening") from error
        except (BaseError, ValueError, TypeError) as error:
            raise SettingsError(
                f"no checkpoint location: {_first_line(error)}",
                where=self.url,
                fix=f"give {_PLACES}, and options by the names that obstore has for them",
            ) from error

    def __repr__(self) -> str:
        return f"Location({self.url!r})"

    def read(self, key: str) -> bytes | None:
        """A small object, None if there is none."""
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except Exception as error:
            if _absent(error):
                return None
            raise self._named(error, f"reading {key}") from error

    def stream(self, key: str) -> Iterator[memoryview] | None:
        """An object in chunks of about CHUNK bytes, None if there is none."""
        try:
            return self._chunks(key, obstore.get(self._store, key).stream(min_chunk_size=CHUNK))
        except Exception as error:
            if _absent(error):
                return None
            raise self._named(error, f"reading {key}") from error

    def _chunks(self, key: str, stream: Any) -> Iterator[memoryview]:
        try:
            for chunk in stream:
                yield memoryview(chunk)
        except (BaseError, OSError) as error:
            raise self._named(error, f"reading {key}") from error

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object if there is none; whether it is now there because of this call.

        Atomic: of several that do it at once one gets True. An answer that got lost is found by reading the object
        back, so `data` must differ from what others could write under the key.
        """
        try:
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            if self.read(key) != data:
                return False
        except Exception as error:
            raise self._named(error, f"writing {key}") from error
        self._sync(key)
        return True

    def write(self, key: str, chunks: Iterator[bytes], size: int) -> None:
        """Write an object whole, or not at all: also if the process dies in between. On disk when this returns.

        At most a few parts are in memory at once. An exception from `chunks` ends the upload and comes out as it is.
        """
        try:
            if size <= PART:
                obstore.put(self._store, key, b"".join(chunks), use_multipart=False)
            else:
                obstore.put(self._store, key, chunks, chunk_size=PART, max_concurrency=_PARTS_AT_ONCE)
        except Exception as error:
            if isinstance(error, BaseError | OSError):
                raise self._named(error, f"writing {key}") from error
            raise
        self._sync(key)

    def objects(self, prefix: str) -> list[Stored]:
        """All objects below a prefix (whole parts of a path), sorted by key."""
        now, found = time.time(), []
        try:
            for batch in obstore.list(self._store, prefix, chunk_size=1000):
                found += [Stored(o["path"], o["size"], now - o["last_modified"].timestamp()) for o in batch]
        except Exception as error:
            if not _absent(error):
                raise self._named(error, f"listing {prefix}") from error
        return sorted(found, key=lambda each: each.key)

    def parts(self, prefix: str) -> list[str]:
        """The names of the next level below a prefix, sorted."""
        try:
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        except Exception as error:
            if _absent(error):
                return []
            raise self._named(error, f"listing {prefix}") from error
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is no error. Many at once where the store can do that (S3: 1,000)."""
        for first in range(0, len(keys), _AT_ONCE):
            some = list(keys[first : first + _AT_ONCE])
            if self.directory is None and len(some) > 1:
                try:
                    obstore.delete(self._store, some)
                    continue
                except Exception as error:
                    if not _absent(error):
                        raise self._named(error, f"deleting {some[0]}") from error
            for key in some:
                try:
                    obstore.delete(self._store, key)
                except Exception as error:
                    if not _absent(error):
                        raise self._named(error, f"deleting {key}") from error

    def leftovers(self, prefix: str) -> Iterator[tuple[Path, Stored]]:
        """Files of uploads that were killed: in a directory only; `objects` hides them.

        An object store keeps them out of sight as well, as unfinished multi-part uploads: a rule of the bucket has to
        remove them.
        """
        if self.directory is None:
            return
        now = time.time()
        for file in self.directory.joinpath(prefix).rglob("*#*"):
            if re.search(r"#\d+$", file.name):
                try:
                    stat = file.stat()
                except FileNotFoundError:
                    continue
                yield file, Stored(str(file.relative_to(self.directory)), stat.st_size, now - stat.st_mtime)

    def _sync(self, key: str) -> None:
        """Bring a file and the names that lead to it to the disk: a trimmed changelog relies on them."""
        if self.directory is None:
            return
        path = self.directory / key
        try:
            for each in (path, *path.parents):
                handle = os.open(each, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
                if each == self.directory:
                    break
        except OSError as error:
            raise self._named(error, f"writing {key}") from error

    def _named(self, error: Exception, doing: str) -> CheckpointError:
        """What an error means to an operator of the service; obstore's are texts."""
        text = str(error)
        line = _first_line(error)
        code = re.search(r"<Code>(\w+)</Code>", text)
        if code:
            line = f"{line} ({code[1]})"

        def made(what: str, fix: str) -> CheckpointError:
            return CheckpointError(f"{what} ({doing}): {line}", where=self.url, fix=fix)

        if "169.254.169.254" in text:  # nothing else was given, so the machine's own identity was asked for
            return made("there are no credentials", "give them as options or in the environment")
        if re.search("No space left|quota exceeded|StorageFull|QuotaExceeded|os error 28", text):
            return made("no space left in the checkpoint location", "make room; the next snapshot goes on by itself")
        if "NoSuchBucket" in text or "ContainerNotFound" in text:
            return made("the bucket does not exist", "create it, or correct the location")
        if re.search("InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|401 Unauth", text):
            return made("the credentials are not accepted", "correct the key, its secret and the region")
        if isinstance(error, PermissionError) or re.search(
            "Permission ?[Dd]enied|AccessDenied|403 Forbidden|Read-only file system|AuthorizationFailure|os error 13",
            text,
        ):
            return made("no permission", "let this user list, read, write and delete there")
        if isinstance(error, FileExistsError | NotADirectoryError) or "Not a directory" in text:
            return made("a file is in the way", f"the location must be {_PLACES}")
        if re.search("error sending request|timed out|timeout|retries|HTTP error|decoding|50[0234]|429|os error", text):
            return LocationUnreachable(
                f"the checkpoint location does not answer as it should ({doing}): {line}",
                where=self.url,
                fix="nothing is lost and it is tried again; check network and endpoint if it lasts",
            )
        return CheckpointError(f"{doing} failed: {line}", where=self.url)


def _absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error)


def _first_line(error: Exception) -> str:
    """Without what is for developers, and without times, so that one error has one text."""
    text = str(error).partition("Debug source:")[0].partition("<?xml")[0].strip()
    return re.sub(r" in [\d.]+[mµn]?s\b", "", text.partition("\n")[0]).rstrip(": ")


def _truth(value: Any) -> Any:
    return {"true": True, "false": False}.get(str(value).lower(), value)
