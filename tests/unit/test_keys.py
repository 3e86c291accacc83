"""API keys: format, verification, rotation, revocation, and failing closed."""

from __future__ import annotations

import grp
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aistack.service import key_setup, keys, private_files
from aistack.service.errors import StartError, Unauthorized, Unavailable
from aistack.service.key_setup import Given, KeyPaths, init_store
from aistack.service.keys import KeyEditor, KeyStore, parse_token
from aistack.service.private_files import write_private
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
    assert principal.scopes == frozenset({"embed", "rerank", "models.read"})
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


def test_a_key_that_was_good_is_refused_when_its_time_is_over(
    paths: KeyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(paths)
    _, token = editor_of(paths).create("soon", frozenset({"search"}), expires=time.time() + 1000)
    assert store.verify(token).name == "soon"
    later = time.time() + 1001
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(Unauthorized):
        store.verify(token)


def test_a_key_that_was_good_has_its_new_scopes_at_once(paths: KeyPaths) -> None:
    store = store_of(paths)
    record, token = editor_of(paths).create("laptop", frozenset({"search", "embed"}))
    assert store.verify(token).scopes == {"search", "embed"}
    editor_of(paths).scope(record.id, frozenset({"search"}))
    assert store.verify(token).scopes == {"search"}


def test_only_good_tokens_are_remembered_and_none_as_it_is(paths: KeyPaths) -> None:
    store = store_of(paths)
    token = paths.default_key_file.read_text()
    known = parse_token(token)
    assert known is not None
    for _ in range(50):
        with pytest.raises(Unauthorized):
            store.verify(keys.make_token(known))
    assert store.verify(token) == store.verify(token)
    assert len(store._good) == 1
    assert token.encode() not in store._good


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
    write_private(paths.keys_file, content)
    assert store.verify(token).name == key_setup.DEFAULT_KEY_NAME


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


def test_a_changed_store_keeps_its_mode_and_group(paths: KeyPaths) -> None:
    paths.keys_file.chmod(0o640)
    before = paths.keys_file.stat()
    editor_of(paths).create("new", frozenset({"search"}))
    after = paths.keys_file.stat()
    assert (after.st_mode, after.st_gid, after.st_uid) == (
        before.st_mode,
        before.st_gid,
        before.st_uid,
    )
    assert after.st_ino != before.st_ino


def test_a_group_reads_the_store_and_nothing_else(paths: KeyPaths) -> None:
    mine = grp.getgrgid(os.getgid()).gr_name
    init_store(paths.directory, load_stack(), group=mine)
    assert stat.S_IMODE(paths.directory.stat().st_mode) == 0o750
    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in paths.directory.rglob("*")
        if path.is_file()
    }
    assert modes.pop(paths.keys_file) == 0o640
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((paths.directory / "internal").stat().st_mode) == 0o700
    with pytest.raises(StartError, match="there is no group"):
        init_store(paths.directory, load_stack(), group="no-such-group-here")


def test_given_secrets_are_used_where_they_lie(tmp_path: Path) -> None:
    one = init_store(tmp_path / "one", load_stack())
    given = Given(one.pepper_file, {"aidb": one.internal_key_file("aidb")})
    other = init_store(tmp_path / "other", load_stack(), given=given)
    init_store(tmp_path / "other", load_stack(), given=given)
    assert other.pepper_file.readlink() == one.pepper_file
    shared = one.internal_key_file("aidb").read_text()
    assert other.internal_key_file("aidb").read_text() == shared
    principal = store_of(other).verify(shared)
    assert (principal.name, principal.internal) == ("aidb", True)
    assert principal.scopes == load_stack().internal_scopes("aidb")
    names = [record.name for record in editor_of(other).records()]
    assert sorted(names) == sorted({*load_stack().services, "default"})


def test_given_secrets_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(StartError, match=re.escape(f"{missing} does not exist")):
        init_store(tmp_path / "one", load_stack(), given=Given(missing))
    bad = tmp_path / "bad"
    bad.write_text("no key")
    with pytest.raises(StartError, match=re.escape(f"{bad} holds no key")):
        init_store(tmp_path / "two", load_stack(), given=Given(None, {"aidb": bad}))
    others = KeyPaths(tmp_path / "two")  # only the service that it is for misses its key
    assert store_of(others).verify(others.internal_key_file("embeddings").read_text())
    assert store_of(others).verify(others.default_key_file.read_text())
    with pytest.raises(StartError, match="which is no service"):
        init_store(tmp_path / "three", load_stack(), given=Given(None, {"adib": bad}))


def test_a_pepper_that_keys_were_made_with_is_not_replaced(paths: KeyPaths, tmp_path: Path) -> None:
    other = tmp_path / "pepper"
    other.write_text("x" * 64)
    with pytest.raises(StartError, match="differ: keys were made with the first"):
        init_store(paths.directory, load_stack(), given=Given(other))
    assert store_of(paths).verify(paths.default_key_file.read_text()).name == "default"


def test_a_secret_that_was_not_there_stops_the_start(paths: KeyPaths, tmp_path: Path) -> None:
    """A unit is given a stand-in for it, which is neither a pepper nor a key."""
    stand_in = tmp_path / "credential"
    for content in (private_files.MISSING, ""):
        stand_in.write_text(content)
        with pytest.raises(StartError, match=r"auth\.pepper_file: .* holds no secret"):
            KeyStore(paths.keys_file, stand_in)
        with pytest.raises(StartError, match="holds no secret"):
            keys.read_key(stand_in)
    stand_in.write_bytes(b"\xff" * 64)
    with pytest.raises(StartError, match="is not text"):
        KeyStore(paths.keys_file, stand_in)
