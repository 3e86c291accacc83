"""What the routes of vectors and of scores have in common: the check of a text."""

from __future__ import annotations

from aistack.service.errors import BadRequest, TooLarge


def check_text(text: str, where: str, *, most: int, param: str) -> None:
    """Raises BadRequest for half a character, TooLarge for more than `most` bytes of UTF-8."""
    try:
        size = len(text) if len(text) > most else len(text.encode())
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which is no character.
        raise BadRequest(f"{where} is not valid Unicode.", param=param) from error
    if size > most:
        raise TooLarge(f"{where} is over {most} bytes.", param=param)
