"""A request is read completely, refused by the name of its field, or forwarded unchanged."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.addresses import S3Object
from cytomask.arrivals import parse_body
from cytomask.errors import InvalidRequest, NoSuchPage
from cytomask.requests import Parameters, SegmentRequest, message_of, parse_parameters, parse_request

BUCKET = "cytomask-input"
unicode = st.characters(codec="utf-8")
keys = st.text(unicode, min_size=1, max_size=60).map(lambda name: f"{name}.tif")


def test_a_request_is_read_whole() -> None:
    request = parse_request(
        {
            "image": "s3://bucket/a b.tif",
            "ground_truth": "s3://truths/a.png",
            "threshold": 1,
            "mode": "resize",
            "pages": "0-3",
            "channel": 2,
            "outputs": ["overlay", "mask"],
            "group": "plate 7",
        }
    )
    assert request == SegmentRequest(
        S3Object("bucket", "a b.tif"),
        Parameters(1.0, "resize", "0-3", 2, ("mask", "overlay")),
        S3Object("truths", "a.png"),
        "plate 7",
    )


@pytest.mark.parametrize(
    ("given_pages", "pages"),
    [("all", "all"), (0, "0"), ("7", "7"), ("007", "7"), ("0-3", "0-3"), ("2-2", "2"), ("01-03", "1-3")],
)
def test_pages_have_one_spelling(given_pages: Any, pages: str) -> None:
    assert parse_request({"image": "s3://bucket/a", "pages": given_pages}).parameters.pages == pages


@pytest.mark.parametrize("pages", ["", "-1", "3-1", "1-", "all-1", "1,2", "a", 1.5, True, [0], "1234567"])
def test_pages_that_are_none_are_refused_by_name(pages: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"`pages`: .*it takes"):
        parse_request({"image": "s3://bucket/a", "pages": pages})


@pytest.mark.parametrize("bucket", ["b", "Bucket", "-bucket", "bucket-", "a" * 64, "buck_et", "bück"])
def test_a_name_that_no_bucket_can_have_is_refused(bucket: str) -> None:
    with pytest.raises(InvalidRequest, match="`image`"):
        parse_request({"image": f"s3://{bucket}/key"})


@pytest.mark.parametrize(
    ("pages", "count", "selected"), [("all", 3, [0, 1, 2]), ("0", 1, [0]), ("2", 3, [2]), ("1-2", 3, [1, 2])]
)
def test_the_pages_field_selects_pages(pages: str, count: int, selected: list[int]) -> None:
    assert Parameters(pages=pages).selected(count, "a.tif") == selected


@pytest.mark.parametrize(("pages", "count"), [("1", 1), ("0-3", 3), ("5-6", 2)])
def test_a_page_past_the_end_is_refused_by_number(pages: str, count: int) -> None:
    last = pages.rpartition("-")[2]
    with pytest.raises(NoSuchPage, match=f"a.tif has no page {last}: it has {count}"):
        Parameters(pages=pages).selected(count, "a.tif")


@pytest.mark.parametrize(
    ("key", "label", "group"),
    [
        ("plate 1/A172_Phase_C7_1_00d00h00m_1.tif", None, "A172"),
        ("A172_Phase_/image.tif", None, ""),
        ("image.tif", None, ""),
        ("A172_Phase_C7_1.tif", "mine", "mine"),
        ("A172_Phase_C7_1.tif", "", ""),
    ],
)
def test_the_group_is_the_label_or_the_cell_line(key: str, label: str | None, group: str) -> None:
    assert SegmentRequest(S3Object(BUCKET, key), label=label).group == group


requests = st.builds(
    SegmentRequest,
    st.builds(S3Object, st.just(BUCKET), keys),
    st.builds(
        Parameters,
        st.none() | st.floats(0, 1),
        st.sampled_from(["native", "resize"]),
        st.sampled_from(["all", "0", "3-7"]),
        st.none() | st.integers(0, 999),
        st.sets(st.sampled_from(["mask", "overlay", "probability"]), min_size=1).map(sorted).map(tuple),
        min_size_px=st.none() | st.integers(1, 10**9),
        fill_holes=st.booleans(),
        pixel_size_um=st.none() | st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)),
    ),
    st.none() | st.builds(S3Object, st.just(BUCKET), keys),
    st.none() | st.text(unicode, max_size=30),
)


@given(requests)
def test_a_forwarded_request_arrives_unchanged_and_in_ascii(request: SegmentRequest) -> None:
    message = message_of(request)
    assert message.isascii()
    assert parse_body(message) == [request]


def test_parameters_are_read_from_text_alone() -> None:
    fields = {"threshold": "0.25", "mode": "resize", "pages": "0-3", "channel": "2"}
    assert parse_parameters(fields) == Parameters(0.25, "resize", "0-3", 2)
    assert parse_parameters({}) == Parameters()
    fields = {"min_size_um2": "12.5", "fill_holes": "true", "pixel_size_um": "0.65"}
    assert parse_parameters(fields) == Parameters(
        min_size_um2=12.5, fill_holes=True, pixel_size_um=(0.65, 0.65)
    )


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({"min_size_px": 0, "min_size_um2": 0, "fill_holes": False, "pixel_size_um": None}, Parameters()),
        ({"min_size_px": 50.0, "min_size_um2": 0}, Parameters(min_size_px=50)),
        ({"min_size_um2": 80}, Parameters(min_size_um2=80.0)),
        ({"pixel_size_um": 1}, Parameters(pixel_size_um=(1.0, 1.0))),
        ({"pixel_size_um": [0.65, 0.7]}, Parameters(pixel_size_um=(0.65, 0.7))),
    ],
)
def test_cleaning_parameters_have_one_spelling(fields: Any, parameters: Parameters) -> None:
    assert parse_request({"image": "s3://bucket/a"} | fields).parameters == parameters


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_size_px", -1),
        ("min_size_px", 1.5),
        ("min_size_px", "9"),
        ("min_size_px", True),
        ("min_size_um2", -0.1),
        ("min_size_um2", 2e9),
        ("fill_holes", 1),
        ("fill_holes", None),
        ("pixel_size_um", 0),
        ("pixel_size_um", 1001),
        ("pixel_size_um", [0.65]),
        ("pixel_size_um", [0.65, 0]),
        ("pixel_size_um", {"x": 1}),
    ],
)
def test_invalid_cleaning_parameters_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"`{field}`: .*it takes"):
        parse_request({"image": "s3://bucket/a", field: value})


def test_a_smallest_area_has_one_unit() -> None:
    with pytest.raises(InvalidRequest, match="`min_size_um2`: `min_size_px` is given too"):
        parse_request({"image": "s3://bucket/a", "min_size_px": 9, "min_size_um2": 9})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("threshold", "1.5"),
        ("threshold", "nan"),
        ("threshold", ""),
        ("channel", "-1"),
        ("channel", "null"),
        ("mode", "NATIVE"),
        ("pages", "3-1"),
        ("pages", "٣"),
        ("min_size_px", "2.5"),
        ("min_size_um2", "inf"),
        ("fill_holes", "yes"),
        ("pixel_size_um", "nan"),
        ("pixel_size_um", "0.65 um"),
    ],
)
def test_an_invalid_parameter_is_refused_by_its_name(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"`{name}`"):
        parse_parameters({name: text})
