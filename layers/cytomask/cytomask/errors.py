"""What can go wrong, by name. Each error says what, with which object, and what to do."""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


def code_of(error: "ClientError") -> str:
    """Return AWS's code of a refused call, such as NoSuchBucket; empty if the answer has none."""
    return str(error.response.get("Error", {}).get("Code") or "")


class CytomaskError(Exception):
    """Root of our errors; `code` goes into logs, job rows and results and never changes."""

    code: ClassVar[str]


class RejectedInput(CytomaskError):
    """The input's own fault: recorded once as REJECTED and never retried."""


class InvalidRequest(RejectedInput):
    """A message, an event or a body that is not a valid request."""

    code = "INVALID_REQUEST"


class ForeignBucket(InvalidRequest):
    """A message that names a bucket which the stack does not serve, or one of the stack's own outputs."""

    code = "FOREIGN_BUCKET"


class ImageNotFound(RejectedInput):
    """The object does not exist, or no longer."""

    code = "IMAGE_NOT_FOUND"


class ImageReplaced(RejectedInput):
    """Another upload took the object's place before it was read."""

    code = "IMAGE_REPLACED"


class ImageLocked(RejectedInput):
    """S3 keeps the object's bytes from us: archived, or encrypted with a key that we cannot use."""

    code = "IMAGE_LOCKED"


class EmptyImage(RejectedInput):
    """An object without bytes, or a page without pixels."""

    code = "EMPTY_IMAGE"


class UnreadableImage(RejectedInput):
    """A damaged image, or bytes that are not a supported image."""

    code = "UNREADABLE_IMAGE"


class ImageTooLarge(RejectedInput):
    """More bytes, pixels or pages than the limits allow."""

    code = "IMAGE_TOO_LARGE"


class AmbiguousAxes(RejectedInput):
    """Axes that do not tell which of them are rows and columns."""

    code = "AMBIGUOUS_AXES"


class AmbiguousChannels(RejectedInput):
    """Several channels and none named, or a named one that does not exist."""

    code = "AMBIGUOUS_CHANNELS"


class NoSuchPage(RejectedInput):
    """A requested page that the stack does not have."""

    code = "NO_SUCH_PAGE"


class PixelSizeUnknown(RejectedInput):
    """A size in micrometres for an image that does not say how large its pixels are."""

    code = "PIXEL_SIZE_UNKNOWN"


class NonFinitePixels(RejectedInput):
    """Pixels that are NaN or infinite."""

    code = "NON_FINITE_PIXELS"


class GroundTruthMismatch(RejectedInput):
    """A ground truth of another size, or of another number of pages, than the mask."""

    code = "GROUND_TRUTH_MISMATCH"


class UnreadableCoco(RejectedInput):
    """A file that is not a COCO file, is too large, or has annotations that cannot be drawn."""

    code = "UNREADABLE_COCO"


class InvalidPlateMap(RejectedInput):
    """A plate map that cannot be read, contradicts itself, or is another plate's."""

    code = "INVALID_PLATE_MAP"


class ImageNotNamed(RejectedInput):
    """A COCO file that does not name the image, or names several that it could be."""

    code = "IMAGE_NOT_NAMED"


class NoBackground(RejectedInput):
    """A ground truth in which no pixel is background, so that nothing says which pixels are cell."""

    code = "NO_BACKGROUND"


class NothingDrawn(RejectedInput):
    """A COCO file whose annotations of an image cover none of its pixels, or whose annotations got lost."""

    code = "NOTHING_DRAWN"


class MaskReplaced(RejectedInput):
    """A newer image's mask took the place of the one that was to be scored."""

    code = "MASK_REPLACED"


class RefusedCall(CytomaskError):
    """A fault of an HTTP request itself: answered, and recorded nowhere."""


class BodyTooLarge(RefusedCall):
    """A body of more bytes than a call may have."""

    code = "BODY_TOO_LARGE"


class UnsupportedMediaType(RefusedCall):
    """A body with a media type that the route does not take."""

    code = "UNSUPPORTED_MEDIA_TYPE"


class NotAcceptable(RefusedCall):
    """An answer that cannot be given in the requested form."""

    code = "NOT_ACCEPTABLE"


class NoSuchJob(RefusedCall):
    """A job id that the table does not have."""

    code = "NO_SUCH_JOB"


class NoSuchPlate(RefusedCall):
    """The name of a plate that no image belongs to."""

    code = "NO_SUCH_PLATE"


class NoSuchRoute(RefusedCall):
    """A method and path that no route has."""

    code = "NO_SUCH_ROUTE"


class PassingFault(CytomaskError):
    """A fault that a retry can mend: the message goes back to its queue."""


class JobHeld(PassingFault):
    """Another invocation is working on the same job."""

    code = "JOB_HELD"


class TimeShort(PassingFault):
    """The invocation has no time left for more work."""

    code = "TIME_SHORT"


class ModelUnusable(PassingFault):
    """A model that is missing, damaged, or made for another network than this code serves."""

    code = "MODEL_UNUSABLE"


class ServiceFault(PassingFault):
    """A service that we depend on failed."""

    code = "SERVICE_FAULT"


class TriesUsedUp(CytomaskError):
    """A message that failed so often that its queue gave it up; a redrive sends it again."""

    code = "TRIES_USED_UP"
