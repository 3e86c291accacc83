"""API keys: format, verification, rotation, revocation, and failing closed."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aistack.service import keys
from aistack.service.errors import StartError, Unauthorized, Unavailable
from aistack.service.keys import KeyEditor, KeyPaths, KeyStore, init_store, parse_token
from aistack.stack import load_stack


@pytest.fixture
def paths(tmp_path: Path) -> KeyPaths:
    return init_store(tmp_path / "keys", load_stack())


@pytest.fixture(autouse=True)
def _reload_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "RELOAD_SECONDS", 0.0)


def store_of(paths: KeyPaths) -> KeyStore:
    return KeyStore(paths.keys_file, paths.pepper_file)


def editor_of(paths: KeyPaths) -> KeyEditor:
    return KeyEditor(paths.keys_file, paths.pepper_file)


def test_first_start_makes_private_files_and_a_key_with_every_scope(paths: KeyPaths) -> None:
    for path in paths.directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    principal = store_of(paths).verify(paths.default_key_file.read_text())
    assert principal.scopes == load_stack().scopes()
    assert not principal.internal


def test_internal_key_carries_only_what_its_service_needs(paths: KeyPaths) -> None:
    principal = store_of(paths).verify(paths.internal_key_file("aidb").read_text())
    assert principal.internal
    assert principal.scopes == frozenset({"embed", "models.read"})
    lonely = store_of(paths).verify(paths.internal_key_file("embeddings").read_text())
    assert lonely.scopes == frozenset()


def test_second_start_keeps_every_key(paths: KeyPaths) -> None:
    before = {path: path.read_bytes() for path in paths.directory.rglob("*") if path.is_file()}
    init_store(paths.directory, load_stack())
    after = {path: path.read_bytes() for path in paths.directory.rglob("*") if path.is_file()}
    assert after == before


def test_store_holds_no_token(paths: KeyPaths) -> None:
    secret = paths.default_key_file.read_text().split("_")[2]
    assert secret not in paths.keys_file.read_text()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token[:-1] + ("a" if token[-1] != "a" else "b"),
        lambda token: token.replace("ais_", "sk_"),
        lambda token: token + "\n",
        lambda token: token.upper(),
        lambda token: "é" + token,
        lambda token: "ais__" + token.split("_")[2],
    ],
)
def test_anything_but_the_token_is_refused(paths: KeyPaths, spoil: Callable[[str], str]) -> None:
    token = paths.default_key_file.read_text()
    with pytest.raises(Unauthorized):
        store_of(paths).verify(spoil(token))


def test_no_key_is_refused(paths: KeyPaths) -> None:
    with pytest.raises(Unauthorized):
        store_of(paths).verify(None)


def test_well_formed_token_with_a_foreign_secret_is_refused(paths: KeyPaths) -> None:
    known = parse_token(paths.default_key_file.read_text())
    assert known is not None
    forged = keys.make_token(known)
    assert parse_token(forged) == known
    with pytest.raises(Unauthorized):
        store_of(paths).verify(forged)


def test_revoked_key_is_refused_without_a_restart(paths: KeyPaths) -> None:
    store = store_of(paths)
    record, token = editor_of(paths).create("laptop", frozenset({"search"}))
    assert store.verify(token).name == "laptop"
    editor_of(paths).revoke(record.id)
    with pytest.raises(Unauthorized):
        store.verify(token)


def test_rotation_keeps_the_old_secret_alive_for_the_overlap(paths: KeyPaths) -> None:
    store = store_of(paths)
    record, old = editor_of(paths).create("ci", frozenset({"search"}))
    _, new = editor_of(paths).rotate(record.id, overlap_seconds=3600)
    assert store.verify(old).key_id == store.verify(new).key_id == record.id
    _, newest = editor_of(paths).rotate(record.id, overlap_seconds=-1)
    assert store.verify(newest).key_id == record.id
    for dead in (old, new):
        with pytest.raises(Unauthorized):
            store.verify(dead)


def test_expired_key_is_refused(paths: KeyPaths) -> None:
    _, token = editor_of(paths).create("old", frozenset(), expires=time.time() - 1)
    with pytest.raises(Unauthorized):
        store_of(paths).verify(token)


def test_store_that_goes_away_refuses_everybody_until_it_is_back(paths: KeyPaths) -> None:
    store = store_of(paths)
    token = paths.default_key_file.read_text()
    content = paths.keys_file.read_bytes()
    paths.keys_file.unlink()
    with pytest.raises(Unavailable):
        store.verify(token)
    paths.keys_file.write_bytes(b'{"version": 1, "keys": [{')
    with pytest.raises(Unavailable):
        store.verify(token)
    keys.write_private(paths.keys_file, content)
    assert store.verify(token).name == keys.DEFAULT_KEY_NAME


def test_no_store_or_pepper_no_start(paths: KeyPaths, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"auth\.keys_file"):
        KeyStore(tmp_path / "none.json", paths.pepper_file)
    with pytest.raises(StartError, match=r"auth\.pepper_file"):
        KeyStore(paths.keys_file, tmp_path / "none")
    short = tmp_path / "short"
    short.write_bytes(b"abc")
    with pytest.raises(StartError, match="too short"):
        KeyStore(paths.keys_file, short)


def test_lost_pepper_is_not_replaced_silently(paths: KeyPaths) -> None:
    paths.pepper_file.unlink()
    with pytest.raises(StartError, match="restore it"):
        init_store(paths.directory, load_stack())


def test_lost_internal_key_is_made_anew_and_the_old_one_dies(paths: KeyPaths) -> None:
    old = paths.internal_key_file("aidb").read_text()
    paths.internal_key_file("aidb").unlink()
    init_store(paths.directory, load_stack())
    store = store_of(paths)
    assert store.verify(paths.internal_key_file("aidb").read_text()).name == "aidb"
    with pytest.raises(Unauthorized):
        store.verify(old)


def test_unknown_key_cannot_be_rotated_or_revoked(paths: KeyPaths) -> None:
    before = paths.keys_file.read_bytes()
    with pytest.raises(KeyError):
        editor_of(paths).revoke("nobody")
    with pytest.raises(KeyError):
        editor_of(paths).rotate("nobody", overlap_seconds=0)
    assert paths.keys_file.read_bytes() == before
