"""Forms: multipart/form-data in memory, its names and texts as UTF-8 and nothing else.

Starlette's own reader takes the charset from the request, any codec of Python among them, and what does not decode for Latin-1.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Collection
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api_schemas.errors import Invalid, MalformedForm

CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
"""US-ASCII is a part of UTF-8, and ``utf8`` is how many write it."""
_LONGEST_TYPE = 512
"""Of a Content-Type, in letters. A boundary has 256 at most."""
_CHUNK = 2**16


@dataclass(frozen=True)
class Part:
    """One part of a form."""

    name: str
    is_file: bool
    """It has a file name. A file may have none (RFC 7578, section 4.2)."""
    content: bytes


def media_type(value: str) -> tuple[str, dict[bytes, bytes]]:
    """What a Content-Type says, with its parameters. Raises ``Invalid`` for one that says another charset than UTF-8."""
    if len(value) > _LONGEST_TYPE:
        raise Invalid(f"it may have {_LONGEST_TYPE} letters", field="Content-Type")
    kind, options = parse_options_header(value)
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in CHARSETS:
        raise Invalid(f"text is read as UTF-8, not as {charset}", field="Content-Type")
    return kind.decode("latin-1"), options


def check_utf8(text: bytes | bytearray, what: str, *, error: type[Invalid] = Invalid, field: str | None = None) -> None:
    """Raises ``error`` for bytes that are not UTF-8."""
    if not is_utf8(text):
        raise error(f"{what} is not UTF-8", field=field)


def is_utf8(text: bytes | bytearray) -> bool:
    """Whether bytes are UTF-8."""
    if text.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for begin in range(0, len(text), _CHUNK):  # all at once it may be four times as long
            decoder.decode(text[begin : begin + _CHUNK])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def read_form(
    body: bytes | bytearray, options: dict[bytes, bytes], *, max_files: int, max_texts: int, texts: Collection[str]
) -> list[Part]:
    """The parts of a form, whose Content-Type has these ``options``.

    ``texts`` are the names of parts that are text, with or without a file name. Raises ``MalformedForm``, and ``Invalid`` for what is not UTF-8.
    """
    if b"boundary" not in options:
        raise MalformedForm("Missing boundary in multipart.")
    reader = _Reader({True: max_files, False: max_texts}, texts)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]  # a TypedDict of theirs
        for begin in range(0, len(body), _CHUNK):
            parser.write(bytes(body[begin : begin + _CHUNK]))
        parser.finalize()
    except FormParserError as error:
        raise MalformedForm("Invalid multipart data.") from error
    return reader.parts


class _Reader:
    """Gathers what the parser finds."""

    def __init__(self, room: dict[bool, int], texts: Collection[str]) -> None:
        self.parts: list[Part] = []
        self._room, self._texts = room, texts
        self._begin()

    def callbacks(self) -> dict[str, object]:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header,
            "on_headers_finished": self._headers,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._said: dict[bytes, bytes] = {}
        self._field, self._value, self._content = bytearray(), bytearray(), io.BytesIO()
        self._name, self._is_file = "", False

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        field = bytes(self._field.lower())
        if field in self._said:
            raise MalformedForm("A part has a header twice.")
        self._said[field] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _headers(self) -> None:
        disposition = self._said.get(b"content-disposition", b"")
        check_utf8(disposition, "the name of a part", field="Content-Disposition")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise MalformedForm('The Content-Disposition header field "name" must be provided.')
        self._name, self._is_file = options[b"name"].decode(), b"filename" in options
        if self._is_text:
            media_type(self._said.get(b"content-type", b"").decode("latin-1"))
        self._room[self._is_file] -= 1
        if self._room[self._is_file] < 0:
            raise MalformedForm(f"Too many {'files' if self._is_file else 'fields'}.")

    @property
    def _is_text(self) -> bool:
        return self._name in self._texts

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content.write(data[start:end])

    def _end(self) -> None:
        content = self._content.getvalue()  # without a copy, unlike a bytearray's, for which the interpreter would stand still
        self._content = io.BytesIO()
        if self._is_text:
            check_utf8(content, "the text", field=self._name)
        self.parts.append(Part(self._name, self._is_file, content))
