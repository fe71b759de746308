"""Objects in S3: which version an image is, its bytes, and outputs that never go backwards."""

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from botocore.exceptions import ClientError

from cytomask.errors import ImageNotFound, ImageReplaced
from cytomask.images import Limits, require_size
from cytomask.requests import S3Object
from cytomask.truths.limits import require_coco_size

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

CONTENT_TYPES = {"png": "image/png", "json": "application/json"}
WRITE_ATTEMPTS = 10


class SupersededError(Exception):
    """A newer version of the image was uploaded; its outputs must not be replaced by ours."""


class Storage:
    """What the functions do with S3. Faults of S3 pass through as botocore's ClientError."""

    def __init__(self, s3: "S3Client") -> None:
        self._s3 = s3

    def find(self, wanted: S3Object) -> S3Object | None:
        """The object with the ETag and version that it has now; None where there is none.

        Raises:
            ClientError: on any answer but "not there"; a 403 is a matter of rights and may pass.
        """
        try:
            head = self._s3.head_object(Bucket=wanted.bucket, Key=wanted.key, **_version(wanted))
        except ClientError as error:
            # A version id that S3 cannot have given is answered by 400, and names nothing either.
            if _status(error) in (404, 405) or (_status(error) == 400 and wanted.version_id):
                return None
            raise
        version = head.get("VersionId")
        return S3Object(
            wanted.bucket,
            wanted.key,
            None if version == "null" else version,
            head["ETag"].strip('"'),
            head["LastModified"].isoformat(),
        )

    def read_image(self, image: S3Object, limits: Limits) -> bytes:
        """The bytes of exactly this version, within the limits.

        Raises:
            EmptyImage, ImageTooLarge: by its length, before the bytes are fetched.
            ImageNotFound, ImageReplaced: when it was deleted or overwritten since it was found.
        """
        answer = self._get(image)
        with answer["Body"] as body:
            require_size(answer["ContentLength"], image.uri, limits)
            return body.read()

    def read_coco(self, coco: S3Object) -> tuple[bytes, str]:
        """The bytes of exactly this version, and the prefix of the images that it is meant for.

        The prefix is the object's metadata `images`, percent-encoded as metadata has to be; empty means all.

        Raises:
            UnreadableCoco: by its length, before the bytes are fetched.
            ImageNotFound, ImageReplaced: as `read_image`.
        """
        answer = self._get(coco)
        with answer["Body"] as body:
            require_coco_size(answer["ContentLength"], coco.uri)
            return body.read(), unquote(answer["Metadata"].get("images", ""))

    def _get(self, wanted: S3Object) -> "GetObjectOutputTypeDef":
        try:
            return self._s3.get_object(
                Bucket=wanted.bucket, Key=wanted.key, IfMatch=f'"{wanted.etag}"', **_version(wanted)
            )
        except ClientError as error:
            if _status(error) == 404:
                raise ImageNotFound(
                    f"{wanted.uri} was deleted before it was read; upload it again"
                ) from error
            if _status(error) == 412:
                raise ImageReplaced(
                    f"{wanted.uri} was overwritten meanwhile; the newer upload is a job of its own"
                ) from error
            raise

    def read_output(self, bucket: str, key: str) -> bytes | None:
        """An output written earlier; None where there is none."""
        try:
            with self._s3.get_object(Bucket=bucket, Key=key)["Body"] as body:
                return body.read()
        except ClientError as error:
            if _status(error) == 404:
                return None
            raise

    def write(self, bucket: str, key: str, body: bytes, named_after: S3Object | None = None) -> S3Object:
        """Writes an output; where it is named after an image, only while that image is the newest.

        The order is what makes it safe: note what lies at the key, see that the image is still the
        newest, then write on the condition that nothing else was written in between (S3's conditional
        writes, docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).

        Raises:
            SupersededError: when a newer image has taken the name.
        """
        attempts = 0
        while True:
            attempts += 1
            condition = self._condition(bucket, key, named_after) if named_after else {}
            try:
                written = self._s3.put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=body,
                    ContentType=CONTENT_TYPES[key.rpartition(".")[2]],
                    **condition,
                )
                return S3Object(bucket, key, etag=written["ETag"].strip('"'))
            except ClientError as error:
                if not _overtaken(error) or attempts == WRITE_ATTEMPTS:
                    raise

    def remove(self, bucket: str, key: str, named_after: S3Object) -> None:
        """Removes an output that an earlier version of an image left; safe, and refused, as in `write`."""
        for attempt in range(WRITE_ATTEMPTS):
            condition = self._condition(bucket, key, named_after)
            if "IfMatch" not in condition:
                return
            try:
                self._s3.delete_object(Bucket=bucket, Key=key, **condition)
                return
            except ClientError as error:
                if not _overtaken(error) or attempt == WRITE_ATTEMPTS - 1:
                    raise

    def _condition(self, bucket: str, key: str, image: S3Object) -> dict[str, Any]:
        present = self.find(S3Object(bucket, key))
        newest = self.find(S3Object(image.bucket, image.key))
        if newest is not None and newest != image:
            raise SupersededError(image.uri)
        if present is None:
            return {"IfNoneMatch": "*"}
        if newest is None:
            raise SupersededError(image.uri)
        return {"IfMatch": f'"{present.etag}"'}


def _overtaken(error: ClientError) -> bool:
    """Whether a conditional write lost to another writer or to a deletion."""
    code = error.response.get("Error", {}).get("Code")
    return _status(error) in (409, 412) or code == "NoSuchKey"


def _version(wanted: S3Object) -> dict[str, Any]:
    return {"VersionId": wanted.version_id} if wanted.version_id else {}


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
