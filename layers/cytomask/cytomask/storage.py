"""Read and write objects in S3: an image's version, its bytes, and outputs that only newer images replace.

Bodies are read in `closing`. In a `with` of their own, boto3 checks neither their length nor their checksum.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
from botocore.exceptions import ClientError, ParamValidationError

from cytomask.addresses import S3Object, parse_uri
from cytomask.errors import ImageLocked, ImageNotFound, ImageReplaced, InvalidRequest
from cytomask.images import Limits, require_size
from cytomask.output_names import PAGE_FILE, RESULT, output_key
from cytomask.records import Result
from cytomask.truths.limits import require_coco_size

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

CONTENT_TYPES = {
    "csv": "text/csv",
    "geojson": "application/geo+json",
    "json": "application/json",
    "png": "image/png",
    "tif": "image/tiff",
    "zip": "application/zip",
}
WRITE_ATTEMPTS = 10
# Stands for the ETag of an object that S3 refuses to describe: HEAD gets 400, and only GET says why.
UNDESCRIBED = "undescribed"
# Codes of status 400 that a retry can mend; all others are final.
PASSING_400 = {
    "BandwidthLimitExceeded",
    "ExpiredToken",
    "IncompleteBody",
    "InvalidToken",
    "KMS.DependencyTimeoutException",
    "KMS.KMSInternalException",
    "KMS.KeyUnavailableException",
    "KMS.ThrottlingException",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "TokenRefreshRequired",
}


class SupersededError(Exception):
    """The image is not, or no longer, the newest under its name, so its outputs must not be written there."""


class NameTakenError(Exception):
    """A name that should be new already has outputs."""


class Download:
    """An object that was looked up, and the open download of its bytes if S3 allows it."""

    def __init__(self, found: S3Object | None, answer: "GetObjectOutputTypeDef | None" = None) -> None:
        """Keep the object and the answer that `Storage.fetch` got."""
        self.object = found
        self._answer = answer

    @property
    def began(self) -> bool:
        """Whether the download has started."""
        return self._answer is not None

    def read(self, limits: Limits) -> bytes:
        """Read the bytes; raise EmptyImage or ImageTooLarge before that if the length is wrong."""
        if self._answer is None or self.object is None:
            raise TypeError("no download has started; use `Storage.read_image`")
        with closing(self._answer["Body"]) as body:
            require_size(self._answer["ContentLength"], self.object.uri, limits)
            return body.read()

    def close(self) -> None:
        """Close the download; unread bytes are lost."""
        if self._answer is not None:
            self._answer["Body"].close()


class Storage:
    """The functions' access to S3. Faults that a retry can mend pass through as ClientError."""

    def __init__(self, s3: "S3Client") -> None:
        self._s3 = s3

    def find(self, wanted: S3Object) -> S3Object | None:
        """Look up an object: return it with its current ETag and version, or None if it does not exist.

        Raises:
            InvalidRequest: the key is invalid in S3.
            ClientError: any other error; a 403 says what is missing, and may pass once somebody grants it.
        """
        try:
            head = self._s3.head_object(Bucket=wanted.bucket, Key=wanted.key, **_version(wanted))
        except ParamValidationError as error:
            raise InvalidRequest(
                f"S3 cannot hold an object called {wanted.uri[:300]}; correct the address"
            ) from error
        except ClientError as error:
            if _status(error) in (404, 405):
                return None
            if _status(error) in (400, 403) and _code(error) not in PASSING_400:
                return self._find_by_get(wanted)
            raise
        return _found(wanted, head)

    def fetch(self, wanted: S3Object) -> Download:
        """Look up an object as `find` does, and start its download with the same call.

        Raises:
            InvalidRequest, ClientError: as `find`.
        """
        try:
            answer = self._s3.get_object(Bucket=wanted.bucket, Key=wanted.key, **_version(wanted))
        except (ParamValidationError, ClientError):
            return Download(self.find(wanted))  # `find` tells a missing object from other errors
        return Download(_found(wanted, answer), answer)

    def _find_by_get(self, wanted: S3Object) -> S3Object | None:
        """Look up an object that S3 refuses to describe, with GET: unlike HEAD, its answer says why."""
        try:
            answer = self._s3.get_object(Bucket=wanted.bucket, Key=wanted.key, **_version(wanted))
        except ClientError as error:
            # S3 answers 400 to a version id that it never issues; no object has it.
            if _status(error) in (404, 405) or (wanted.version_id and _code(error) == "InvalidArgument"):
                return None
            if _locked(error):
                return replace(wanted, etag=UNDESCRIBED, uploaded_at=UNDESCRIBED)
            raise
        answer["Body"].close()
        return _found(wanted, answer)

    def is_newest(self, image: S3Object) -> bool:
        """Tell whether the key still holds this image; an image that was not found means an empty key."""
        newest = self.find(S3Object(image.bucket, image.key))
        if newest and newest.etag == UNDESCRIBED:  # nor does S3 tell its version
            return image.etag == UNDESCRIBED
        return newest == (image if image.was_found else None)

    def read_image(self, image: S3Object, limits: Limits) -> bytes:
        """Read the bytes of exactly this version, within the limits.

        Raises:
            EmptyImage, ImageTooLarge: its length is wrong; raised before the bytes are read.
            ImageNotFound, ImageReplaced: it was deleted or overwritten since it was found.
            ImageLocked: S3 refuses its bytes, and a retry cannot help.
        """
        answer = self._get(image)
        with closing(answer["Body"]) as body:
            require_size(answer["ContentLength"], image.uri, limits)
            return body.read()

    def read_coco(self, coco: S3Object) -> tuple[bytes, str]:
        """Read the bytes of exactly this version, and the prefix of the images that it is meant for.

        The prefix is the object's metadata `images`, percent-encoded because metadata allows only ASCII;
        empty means all images.

        Raises:
            UnreadableCoco: it is too long; raised before the bytes are read.
            ImageNotFound, ImageReplaced, ImageLocked: as `read_image`.
        """
        answer = self._get(coco)
        with closing(answer["Body"]) as body:
            require_coco_size(answer["ContentLength"], coco.uri)
            return body.read(), unquote(answer["Metadata"].get("images", ""))

    def _get(self, wanted: S3Object) -> "GetObjectOutputTypeDef":
        condition: dict[str, Any] = {} if wanted.etag == UNDESCRIBED else {"IfMatch": f'"{wanted.etag}"'}
        try:
            return self._s3.get_object(Bucket=wanted.bucket, Key=wanted.key, **condition, **_version(wanted))
        except ClientError as error:
            if _status(error) == 404:
                raise ImageNotFound(
                    f"{wanted.uri} was deleted before it was read; upload it again"
                ) from error
            if _status(error) == 412:
                raise ImageReplaced(
                    f"{wanted.uri} was overwritten meanwhile; the newer upload is a job of its own"
                ) from error
            if reason := _locked(error):
                raise ImageLocked(f"{wanted.uri} {reason}") from error
            raise

    def read_output(self, bucket: str, key: str) -> bytes | None:
        """Read an output; None if there is none."""
        try:
            with closing(self._s3.get_object(Bucket=bucket, Key=key)["Body"]) as body:
                return body.read()
        except ClientError as error:
            if _status(error) == 404:
                return None
            raise

    def read_result(self, uri: str) -> Result | None:
        """Read the result at an address; None if there is none."""
        place = parse_uri(uri, "result")
        stored = self.read_output(place.bucket, place.key)
        try:
            return msgspec.json.decode(stored, type=Result) if stored else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def whole_result(self, bucket: str, prefix: str, job_id: str) -> Result | None:
        """Read a job's result under a prefix; None if it or one of its outputs is gone or another job's."""
        result = self.read_result(S3Object(bucket, output_key(prefix, RESULT)).uri)
        if result is None or result.job_id != job_id:
            return None
        written = {uri: etag for page in result.pages for uri, etag in page.outputs().items()}
        lying = self.outputs(bucket, prefix)
        lying.pop(output_key(prefix, RESULT), None)
        return result if {S3Object(bucket, key).uri: etag for key, etag in lying.items()} == written else None

    def outputs(self, bucket: str, prefix: str) -> dict[str, str]:
        """List a job's result and pictures under a prefix, as key -> ETag.

        Other images' keys may begin with the same prefix (`a.tif` and `a.tif.png`). If there are too many for
        one answer of S3, look up the few names that a job can write one by one.
        """
        try:
            answer = self._s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}.")
        except ClientError as error:
            if _status(error) == 404:
                return {}  # the bucket does not exist
            raise
        found = {each["Key"]: each["ETag"].strip('"') for each in answer.get("Contents", [])}
        if answer.get("IsTruncated"):
            found = self._pages(bucket, prefix) | self._single(bucket, prefix)
        return {key: etag for key, etag in found.items() if _is_output(key.removeprefix(prefix))}

    def _pages(self, bucket: str, prefix: str) -> dict[str, str]:
        """List `<prefix>.p0000…` to `<prefix>.p9999…`."""
        found: dict[str, str] = {}
        after, end = f"{prefix}.p", f"{prefix}.p:"  # the colon follows the digits
        while after < end:
            answer = self._s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}.p", StartAfter=after)
            found |= {each["Key"]: each["ETag"].strip('"') for each in answer.get("Contents", [])}
            if not answer.get("IsTruncated"):
                break
            after = answer["Contents"][-1]["Key"]
        return found

    def _single(self, bucket: str, prefix: str) -> dict[str, str]:
        names = [f"{prefix}.{kind}" for kind in (RESULT, "mask.png", "probability.png", "overlay.png")]
        found = [self.find(S3Object(bucket, name)) for name in names]
        return {each.key: each.version for each in found if each}

    def write(self, bucket: str, key: str, body: bytes) -> S3Object:
        """Write an output, replacing any earlier one."""
        return self._put(S3Object(bucket, key), body, {})

    def write_named(
        self, place: S3Object, body: bytes, named_after: S3Object, *, new: bool = False, look: bool = True
    ) -> S3Object:
        """Write an output under an image's name, only while that image is the newest.

        The order makes this safe: check that the image is still the newest, then write on the condition that
        the key is free. If it is not, note the object there, check the image again, and write on the
        condition that the key still holds that object (S3's conditional writes,
        docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).

        Args:
            place: bucket and key of the output.
            body: the bytes to write.
            named_after: the image.
            new: whether the name should have no outputs yet.
            look: whether to check the image before the first attempt.

        Raises:
            SupersededError: a newer image has taken the name.
            NameTakenError: a name that should be new has outputs.
        """
        condition: dict[str, Any] = {"IfNoneMatch": "*"}
        if look and not self.is_newest(named_after):
            raise SupersededError(named_after.uri)
        for _ in range(WRITE_ATTEMPTS - 1):
            try:
                return self._put(place, body, condition)
            except ClientError as error:
                if not _overtaken(error):
                    raise
            condition = self._condition(place, named_after)
            if new and "IfMatch" in condition:
                raise NameTakenError(named_after.uri)
        return self._put(place, body, condition)

    def _put(self, place: S3Object, body: bytes, condition: Mapping[str, Any]) -> S3Object:
        written = self._s3.put_object(
            Bucket=place.bucket,
            Key=place.key,
            Body=body,
            ContentType=CONTENT_TYPES[place.key.rpartition(".")[2]],
            **condition,
        )
        return S3Object(place.bucket, place.key, etag=written["ETag"].strip('"'))

    def clear(self, bucket: str, prefix: str, named_after: S3Object) -> bool:
        """Remove all outputs under an image's name, only while that image is the newest.

        Returns:
            Whether there were any outputs.

        Raises:
            SupersededError: a newer image has taken the name.
        """
        for attempt in range(WRITE_ATTEMPTS):
            lying = self.outputs(bucket, prefix)
            if not lying:
                break
            if not self.is_newest(named_after):
                raise SupersededError(named_after.uri)
            for key, etag in lying.items():
                try:
                    self._s3.delete_object(Bucket=bucket, Key=key, IfMatch=f'"{etag}"')
                except ClientError as error:
                    if not _overtaken(error) or attempt == WRITE_ATTEMPTS - 1:
                        raise
        return attempt > 0

    def _condition(self, place: S3Object, image: S3Object) -> dict[str, Any]:
        present = self.find(S3Object(place.bucket, place.key))
        if not self.is_newest(image):
            raise SupersededError(image.uri)
        return {"IfMatch": f'"{present.etag}"'} if present else {"IfNoneMatch": "*"}


def _found(wanted: S3Object, answer: Mapping[str, Any]) -> S3Object:
    version = answer.get("VersionId")
    return S3Object(
        wanted.bucket,
        wanted.key,
        None if version == "null" else version,
        answer["ETag"].strip('"'),
        answer["LastModified"].isoformat(),
    )


def _is_output(suffix: str) -> bool:
    return suffix == f".{RESULT}" or PAGE_FILE.fullmatch(suffix) is not None


def _overtaken(error: ClientError) -> bool:
    """Tell whether a conditional write lost to another writer or to a deletion."""
    return _status(error) in (409, 412) or _code(error) == "NoSuchKey"


def _locked(error: ClientError) -> str | None:
    """Say why S3 refuses an object's bytes for good and what to do; None if a retry may help."""
    code = _code(error)
    if code == "InvalidObjectState":
        return "is archived (S3 Glacier); restore it, then send it again"
    if code.startswith("KMS.") and code not in PASSING_400:
        return f"is encrypted with a KMS key that cannot be used ({code}); enable the key, then send it again"
    if _status(error) != 400 or code in PASSING_400:
        return None
    said = error.response.get("Error", {}).get("Message", "")
    if "Server Side Encryption" in said or "SSE" in said or code == "InvalidRequest":
        return (
            "is encrypted with a key that its uploader kept (SSE-C); upload it with the bucket's own "
            f"encryption (S3 says {code}: {said[:200]})"
        )
    return f"cannot be read: S3 says {code}: {said[:200]}; correct its address or upload it again"


def _version(wanted: S3Object) -> dict[str, Any]:
    return {"VersionId": wanted.version_id} if wanted.version_id else {}


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
