"""Let the browser put images straight into the input bucket by presigned addresses, in parts if large."""

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from cytomask import images
from cytomask.addresses import LONGEST_KEY, S3Object, is_plate_map, is_sidecar, may_be_plate_map
from cytomask.storage import Storage
from cytomask.web.account import Account
from cytomask.web.answers import Refusal

WHOLE_BYTES = 32 * 2**20  # up to here one request is simpler, and as fast
PART_BYTES = 16 * 2**20
EXPIRES_SECONDS = 3600
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Uploads:
    """Signs and joins uploads into the input bucket."""

    def __init__(self, account: Account) -> None:
        """Sign with the account's rights; the browser gets addresses and never a credential."""
        self._s3 = account.s3
        self._bucket = account.input_bucket
        self._storage = Storage(account.s3)

    @property
    def origin(self) -> str:
        """Scheme and host of the bucket's presigned addresses, which the page may connect to."""
        url = urlsplit(self._sign("put_object", Key="x"))
        return f"{url.scheme}://{url.netloc}"

    def begin(self, key: str, size: int, replace: bool) -> dict[str, Any]:
        """Sign addresses to put an image or a plate map to; raise Refusal if it is neither, or exists."""
        require_key(key)
        require_image(key, size)
        self._require_free(key, replace)
        if size <= WHOLE_BYTES:
            return {"url": self._sign("put_object", Key=key), "plate_map": goes_as_map(key)}
        upload_id = self._s3.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
        parts = range(1, math.ceil(size / PART_BYTES) + 1)
        urls = [self._sign("upload_part", Key=key, UploadId=upload_id, PartNumber=part) for part in parts]
        return {"upload_id": upload_id, "part_bytes": PART_BYTES, "urls": urls}

    def complete(self, key: str, upload_id: str, etags: Sequence[str]) -> None:
        """Join the parts."""
        require_key(key)
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self._s3.complete_multipart_upload(
            Bucket=self._bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
        )

    def abort(self, key: str, upload_id: str) -> None:
        """Throw the parts away."""
        require_key(key)
        self._s3.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)

    async def receive(self, request: Request, key: str, replace: bool) -> None:
        """Take an image through the server, for a bucket that refuses the browser; raise as `begin` does."""
        require_key(key)
        await run_in_threadpool(self._require_free, key, replace)
        with tempfile.TemporaryFile() as file:
            size = 0
            async for part in request.stream():
                size += len(part)
                require_image(key, size)
                file.write(part)
            require_image(key, size)
            file.seek(0)
            await run_in_threadpool(self._s3.upload_fileobj, file, self._bucket, key)

    def _require_free(self, key: str, replace: bool) -> None:
        """Refuse the key of an image that is there, unless it may be replaced."""
        if not replace and self._storage.find(S3Object(self._bucket, key)):
            raise Refusal(
                HTTPStatus.CONFLICT, "IMAGE_EXISTS", f"{key} is in the bucket already; replace it or skip it"
            )

    def _sign(self, operation: str, **more: Any) -> str:
        parameters: Mapping[str, Any] = {"Bucket": self._bucket, **more}
        return self._s3.generate_presigned_url(operation, Params=parameters, ExpiresIn=EXPIRES_SECONDS)


def require_key(key: str) -> None:
    """Refuse a key that is empty, too long, or that could lead a program out of its folder."""
    parts = key.split("/")
    if not key or len(key.encode()) > LONGEST_KEY or CONTROL.search(key):
        raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_KEY", "the name is empty, too long or not text")
    if "" in parts or "." in parts or ".." in parts:
        raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_KEY", f"{key[:200]} leaves its folder; rename it")


def require_image(key: str, size: int) -> None:
    """Refuse a file that the stack would ignore or reject for its name or length alone."""
    if is_sidecar(key) and not goes_as_map(key):
        suffix = PurePosixPath(key).suffix.lower()
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY, "NO_IMAGE", f"{suffix} files are notes beside images, not images"
        )
    if size < 0 or size > images.LIMITS.file_bytes:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "IMAGE_TOO_LARGE",
            f"the limit is {images.LIMITS.file_bytes // 2**20} MiB; split the stack or compress it",
        )


def goes_as_map(key: str) -> bool:
    """Tell whether the stack reads a file as a plate map, as `cytomask upload` does."""
    return is_plate_map(key) or may_be_plate_map(key)
