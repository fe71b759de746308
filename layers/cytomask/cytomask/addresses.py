"""What an object in S3 is called: its address and its version, and what its name says about it."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from cytomask.errors import InvalidRequest

S3_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+)", re.DOTALL)
LONGEST_KEY = 1024  # bytes, S3's own limit
PLATE_MAP = re.compile(
    r"(?P<whole>.+)\.platemap|(?:(?P<plate>.+?)[ ._-]+)?plate[ _-]?map\.(?:csv|txt|xml)", re.IGNORECASE
)
SIDECARS = {".json", ".csv", ".xml", ".txt", ".md", ".db", ".platemap"}


@dataclass(frozen=True)
class S3Object:
    """An object, and its version where one is known.

    Attributes:
        etag: without quotes.
        uploaded_at: as S3 gives it, in whole seconds.
    """

    bucket: str
    key: str
    version_id: str | None = None
    etag: str | None = None
    uploaded_at: str | None = None

    @property
    def uri(self) -> str:
        """The address `s3://bucket/key`, never encoded."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def was_found(self) -> bool:
        """Whether S3 confirmed the object; a message alone does not."""
        return self.uploaded_at is not None

    @property
    def version(self) -> str:
        """The version's id, or the ETag: it tells the versions of a found object apart."""
        return str(self.version_id or self.etag)


def parse_uri(text: str, field: str, takes: str = "an address such as s3://bucket/key") -> S3Object:
    """Read `s3://bucket/key`; raise InvalidRequest, which names `field` and what it takes."""
    match = S3_URI.fullmatch(text)
    if match is None:
        raise InvalidRequest(
            f'`{field}`: "{text[:200]}" is not an S3 address, and files on your own disk are out of reach; '
            f"it takes {takes}"
        )
    if len(match["key"].encode()) > LONGEST_KEY:
        raise InvalidRequest(f"`{field}`: its key is longer than S3's {LONGEST_KEY} bytes; it takes {takes}")
    return S3Object(match["bucket"], match["key"])


def is_coco(key: str) -> bool:
    """Tell by its name whether a ground truth is a COCO file rather than a mask image."""
    return key.lower().endswith(".json")


def is_sidecar(key: str) -> bool:
    """Tell by its ending whether an object is a file beside images, such as a table or a note."""
    return PurePosixPath(key).suffix.lower() in SIDECARS


def is_plate_map(key: str) -> bool:
    """Tell by its name whether an object is a plate map: `x.PlateMap`, `x_platemap.csv`, `platemap.xml`."""
    return PLATE_MAP.fullmatch(PurePosixPath(key).name) is not None


def may_be_plate_map(key: str) -> bool:
    """Tell whether an object is a CSV with its folder's name, `x/x.csv`: a plate map, or any other table."""
    path = PurePosixPath(key)
    return path.suffix.lower() == ".csv" and path.stem.lower() == path.parent.name.lower()


def plates_of_map(key: str) -> tuple[str, ...]:
    """Return the plates that a map may belong to, by its key.

    The first is named by the map itself, as in `P7.PlateMap`. The folder follows, because images whose names
    have no plate belong to it: `P7/layout.PlateMap`.
    """
    path = PurePosixPath(key)
    match = PLATE_MAP.fullmatch(path.name)
    named = (match["plate"] or match["whole"]) if match else None
    return tuple(dict.fromkeys(filter(None, (named, path.parent.name))))
