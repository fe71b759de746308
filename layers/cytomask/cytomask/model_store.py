"""Read and add the stack's own models in its models bucket, each under the sha256 of its ONNX file.

`models/<sha256>/native/` holds `manifest.json` and the ONNX file that it names. A stack can have its own
weights only for `native` mode; `resize` always uses those in the container.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
from botocore.exceptions import ClientError

from cytomask.errors import ModelUnusable
from cytomask.requests import Mode
from cytomask.served_model import ServedModel

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BAKED_IN = "baked-in"  # the parameter's value for the weights in the container
MODE: Mode = "native"
ROOT = "models/"
MANIFEST = "manifest.json"
LARGEST_FILE = 256 * 1024 * 1024  # bytes; the shipped network has 15 million


class StoredModel(msgspec.Struct, frozen=True):
    """The part of a stored manifest that the layer needs.

    Attributes:
        name: name of the model, shown to people.
        mode: the mode that the network is for.
        file: name of the ONNX file beside the manifest.
        sha256: sha256 of that file, in hex.
        threshold: default probability at or above which a pixel is cell, 0..1.
    """

    name: str
    mode: Mode
    file: str
    sha256: str
    threshold: float

    @property
    def served(self) -> ServedModel:
        """The part that job ids and plates use."""
        return ServedModel(self.sha256, self.threshold, self.name)


class ModelStore:
    """Reads and adds models. Faults of S3 that a retry can mend pass through as ClientError."""

    def __init__(self, s3: "S3Client", bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def uri(self, sha256: str) -> str:
        """Return the address of a model's folder."""
        return f"s3://{self._bucket}/{prefix_of(sha256)}"

    def describe(self, sha256: str) -> StoredModel:
        """Read a model's manifest; raise ModelUnusable if it is missing or belongs to another model."""
        return self._read_manifest(sha256)[0]

    def fetch(self, sha256: str, folder: Path) -> None:
        """Download a model's manifest and ONNX file into a folder, unless the folder has the same file.

        Raises:
            ModelUnusable: a file is missing or has the wrong sha256.
        """
        stored, manifest = self._read_manifest(sha256)
        graph = folder / stored.file
        folder.mkdir(parents=True, exist_ok=True)
        if not graph.is_file() or sha256_of(graph.read_bytes()) != sha256:
            content = self._read(sha256, stored.file)
            if (found := sha256_of(content)) != sha256:
                raise ModelUnusable(
                    f"{self.uri(sha256)}{stored.file} has sha256 {found}: it is damaged or was replaced"
                )
            graph.write_bytes(content)
        (folder / MANIFEST).write_bytes(manifest)

    def add(self, folder: Path) -> StoredModel:
        """Upload the model of a folder, with the manifest last, because it marks a complete model.

        Raises:
            ModelUnusable: the folder's files do not belong together.
            OSError: a file cannot be read.
        """
        manifest = (folder / MANIFEST).read_bytes()
        stored = parse_manifest(manifest, str(folder))
        graph = (folder / stored.file).read_bytes()
        if (found := sha256_of(graph)) != stored.sha256:
            raise ModelUnusable(
                f"{folder / stored.file} has sha256 {found}, but its manifest says {stored.sha256}"
            )
        for name, content in ((stored.file, graph), (MANIFEST, manifest)):
            self._s3.put_object(Bucket=self._bucket, Key=f"{prefix_of(stored.sha256)}{name}", Body=content)
        return stored

    def has(self, folder: Path) -> bool:
        """Tell whether the bucket holds the same model: the same manifest and a complete ONNX file."""
        manifest = (folder / MANIFEST).read_bytes()
        stored = parse_manifest(manifest, str(folder))
        try:
            if self._read_manifest(stored.sha256)[1] != manifest:
                return False
            return sha256_of(self._read(stored.sha256, stored.file)) == stored.sha256
        except ModelUnusable:
            return False

    def all(self) -> Iterator[StoredModel]:
        """Yield the bucket's models that have a usable manifest."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=ROOT, Delimiter="/"
        )
        for page in pages:
            for each in page.get("CommonPrefixes", []):
                try:
                    yield self.describe(each["Prefix"].removeprefix(ROOT).rstrip("/"))
                except ModelUnusable:
                    continue

    def _read_manifest(self, sha256: str) -> tuple[StoredModel, bytes]:
        content = self._read(sha256, MANIFEST)
        stored = parse_manifest(content, f"{self.uri(sha256)}{MANIFEST}")
        if stored.sha256 != sha256:
            raise ModelUnusable(f"{self.uri(sha256)}{MANIFEST} is the manifest of {stored.sha256}")
        return stored, content

    def _read(self, sha256: str, name: str) -> bytes:
        """Read one file of a model; raise ModelUnusable if it is missing or we have no right to read it."""
        key = f"{prefix_of(sha256)}{name}"
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status not in (403, 404):
                raise
            why = "is not there" if status == 404 else "may not be read"
            raise ModelUnusable(f"s3://{self._bucket}/{key} {why}") from error
        if answer["ContentLength"] > LARGEST_FILE:
            raise ModelUnusable(f"s3://{self._bucket}/{key} has {answer['ContentLength']} bytes")
        with closing(answer["Body"]) as body:
            return body.read()


def prefix_of(sha256: str) -> str:
    """Return the prefix of a model's keys."""
    return f"{ROOT}{sha256}/{MODE}/"


def sha256_of(content: bytes) -> str:
    """Return the sha256 in hex."""
    return hashlib.sha256(content).hexdigest()


def parse_manifest(content: bytes, place: str) -> StoredModel:
    """Read a manifest; raise ModelUnusable if it is not one, or if a stack cannot serve its network."""
    try:
        stored = msgspec.json.decode(content, type=StoredModel)
    except ValueError as error:
        raise ModelUnusable(f"{place} is not a manifest: {error}") from error
    if stored.mode != MODE:
        raise ModelUnusable(f"{place} is of a network for the mode {stored.mode}; a stack takes {MODE} ones")
    if PurePosixPath(stored.file).name != stored.file:
        raise ModelUnusable(f"{place} names the file {stored.file[:100]!r}; it must lie beside the manifest")
    return stored
