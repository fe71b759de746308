"""A file without the parts that its decoder does not need."""

import bisect
import io
from collections.abc import Sequence
from itertools import accumulate
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Part = tuple[int, int]  # first byte, and length in bytes


class Spliced(io.RawIOBase):
    """Parts of another file, read as one file; nothing is copied."""

    def __init__(self, stream: IO[bytes], parts: Sequence[Part]) -> None:
        self._stream = stream
        self._parts = parts
        self._ends = list(accumulate(length for _, length in parts))
        self._at = 0

    def readable(self) -> bool:
        """As `io.RawIOBase` has it."""
        return True

    def seekable(self) -> bool:
        """As `io.RawIOBase` has it."""
        return True

    def tell(self) -> int:
        """As `io.RawIOBase` has it."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As `io.RawIOBase` has it."""
        end = self._ends[-1] if self._ends else 0
        self._at = max(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: end}[whence], 0)
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read as much as the part has, or the buffer takes."""
        number = bisect.bisect_right(self._ends, self._at)
        if number == len(self._ends):
            return 0
        view = memoryview(buffer)
        start, length = self._parts[number]
        inside = self._at - (self._ends[number] - length)
        self._stream.seek(start + inside)
        data = self._stream.read(min(len(view), length - inside))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_all(stream: IO[bytes], parts: Sequence[Part]) -> bytes:
    """Read parts of a file at once."""
    found = []
    for start, length in parts:
        stream.seek(start)
        found.append(stream.read(length))
    return b"".join(found)
