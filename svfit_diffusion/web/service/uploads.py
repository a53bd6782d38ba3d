"""Uploads: only files with certain suffixes, and no files that the app would have to fetch."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from python_multipart.multipart import MultipartParser, parse_options_header

from .clients import RequestRefused

MAX_HEADER = 4_000  # bytes of a name or a value
DAMAGED = "The upload is damaged; send it again."


class UploadFilter:
    """Parses an upload as it arrives; refuses a file by its name before its content is passed on.

    suffixes: lower case, of the files that are allowed.
    """

    def __init__(self, content_type: str, suffixes: frozenset[str]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise RequestRefused(415, "An upload must be a form with files.")
        self.suffixes, self.name, self.value, self.files = suffixes, b"", b"", []
        self.parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
            },
        )

    def feed(self, data: bytes) -> None:
        """Parse the next bytes; RequestRefused for a file of another kind."""
        try:
            self.parser.write(data)
        except ValueError:  # of the parser
            raise RequestRefused(400, DAMAGED) from None

    def _part_begin(self) -> None:
        self.files = []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self.name = self._append(self.name, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.value = self._append(self.value, data[start:end])

    def _append(self, text: bytes, data: bytes) -> bytes:
        if len(text) + len(data) > MAX_HEADER:
            raise RequestRefused(400, DAMAGED)
        return text + data

    def _header_end(self) -> None:
        if self.name.lower() == b"content-disposition":
            self.files.append(parse_options_header(self.value)[1].get(b"filename", b""))
        self.name = self.value = b""

    def _headers_finished(self) -> None:
        names = [name.decode("utf-8", "replace") for name in self.files]
        if len(names) != 1 or PurePath(names[0]).suffix.lower() not in self.suffixes:
            allowed = ", ".join(sorted(self.suffixes))
            raise RequestRefused(415, f"Files of this kind cannot be uploaded, only {allowed}.")


def has_remote_file(value: Any) -> bool:
    """Whether a request's data names a file by an address, which the app would fetch."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(path := item.get("path"), str) and "://" in path:
                return True
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return False
