"""POST /seg_mask: one image, named or in the body, segmented while the caller waits."""

import base64
from http import HTTPStatus

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2

from cytomask.errors import NotAcceptable, UnsupportedMediaType
from cytomask.http import JSON, answer, media_type, prefers, problem_of, read_body, read_json, read_query
from cytomask.requests import SegmentRequest, complete, decode, parse_parameters, parse_request

from .invocation import Invocation, Waiting
from .segmenter import Segmenter

PNG = "image/png"
IMAGES = ("image/tiff", PNG, "image/jpeg", "application/octet-stream")


def answer_seg_mask(
    segmenter: Segmenter, event: APIGatewayProxyEventV2, invocation: Invocation
) -> Response[bytes | str]:
    """Answer with the result as JSON, or with a PNG if the caller prefers it; raise CytomaskError."""
    wants_png = prefers(event, PNG, JSON)
    if media_type(event) in IMAGES:
        return _segment_body(segmenter, event, wants_png, invocation)
    if media_type(event) != JSON:
        raise UnsupportedMediaType(
            f"the body has the media type {media_type(event)[:100] or '(none)'}; send {JSON} or one of "
            f"{', '.join(IMAGES)}"
        )
    request = parse_request(complete(decode(read_json(event)), read_query(event)))
    return _segment_stored(segmenter, request, wants_png, invocation)


def _segment_body(
    segmenter: Segmenter, event: APIGatewayProxyEventV2, wants_png: bool, invocation: Invocation
) -> Response[bytes | str]:
    parameters = parse_parameters(read_query(event))
    result, masks = segmenter.segment_content(read_body(event), parameters, wants_png, invocation)
    if wants_png:
        return Response(HTTPStatus.OK, PNG, masks[0])
    for page, mask in zip(result.pages, masks, strict=True):
        page.mask = f"data:{PNG};base64,{base64.b64encode(mask).decode()}"
    result.mask = result.pages[0].mask
    return answer(HTTPStatus.OK, result.shown())


def _segment_stored(
    segmenter: Segmenter, request: SegmentRequest, wants_png: bool, invocation: Invocation
) -> Response[bytes | str]:
    if wants_png and "mask" not in request.parameters.outputs:
        raise NotAcceptable("a PNG of the mask is wanted and `outputs` leaves it out; add it")
    segmenter.require_served(request)
    result = segmenter.segment(request, invocation, Waiting(wants_png))
    if result.error:
        return problem_of(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            result.error.code,
            result.error.message,
            job_id=result.job_id,
            result=result.result,
        )
    if wants_png:
        return Response(HTTPStatus.OK, PNG, segmenter.read_mask(result))
    return answer(HTTPStatus.OK, result.shown())
