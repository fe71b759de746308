"""The work of decoding, as headers tell it before anything is decoded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Something that is decoded in one go.

    Attributes:
        codec: name of the way in which it is packed: `NONE`, `LZW`, `JPEG`, …
        packed_bytes: that are read.
        decoded_bytes: that they become.
        passed_bytes: that the decoder writes on the way: `decoded_bytes` for each of its passes.
        segments: strips or tiles, and the marks, chunks or code blocks in them.
    """

    codec: str
    packed_bytes: int
    decoded_bytes: int
    passed_bytes: int
    segments: int = 1
