"""The key files of one stack: where they lie, and making what is missing of them."""

from __future__ import annotations

import grp
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aistack.service.errors import StartError, Unauthorized
from aistack.service.keys import KeyEditor, KeyFile, KeyStore, Principal, parse_token, read_key
from aistack.service.private_files import write_private
from aistack.stack import Stack

DEFAULT_KEY_NAME = "default"
KEYS_FILE = "keys.json"


@dataclass(frozen=True, slots=True)
class KeyPaths:
    """Where the key files of one stack lie."""

    directory: Path

    @property
    def keys_file(self) -> Path:
        return self.directory / KEYS_FILE

    @property
    def pepper_file(self) -> Path:
        return self.directory / "pepper"

    @property
    def default_key_file(self) -> Path:
        return self.directory / "default.key"

    def internal_key_file(self, service: str) -> Path:
        """The key that `service` shows to the others."""
        return self.directory / "internal" / f"{service}.key"


@dataclass(frozen=True, slots=True)
class Given:
    """Files that somebody else made (and other machines may have too), used instead of our own."""

    pepper: Path | None = None
    internal_keys: Mapping[str, Path] | None = None


def init_store(
    directory: Path, stack: Stack, *, group: str | None = None, given: Given | None = None
) -> KeyPaths:
    """Makes what is missing of the key files of `stack`, each 0600; keeps what is there.

    Internal keys get exactly the scopes of the services that theirs may call. With `group` the
    store itself, which holds only keyed hashes, is 0640 for that group, and it may enter the
    directory. What is `given` is linked to. Raises StartError.
    """
    given = given or Given()
    paths = KeyPaths(directory)
    for folder in (directory, directory / "internal"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    _make_pepper(paths, given.pepper)
    if not paths.keys_file.exists():
        write_private(paths.keys_file, KeyFile().model_dump_json().encode())
    if group is not None:
        _let_in(group, paths)
    editor = KeyEditor(paths.keys_file, paths.pepper_file)
    store = KeyStore(paths.keys_file, paths.pepper_file)
    files = given.internal_keys or {}
    if unknown := sorted(set(files) - set(stack.services)):
        raise StartError(
            f"an internal key is given for {', '.join(unknown)}, which is no service:"
            f" use {', '.join(stack.services)}"
        )
    faults = []
    for name in stack.services:
        scopes = stack.internal_scopes(name)
        try:
            _make_internal_key(editor, store, paths, name, scopes, files.get(name))
        except StartError as error:  # of this service alone: the others get their keys
            faults.append(str(error))
    if not paths.default_key_file.exists() and not any(
        record.kind == "user" for record in editor.records()
    ):
        _, token = editor.create(DEFAULT_KEY_NAME, stack.scopes())
        write_private(paths.default_key_file, token.encode())
    if faults:
        raise StartError("; ".join(faults))
    return paths


def _make_pepper(paths: KeyPaths, given: Path | None) -> None:
    if given is not None:
        _link(paths.pepper_file, given)
        return
    if paths.pepper_file.exists():
        return
    if paths.keys_file.exists():
        raise StartError(
            f"{paths.pepper_file} is missing, so no key in {paths.keys_file} can be checked:"
            " restore it, or remove the key store to make new keys"
        )
    write_private(paths.pepper_file, secrets.token_bytes(32).hex().encode())


def _make_internal_key(
    editor: KeyEditor,
    store: KeyStore,
    paths: KeyPaths,
    name: str,
    scopes: frozenset[str],
    given: Path | None,
) -> None:
    target = paths.internal_key_file(name)
    if given is not None:
        _link(target, given)
    known = _valid(store, target)
    if known is not None:
        if known.scopes != scopes:
            editor.scope(known.key_id, scopes)
        return
    for record in editor.records():
        if record.kind == "internal" and record.name == name:
            editor.revoke(record.id)
    if given is not None:
        token = read_key(given)
        if parse_token(token) is None:
            raise StartError(
                f"{given} holds no key: make one with `aistack keys create NAME --write FILE`"
            )
        editor.adopt(token, name, scopes)
        return
    _, token = editor.create(name, scopes, kind="internal")
    write_private(target, token.encode())


def _link(path: Path, to: Path) -> None:
    """`path` becomes a symbolic link to `to`. Raises StartError when there is nothing."""
    if not to.exists():
        raise StartError(f"{to} does not exist: put the secret there, or do not name the file")
    if path.is_symlink():
        if path.readlink() == to:
            return
    elif path.exists() and path.read_bytes().strip() != to.read_bytes().strip():
        raise StartError(
            f"{path} and {to} differ: keys were made with the first; remove it (and {KEYS_FILE}, if"
            " it is the pepper, which ends every key) or put its content into the second"
        )
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def _let_in(group: str, paths: KeyPaths) -> None:
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise StartError(f"there is no group {group}: make it, or leave it out") from error
    for path, mode in ((paths.directory, 0o750), (paths.keys_file, 0o640)):
        try:
            # Not asked for where it is so already: a confined unit may not change owners at all.
            if path.stat().st_gid != number:
                os.chown(path, -1, number)
            path.chmod(mode)
        except OSError as error:
            raise StartError(
                f"{path} cannot be given to group {group} ({error.strerror})"
            ) from error


def _valid(store: KeyStore, path: Path) -> Principal | None:
    if not path.exists():
        return None
    try:
        return store.verify(read_key(path))
    except Unauthorized:
        return None
