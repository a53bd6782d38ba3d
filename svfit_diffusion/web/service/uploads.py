"""What comes in: files of the kinds that are used here, and none by an address."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from python_multipart.multipart import MultipartParser, parse_options_header

from .clients import Closed


class Kinds:
    """Looks along at an upload: each file's name is read before its bytes get anywhere."""

    def __init__(self, content_type: str, endings: frozenset[str]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Closed(415, "An upload is a form with files.")
        self.endings, self.name, self.value, self.files = endings, b"", b"", []
        self.parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._text,
                "on_header_end": self._end,
                "on_headers_finished": self._finished,
            },
        )

    def see(self, data: bytes) -> None:
        """The next bytes; Closed where a file is of another kind."""
        try:
            self.parser.write(data)
        except ValueError:  # of the parser
            raise Closed(400, "The upload is damaged; send it again.") from None

    def _begin(self) -> None:
        self.files = []

    def _field(self, data: bytes, start: int, end: int) -> None:
        self.name = self._more(self.name, data[start:end])

    def _text(self, data: bytes, start: int, end: int) -> None:
        self.value = self._more(self.value, data[start:end])

    def _more(self, held: bytes, data: bytes) -> bytes:
        if len(held) + len(data) > 4_000:
            raise Closed(400, "The upload is damaged; send it again.")
        return held + data

    def _end(self) -> None:
        if self.name.lower() == b"content-disposition":
            self.files.append(parse_options_header(self.value)[1].get(b"filename", b""))
        self.name = self.value = b""

    def _finished(self) -> None:
        names = [name.decode("utf-8", "replace") for name in self.files]
        if len(names) != 1 or PurePath(names[0]).suffix.lower() not in self.endings:
            kinds = ", ".join(sorted(self.endings))
            raise Closed(415, f"Files of this kind are not taken here; those that are: {kinds}.")


def addresses(value: Any) -> bool:
    """Whether a file in a request's data is one to be fetched from somewhere."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if isinstance(path := item.get("path"), str) and "://" in path:
                return True
            left += item.values()
        elif isinstance(item, list):
            left += item
    return False
