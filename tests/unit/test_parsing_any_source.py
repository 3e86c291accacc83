"""Any text in the languages that have a grammar, in a process of its own: it may end that."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aistack.aidb.parsing import ParsedDocument, child
from aistack.content_types import LANGUAGES
from fix_chunking import check_blocks

PIECES = [
    *("def f(x):\n", "  ", "    ", "class A:\n", "{", "}", "(", ")", "\n", "\n\n", ";", "# c\n"),
    *("// c\n", "/* c */", "fn f() {}\n", "int x;\n", "a = b", '"', "'", "'''", "<<E\n", "é"),
    *("impl A {", "export ", "const a = () => 1\n", "@x\n", "let", " in ", "${", "`", "\r\n", "日"),
    *("#if X\n", "#endif\n", "namespace N {", "template <", "type ", "func ", "\\", "\x0b", "\t"),
]


class Child:
    """The process in which documents are parsed, without the service."""

    def __enter__(self) -> Child:
        command = [sys.executable, "-m", child.__name__, str(512 << 20)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=30)

    def parse(self, text: str, kind: str) -> ParsedDocument | None:
        """None where the grammar ended the process; the next text has another one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(child.request(text.encode(), kind))
        self.process.stdin.flush()
        header = self.process.stdout.read(child.ANSWER.size)
        if header:
            return child.decoded(self.process.stdout.read(*child.ANSWER.unpack(header)))
        self.__exit__()
        self.__enter__()
        return None


@pytest.mark.parametrize("kind", sorted(LANGUAGES))
def test_any_text_is_read_and_nothing_is_lost(kind: str) -> None:
    with Child() as process:

        @settings(max_examples=60, deadline=None)
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            pieces = st.sampled_from(PIECES)
            drawn = data.draw(st.lists(pieces | st.text(max_size=5), max_size=40))
            text = "".join(drawn).replace("\0", "").removeprefix("\ufeff")
            text = "".join(one for one in text if not "\ud800" <= one <= "\udfff")
            if not text.strip():
                return
            document = process.parse(text, kind)
            if document is None:
                # Some characters beyond Latin-1 end the grammar for Bash, in some processes.
                assert kind == "text/x-sh"
                assert not text.isascii()
                return
            assert document.text == text
            check_blocks(document)

        check()
