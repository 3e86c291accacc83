"""`aistack keys` on a real key store."""

from __future__ import annotations

import json
import stat
import time
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from aistack.cli.errors import Usage
from aistack.cli.keys import seconds
from aistack.service.errors import Unauthorized
from aistack.service.keys import KeyStore
from aistack.stack import load_stack
from fix_cli import Ended

Cli = Callable[..., Ended]


@pytest.fixture
def keys(aistack: Cli, tmp_path: Path) -> Callable[..., Ended]:
    """`keys("list")` on a store of the test's own."""
    assert aistack("keys", "init", "--data-dir", str(tmp_path)).code == 0
    return lambda *words: aistack("keys", *words, "--data-dir", str(tmp_path))


def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys" / "keys.json", tmp_path / "keys" / "pepper")


def test_a_made_key_is_shown_once_and_is_good(keys: Cli, tmp_path: Path) -> None:
    ended = keys("create", "bob", "--scope", "search,documents.read", "--scope", "embed")
    assert ended.code == 0
    token = ended.out.strip()
    assert ended.out == token + "\n"  # stdout is the key alone, for $(…)
    assert token not in ended.err
    principal = store(tmp_path).verify(token)
    assert principal.name == "bob"
    assert principal.scopes == {"search", "documents.read", "embed"}
    assert token not in keys("list", "--json").out


def test_without_scopes_a_key_may_do_all(keys: Cli) -> None:
    assert set(keys("create", "all", "--json").json["scopes"]) == load_stack().scopes()


def test_an_unknown_scope_makes_no_key(keys: Cli) -> None:
    ended = keys("create", "bob", "--scope", "everything")
    assert ended.code == 2
    assert "documents.read" in ended.err
    assert [key["name"] for key in keys("list", "--json").json["data"]] == ["default"]


def test_a_key_can_be_written_to_a_private_file(keys: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bob.key"
    ended = keys("create", "bob", "--write", str(path))
    token = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in ended.out + ended.err
    assert store(tmp_path).verify(token).name == "bob"
    assert keys("create", "eve", "--write", str(path)).code == 2
    assert keys("create", "eve", "--write", str(tmp_path / "none" / "k")).code == 2
    assert [key["name"] for key in keys("list", "--json").json["data"]] == ["default", "bob"]


def test_an_expired_key_is_refused(keys: Cli, tmp_path: Path) -> None:
    answer = keys("create", "brief", "--expires", "30d", "--json").json
    assert answer["expires"] == pytest.approx(time.time() + 30 * 86_400, abs=60)
    token = keys("create", "over", "--expires", "0s").out.strip()
    with pytest.raises(Unauthorized):
        store(tmp_path).verify(token)
    assert "(over)" in keys("list").out


def test_rotating_keeps_the_old_secret_for_a_while(keys: Cli, tmp_path: Path) -> None:
    old = keys("create", "bob").out.strip()
    new = keys("rotate", "bob").out.strip()
    assert new != old
    assert {store(tmp_path).verify(token).name for token in (old, new)} == {"bob"}
    newest = keys("rotate", "bob", "--overlap", "0s").out.strip()
    assert store(tmp_path).verify(newest).name == "bob"
    with pytest.raises(Unauthorized):
        store(tmp_path).verify(new)


def test_a_revoked_key_is_refused(keys: Cli, tmp_path: Path) -> None:
    token = keys("create", "bob").out.strip()
    assert keys("revoke", "bob").code == 0
    with pytest.raises(Unauthorized):
        store(tmp_path).verify(token)
    ended = keys("revoke", "bob")
    assert (ended.code, ended.err) == (
        1,
        "aistack: there is no key bob: `aistack keys list` shows them\n",
    )


def test_a_name_that_two_have_is_not_guessed(keys: Cli) -> None:
    ids = [keys("create", "bob", "--json").json["id"] for _ in range(2)]
    ended = keys("revoke", "bob")
    assert ended.code == 2
    assert all(identifier in ended.err for identifier in ids)
    assert keys("revoke", ids[0]).code == 0


def test_the_services_own_keys_are_not_touched(keys: Cli) -> None:
    assert "aidb" not in keys("list").out
    assert "aidb" in keys("list", "--internal").out
    assert keys("revoke", "aidb").code == 1


def test_no_store_and_a_damaged_store_are_exit_78(aistack: Cli, keys: Cli, tmp_path: Path) -> None:
    ended = aistack("keys", "list", "--data-dir", str(tmp_path / "other"))
    assert ended.code == 78
    assert "aistack keys init" in ended.err
    (tmp_path / "keys" / "keys.json").write_text("{")
    ended = keys("list")
    assert ended.code == 78
    assert ended.err.count("\n") == 1


def test_the_store_of_a_configuration(aistack: Cli, keys: Cli, tmp_path: Path) -> None:
    config = tmp_path / "service.toml"
    folder = tmp_path / "keys"
    config.write_text(
        f"[auth]\nkeys_file = '{folder / 'keys.json'}'\npepper_file = '{folder / 'pepper'}'\n"
    )
    ended = aistack("keys", "list", "--config", str(config), "--json")
    assert [key["name"] for key in ended.json["data"]] == ["default"]


def test_durations() -> None:
    assert [seconds(t) for t in ("90s", "15m", "12h", "30d", "8w")] == [
        90, 900, 43_200, 2_592_000, 4_838_400,
    ]  # fmt: skip
    for wrong in ("", "5", "-1d", "1y", "1.5h"):
        with pytest.raises(Usage):
            seconds(wrong)


def test_init_takes_a_table_and_given_secrets(aistack: Cli, tmp_path: Path) -> None:
    """As the unit that makes the secrets of a NixOS host calls it."""
    table = tomllib.loads((files("aistack") / "stack.toml").read_text(encoding="utf-8"))
    sixth = {**table["services"]["coordinator"], "needs": {"aidb": "required"}, "calls": ["search"]}
    table["services"]["aidb"]["clients"].append("sixth")
    table["services"]["sixth"] = {**sixth, "routes": ["/v1/sixth"], "scopes": ["sixth.use"]}
    stack = tmp_path / "stack.json"
    stack.write_text(json.dumps(table))
    pepper = tmp_path / "pepper"
    pepper.write_text("p" * 64)
    words = ("keys", "init", "--stack", str(stack), "--pepper", str(pepper))
    assert aistack(*words, "--data-dir", str(tmp_path)).code == 0
    token = (tmp_path / "keys" / "internal" / "sixth.key").read_text()
    principal = store(tmp_path).verify(token)
    assert (principal.name, principal.scopes) == ("sixth", frozenset({"search"}))
    first = store(tmp_path).verify((tmp_path / "keys" / "default.key").read_text())
    assert "sixth.use" in first.scopes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--internal-key", "aidb"), "is not SERVICE=FILE"),
        (("--pepper", "/nowhere/pepper"), "/nowhere/pepper does not exist"),
        (("--group", "no-such-group-here"), "there is no group no-such-group-here"),
        (("--stack", "/dev/null"), "/dev/null"),
    ],
)
def test_init_says_what_is_wrong_with_what_it_is_given(
    aistack: Cli, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    ended = aistack("keys", "init", *words, "--data-dir", str(tmp_path))
    assert ended.code != 0
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_init_says_what_is_wrong_with_the_table(aistack: Cli, tmp_path: Path) -> None:
    table = tomllib.loads((files("aistack") / "stack.toml").read_text(encoding="utf-8"))
    table["services"]["aidb"]["calls"] = ["chat"]
    stack = tmp_path / "stack.json"
    stack.write_text(json.dumps(table))
    ended = aistack("keys", "init", "--stack", str(stack), "--data-dir", str(tmp_path))
    assert ended.code == 2
    assert "aidb calls ['chat']: out of its reach" in ended.err
