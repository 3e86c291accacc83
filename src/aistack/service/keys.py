"""API keys: `ais_<id>_<secret><checksum>`, kept as keyed hashes in one file.

The file is replaced atomically by `aistack keys` and read again by every service within a second
of the change, so revoking needs no restart and no database. No file: no start. A file that goes
away or turns bad while a service runs refuses every request until it is whole again.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import math
import secrets
import string
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aistack.service.errors import StartError, Unauthorized, Unavailable
from aistack.service.private_files import open_private, read_secret, replace_file

_ALPHABET = string.digits + string.ascii_letters
_ID_LENGTH = 10
_SECRET_LENGTH = 32
_CHECK_LENGTH = 6
#: A changed file is noticed within this; seconds.
RELOAD_SECONDS = 0.25


class Secret(BaseModel):
    """One live secret of a key, as its keyed hash (hex HMAC-SHA256 under the pepper)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    expires: float | None = None


class KeyRecord(BaseModel):
    """What is known of one key; times in Unix seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9A-Za-z-]+$")
    name: str
    kind: Literal["user", "internal"] = "user"
    scopes: tuple[str, ...]
    created: float
    secrets: tuple[Secret, ...]


class KeyFile(BaseModel):
    """The whole store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    key_id: str
    name: str
    scopes: frozenset[str]
    internal: bool


def make_token(key_id: str) -> str:
    """A new token of key `key_id`; 190 bits of secret."""
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    body = f"ais_{key_id}_{secret}"
    return body + _checksum(body)


def parse_token(token: str) -> str | None:
    """The key id in a well-formed token; None for anything else (no store is asked)."""
    parts = token.split("_")
    if len(parts) != 3 or parts[0] != "ais" or not token.isascii():
        return None
    body, check = token[:-_CHECK_LENGTH], token[-_CHECK_LENGTH:]
    if len(parts[2]) != _SECRET_LENGTH + _CHECK_LENGTH or not hmac.compare_digest(
        check, _checksum(body)
    ):
        return None
    return parts[1]


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        digits += _ALPHABET[rest]
    return digits


def _digest(pepper: bytes, token: str) -> str:
    return hmac.new(pepper, token.encode(), hashlib.sha256).hexdigest()


class KeyStore:
    """The reading side, for services."""

    def __init__(self, keys_file: Path, pepper_file: Path) -> None:
        """Reads both files. Raises StartError when one is missing or bad."""
        self._path = keys_file
        self._pepper = _read_pepper(pepper_file)
        self._records: dict[str, KeyRecord] | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._checked = float("-inf")
        #: Tokens that were found good in the store as it is: their keyed digests → whose they are
        #: and until when. A new store begins with none, so each holds as long as its key.
        self._good: dict[bytes, tuple[Principal, float]] = {}
        self._digest_key = secrets.token_bytes(32)
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise StartError(
                f"auth.keys_file: {keys_file} is missing or not a key store"
                f" ({_reason(error)}): make it with `aistack keys init`"
            ) from error

    def verify(self, token: str | None) -> Principal:
        """Whose token this is. Raises Unauthorized; Unavailable while there is no good store."""
        self._reload()
        if self._records is None:
            raise Unavailable("The key store cannot be read: every request is refused.")
        known = hashlib.blake2b((token or "").encode(), key=self._digest_key).digest()
        if (found := self._good.get(known)) is not None and time.time() < found[1]:
            return found[0]
        key_id = parse_token(token) if token else None
        record = self._records.get(key_id) if key_id else None
        # The same work is done for an unknown key as for a known one.
        digest = _digest(self._pepper, token or "")
        now = time.time()
        good = False
        until = 0.0
        for secret in record.secrets if record else ():
            expires = math.inf if secret.expires is None else secret.expires
            if hmac.compare_digest(secret.hash, digest) and now < expires:
                good, until = True, max(until, expires)
        if record is None or not good:
            raise Unauthorized(
                "Send a valid API key as `Authorization: Bearer ais_…`;"
                " `aistack keys create` makes one."
            )
        principal = Principal(
            record.id, record.name, frozenset(record.scopes), record.kind == "internal"
        )
        self._good[known] = principal, until
        return principal

    def _reload(self) -> None:
        now = time.monotonic()
        if now - self._checked < RELOAD_SECONDS:
            return
        self._checked = now
        try:
            if self._stat() != self._stamp:
                self._load()
        except (OSError, ValueError):
            self._records, self._stamp = None, None
            self._good.clear()

    def _load(self) -> None:
        stamp = self._stat()
        parsed = KeyFile.model_validate_json(self._path.read_bytes())
        self._records = {record.id: record for record in parsed.keys}
        self._good.clear()
        self._stamp = stamp
        self._checked = time.monotonic()

    def _stat(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size


class KeyEditor:
    """The writing side, for `aistack keys` and the first start."""

    def __init__(self, keys_file: Path, pepper_file: Path) -> None:
        self._path = keys_file
        self._pepper_path = pepper_file

    def records(self) -> tuple[KeyRecord, ...]:
        """Every key. Raises StartError when the store cannot be read."""
        try:
            return KeyFile.model_validate_json(self._path.read_bytes()).keys
        except (OSError, ValidationError) as error:
            raise StartError(
                f"{self._path}: missing or not a key store ({_reason(error)})"
            ) from error

    def create(
        self,
        name: str,
        scopes: frozenset[str],
        *,
        expires: float | None = None,
        kind: Literal["user", "internal"] = "user",
    ) -> tuple[KeyRecord, str]:
        """A new key and its token, which is shown only now."""
        with self._edit() as (records, pepper):
            key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
            token = make_token(key_id)
            record = KeyRecord(
                id=key_id,
                name=name,
                kind=kind,
                scopes=tuple(sorted(scopes)),
                created=time.time(),
                secrets=(Secret(hash=_digest(pepper, token), expires=expires),),
            )
            records[key_id] = record
        return record, token

    def rotate(self, key_id: str, *, overlap_seconds: float) -> tuple[KeyRecord, str]:
        """A new secret for a key; the old one lives on for `overlap_seconds`. Raises KeyError."""
        with self._edit() as (records, pepper):
            old = records[key_id]
            token = make_token(key_id)
            until = time.time() + overlap_seconds
            previous = old.secrets[0]
            last = previous.expires if previous.expires is not None else until
            record = old.model_copy(
                update={
                    "secrets": (
                        Secret(hash=_digest(pepper, token), expires=previous.expires),
                        Secret(hash=previous.hash, expires=min(until, last)),
                    )
                }
            )
            records[key_id] = record
        return record, token

    def revoke(self, key_id: str) -> None:
        """The key is refused from the next second on. Raises KeyError."""
        with self._edit() as (records, _):
            del records[key_id]

    def adopt(self, token: str, name: str, scopes: frozenset[str]) -> None:
        """Makes `token`, which another machine made too, the internal key of service `name`.

        Raises ValueError when it is not a token.
        """
        key_id = parse_token(token)
        if key_id is None:
            raise ValueError("not a key")
        with self._edit() as (records, pepper):
            records[key_id] = KeyRecord(
                id=key_id,
                name=name,
                kind="internal",
                scopes=tuple(sorted(scopes)),
                created=time.time(),
                secrets=(Secret(hash=_digest(pepper, token)),),
            )

    def scope(self, key_id: str, scopes: frozenset[str]) -> None:
        """Gives a key exactly these scopes. Raises KeyError."""
        with self._edit() as (records, _):
            records[key_id] = records[key_id].model_copy(update={"scopes": tuple(sorted(scopes))})

    @contextmanager
    def _edit(self) -> Iterator[tuple[dict[str, KeyRecord], bytes]]:
        pepper = _read_pepper(self._pepper_path)
        lock = self._path.with_suffix(".lock")
        with open(lock, "w", opener=open_private) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            records = {record.id: record for record in self.records()}
            yield records, pepper
            store = KeyFile(keys=tuple(records.values()))
            # Its readers are other users where systemd runs the services: they read on.
            replace_file(self._path, store.model_dump_json(indent=1).encode())


def read_key(path: Path) -> str:
    """A token from its file. Raises StartError."""
    return read_secret("key", path)


def _read_pepper(path: Path) -> bytes:
    pepper = read_secret("auth.pepper_file", path, fix="make it with `aistack keys init`").encode()
    if len(pepper) < 32:
        raise StartError(f"auth.pepper_file: {path} is too short: at least 32 bytes are wanted")
    return pepper


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, ValidationError):
        return f"{error.error_count()} faults"
    return type(error).__name__
