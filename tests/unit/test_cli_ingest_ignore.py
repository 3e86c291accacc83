"""What `aistack ingest` leaves out: the same files as Git itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aistack.cli.files import Candidate, Skipped, find
from fix_cli import Edge, Ended

Cli = Callable[..., Ended]

FILES = {
    ".gitignore": "*.log.txt\nbuild/\n/top.md\n# a remark\n\nnotes/*\n!notes/keep.md\n!\n\\\n"
    "trail.md \n",
    "index.md": "1",
    "top.md": "1",
    "trail.md": "1",
    "a.log.txt": "1",
    "build/out.md": "1",
    "guide/top.md": "1",
    "guide/build/out.md": "1",
    "guide/.gitignore": "draft-*\n!a.log.txt\n/only.md\n**/deep/*.txt\n",
    "guide/a.log.txt": "1",
    "guide/b.log.txt": "1",
    "guide/draft-1.md": "1",
    "guide/only.md": "1",
    "guide/sub/only.md": "1",
    "guide/sub/deep/x.txt": "1",
    "guide/sub/deep/x.md": "1",
    "notes/keep.md": "1",
    "notes/drop.md": "1",
    "notes/inner/keep.md": "1",
    "private/only-in-exclude.md": "1",
    "caf\u00e9/na\u00efve [x].md": "1",
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of files that are known to nobody yet; the user's own settings do not count."""
    root = tmp_path / "repo"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "exclude").write_text("private/\n")
    return root


def taken(root: Path, **options: bool) -> set[str]:
    found = find([root], include=[], max_bytes=None, prefix="", **options)
    return {item.source for item in found if isinstance(item, Candidate)}


def untracked(directory: Path) -> set[str]:
    """What Git would add, of the types that are read."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--others", "--exclude-standard"],
        cwd=directory,
        check=True,
        capture_output=True,
    ).stdout
    names = {os.fsdecode(name) for name in listed.split(b"\0") if name}
    return {name for name in names if name.endswith((".md", ".txt"))}


@pytest.mark.parametrize("below", [".", "guide", "guide/sub"])
def test_what_git_leaves_out_is_left_out(repository: Path, below: str) -> None:
    expected = untracked(repository / below)
    assert expected
    assert taken(repository / below) == expected


def test_all_is_taken_without_it(repository: Path) -> None:
    assert taken(repository, ignore=False) == {
        name for name in FILES if not name.endswith(".gitignore")
    }


def test_a_reason_names_the_file_of_patterns(repository: Path) -> None:
    found = find([repository], include=[], max_bytes=None)
    reasons = {
        item.path.relative_to(repository).as_posix(): item.reason
        for item in found
        if isinstance(item, Skipped) and item.reason != "hidden"
    }
    assert reasons["build"] == "ignored by .gitignore"
    assert reasons["guide/draft-1.md"] == "ignored by guide/.gitignore"
    assert reasons["private"] == "ignored by .git/info/exclude"
    (out,) = [
        item.reason
        for item in find([repository / "guide"], include=[], max_bytes=None)
        if isinstance(item, Skipped) and item.path.name == "build"
    ]
    assert out == f"ignored by {repository.resolve() / '.gitignore'}"


def test_what_is_named_itself_is_taken(repository: Path) -> None:
    assert taken(repository / "build") == {"out.md"}
    assert taken(repository / "top.md") == {"top.md"}


def test_a_link_to_the_directory_ignores_the_same(repository: Path) -> None:
    link = repository.parent / "link"
    link.symlink_to(repository)
    assert taken(link) == taken(repository)


def test_patterns_above_count_only_in_a_repository(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / ".gitignore").write_text("*.md\n")
    (tmp_path / "docs" / "a.md").write_text("1")
    assert taken(tmp_path / "docs") == {"a.md"}
    assert taken(tmp_path) == set()


def test_patterns_that_cannot_be_read_stop_their_directory(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path == repository / "guide" / ".gitignore":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    found = list(find([repository], include=[], max_bytes=None, prefix=""))
    assert not [i for i in found if isinstance(i, Candidate) and i.source.startswith("guide/")]
    (failed,) = [i for i in found if isinstance(i, Skipped) and i.failed]
    assert failed.path == repository / "guide" / ".gitignore"
    assert failed.reason == "cannot be read (Permission denied)"


def test_the_command_says_it_and_has_a_switch(edge: Edge, aistack: Cli, repository: Path) -> None:
    ended = aistack("ingest", str(repository / "build"), str(repository / "notes"), "--no-wait")
    assert f"skipped {repository / 'notes' / 'drop.md'}: ignored by" in ended.err
    ended = aistack("ingest", str(repository / "notes"), "--no-wait", "--no-ignore")
    assert "ignored" not in ended.err
