"""An image becomes a mask, a result, a row and log lines."""

import io
import itertools
import json
import zipfile
from collections.abc import Callable
from typing import Any

import boto3
import numpy as np
import pytest
import tifffile
from factories import HEIGHT, INPUT, OUTPUT, TABLE, WIDTH, page, request, s3_event, stack_of, tiff
from functions_on_moto import SegmentStack

from cytomask.leads import Leads
from cytomask.model.predictor import Mode, Predictor
from cytomask.regions import find_regions
from cytomask.samples.fields import blur, phase_contrast_field
from cytomask.table import Table

KEY = "plate 1/A172_Phase_C7_1_00d00h00m_1.tif"


def test_an_upload_becomes_a_mask_beside_a_result(stack: SegmentStack) -> None:
    stack.segment(KEY, tiff())
    assert stack.outputs() == {f"{KEY}.mask.png", f"{KEY}.result.json"}
    assert stack.mask(f"{KEY}.mask.png").shape == (HEIGHT, WIDTH)


def test_the_mask_equals_the_networks_output(stack: SegmentStack, predictor: Predictor) -> None:
    stack.segment(KEY, tiff())
    expected = predictor.predict(page()).mask
    assert np.array_equal(stack.mask(f"{KEY}.mask.png"), expected * np.uint8(255))


def test_the_result_records_how_the_mask_was_made(stack: SegmentStack, predictor: Predictor) -> None:
    result = stack.segment(KEY, tiff())
    mask = stack.mask(f"{KEY}.mask.png")
    etag = stack.s3.head_object(Bucket=INPUT, Key=KEY)["ETag"].strip('"')
    manifest = predictor.manifests["native"]
    assert result == stack.result(f"{KEY}.result.json")
    assert result["status"] == "SUCCEEDED"
    assert result["image"] | {"uploaded_at": None} == {
        "uri": f"s3://{INPUT}/{KEY}",
        "bucket": INPUT,
        "key": KEY,
        "version_id": None,
        "etag": etag,
        "uploaded_at": None,
    }
    assert result["model"] == {
        "name": manifest.name,
        "sha256": manifest.sha256,
        "training_data_licence": manifest.licence,
    }
    assert result["parameters"] == {
        "threshold": manifest.threshold,
        "mode": "native",
        "pages": "all",
        "channel": None,
        "outputs": ["mask"],
        "min_size_px": None,
        "min_size_um2": None,
        "fill_holes": False,
        "pixel_size_um": None,
    }
    assert result["normalisation"] == manifest.normalisation
    assert result["group"] == "A172"
    assert result["confluence"] == pytest.approx(np.mean(mask == 255))
    assert result["mask"] == f"s3://{OUTPUT}/{KEY}.mask.png"
    assert result["pages"] == [
        {
            "page": 0,
            "height": HEIGHT,
            "width": WIDTH,
            "dtype": "uint16",
            "orientation": 1,
            "turned": False,
            "confluence": result["confluence"],
            "confluence_low": result["confluence_low"],
            "confluence_high": result["confluence_high"],
            "tiles": {"count": 1, "tile": 288, "overlap": 28},
            "mask": result["mask"],
            "mask_etag": stack.s3.head_object(Bucket=OUTPUT, Key=f"{KEY}.mask.png")["ETag"].strip('"'),
        }
    ]
    assert 0 < result["confluence_low"] < result["confluence"] < result["confluence_high"] < 1
    assert {"read", "decode", "infer", "encode", "write", "total"} == result["timings_ms"].keys()
    # If another test cached this page's prediction, `infer` is rounded to 0.
    assert result["timings_ms"]["total"] >= result["timings_ms"]["write"] > 0
    gigabyte_seconds = result["timings_ms"]["total"] / 1000 * 3008 / 1024
    assert result["estimated_cost_usd"] == pytest.approx(
        gigabyte_seconds * 0.0000166667 + 0.0000002, abs=1e-9
    )


def test_a_blurred_image_is_flagged_in_result_row_and_log(stack: SegmentStack, log_lines: Any) -> None:
    field = phase_contrast_field(3, 240, 320).pixels
    blurred = blur(field.astype(np.float32), 4).astype(np.uint16)
    result = stack.segment(KEY, tiff(blurred))
    flags = {flag["name"]: flag["value"] for flag in result["quality"]}
    assert "OUT_OF_FOCUS" in flags
    assert flags["OUT_OF_FOCUS"] < 0.5
    assert result["pages"][0]["quality"] == result["quality"]
    row = stack.row()
    assert set(row["quality"]) == set(flags)
    assert {name: float(value) for name, value in row["quality_values"].items()} == flags
    assert float(row["confluence_low"]) == result["confluence_low"]
    (line,) = log_lines("mask_written")
    assert (line["quality"], line["flagged_pages"]) == (flags, 1)


def test_only_the_first_invocation_is_a_cold_start(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack.app, "invocations", itertools.count())
    assert stack.segment("first.tif", tiff())["cold_start"] is True
    assert stack.segment("second.tif", tiff())["cold_start"] is False


def test_the_row_records_the_jobs_outcome(stack: SegmentStack, predictor: Predictor) -> None:
    result = stack.segment(KEY, tiff())
    row = stack.row()
    expected = {
        "job_id": result["job_id"],
        "record": "JOB",
        "status": "SUCCEEDED",
        "image": f"s3://{INPUT}/{KEY}",
        "mask": f"s3://{OUTPUT}/{KEY}.mask.png",
        "result": f"s3://{OUTPUT}/{KEY}.result.json",
        "group": "A172",
        "attempt": 1,
        "pages": 1,
        "model_sha256": predictor.manifests["native"].sha256,
    }
    assert {name: row[name] for name in expected} == expected
    assert float(row["confluence"]) == result["confluence"]
    assert float(row["milliseconds"]) == result["timings_ms"]["total"]
    assert row["made_at"].endswith("Z")
    assert not {"lease_until", "owner", "error", "error_code"} & row.keys()


def test_jobs_are_found_by_status_and_by_group(stack: SegmentStack) -> None:
    job_id = stack.segment(KEY, tiff())["job_id"]
    leads = Leads(Table(boto3.client("dynamodb"), TABLE))
    searches: list[Any] = [{"status": "SUCCEEDED"}, {"group": "A172"}, {}]
    for search in searches:
        assert [row["job_id"] for row in leads.jobs(**search)] == [job_id]
    assert list(leads.jobs(group="HeLa")) == list(leads.jobs(status="FAILED")) == []
    assert stack.indexed("by_status", "status", "SUCCEEDED") == []
    assert stack.indexed("by_group", "group", "A172") == []


def test_a_flagged_job_is_listed_by_the_indexes(stack: SegmentStack) -> None:
    result = stack.segment(KEY, tiff(np.full((200, 200), 7, np.uint8)))
    assert result["quality"]
    (row,) = stack.indexed("by_status", "status", "SUCCEEDED")
    assert row["job_id"] == result["job_id"]
    leads = Leads(Table(boto3.client("dynamodb"), TABLE))
    assert [row["job_id"] for row in leads.jobs(status="SUCCEEDED")] == [result["job_id"]]


def test_a_mask_written_is_logged_as_an_event_with_fields(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    result = stack.segment(KEY, tiff())
    (line,) = log_lines("mask_written")
    expected = {
        "level": "INFO",
        "service": "segment",
        "function_request_id": "invocation-1",
        "job_id": result["job_id"],
        "image": f"s3://{INPUT}/{KEY}",
        "mask": f"s3://{OUTPUT}/{KEY}.mask.png",
        "model": result["model"]["name"],
        "confluence": result["confluence"],
        "timings_ms": result["timings_ms"],
    }
    assert {name: line[name] for name in expected} == expected


def test_every_page_of_a_stack_gets_a_mask_with_its_number(stack: SegmentStack) -> None:
    result = stack.segment("stack.tif", stack_of(3))
    assert stack.outputs() == {
        "stack.tif.p0000.mask.png",
        "stack.tif.p0001.mask.png",
        "stack.tif.p0002.mask.png",
        "stack.tif.result.json",
    }
    masks = [stack.mask(f"stack.tif.p000{number}.mask.png") for number in range(3)]
    assert [page["page"] for page in result["pages"]] == [0, 1, 2]
    assert result["confluence"] == pytest.approx(np.mean(np.stack(masks) == 255))
    assert stack.row()["pages"] == 3


def test_one_page_of_a_stack_keeps_its_number(stack: SegmentStack) -> None:
    stack.upload("stack.tif", stack_of(3))
    (result,) = stack.handle(request("stack.tif", pages="2"))
    job = f"jobs/{result['job_id']}/stack.tif"
    assert stack.outputs() == {f"{job}.p0002.mask.png", f"{job}.result.json"}


def test_a_request_with_parameters_writes_under_its_job(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff())
    (result,) = stack.handle(request(KEY, threshold=0.9))
    job = f"jobs/{result['job_id']}/{KEY}"
    assert stack.outputs() == {f"{job}.mask.png", f"{job}.result.json"}
    assert result["parameters"]["threshold"] == 0.9
    assert stack.row()["mask"] == f"s3://{OUTPUT}/{job}.mask.png"


def test_a_higher_threshold_finds_no_more_cells(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff())
    masks = []
    for threshold in (0.0, 0.3, 0.7, 1.0):
        (result,) = stack.handle(request(KEY, threshold=threshold))
        masks.append(result["confluence"])
    assert masks == sorted(masks, reverse=True)
    assert (masks[0], masks[-1]) == (1.0, 0.0)


def test_the_default_threshold_spelled_out_is_the_default_request(
    stack: SegmentStack, predictor: Predictor
) -> None:
    stack.segment(KEY, tiff())
    (repeated,) = stack.handle(request(KEY, threshold=predictor.manifests["native"].threshold))
    assert repeated["job_id"] == stack.row()["job_id"]
    assert stack.outputs() == {f"{KEY}.mask.png", f"{KEY}.result.json"}
    assert stack.predictor.pages == 1


def test_every_requested_output_is_written(stack: SegmentStack, predictor: Predictor) -> None:
    stack.upload(KEY, tiff())
    (result,) = stack.handle(request(KEY, outputs=["overlay", "probability", "mask"]))
    job = f"jobs/{result['job_id']}/{KEY}"
    assert stack.outputs() == {
        f"{job}.{kind}" for kind in ("mask.png", "probability.png", "overlay.png", "result.json")
    }
    assert stack.mask(f"{job}.mask.png").shape == (HEIGHT, WIDTH)
    probability = stack.pixels(f"{job}.probability.png")
    assert (probability.dtype, probability.shape) == (np.dtype(np.uint16), (HEIGHT, WIDTH))
    expected = predictor.predict(page()).probability
    assert np.abs(probability / 65535 - expected).max() < 1e-4
    assert stack.pixels(f"{job}.overlay.png").shape == (HEIGHT, WIDTH, 3)
    assert {"mask", "overlay", "probability"} < result["pages"][0].keys()


def test_outputs_without_a_mask_leave_nothing_to_score(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff())
    (result,) = stack.handle(request(KEY, outputs=["overlay"]))
    assert (result["status"], result["mask"]) == ("SUCCEEDED", None)
    assert stack.rows("EVAL") == []


@pytest.mark.parametrize("mode", ["native", "resize"])
def test_each_mode_names_the_network_that_made_its_mask(
    stack: SegmentStack, predictor: Predictor, mode: Mode
) -> None:
    stack.upload(KEY, tiff())
    (result,) = stack.handle(request(KEY, mode=mode))
    manifest = predictor.manifests[mode]
    assert (result["model"]["name"], result["model"]["sha256"]) == (manifest.name, manifest.sha256)
    assert result["parameters"]["threshold"] == manifest.threshold
    assert stack.row()["model_sha256"] == manifest.sha256


def test_resize_mode_has_no_tiles_and_a_mask_of_the_full_size(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff())
    (result,) = stack.handle(request(KEY, mode="resize"))
    assert result["pages"][0]["tiles"] is None
    assert stack.mask(f"jobs/{result['job_id']}/{KEY}.mask.png").shape == (HEIGHT, WIDTH)


def test_the_result_counts_the_tiles_of_a_large_page(stack: SegmentStack) -> None:
    result = stack.segment(KEY, tiff(np.tile(page(), (5, 4))))  # 320 x 320
    assert result["pages"][0]["tiles"]["count"] == 4
    assert stack.mask(f"{KEY}.mask.png").shape == (5 * HEIGHT, 4 * WIDTH)


def test_a_named_channel_is_segmented_like_a_single_page(stack: SegmentStack, predictor: Predictor) -> None:
    channels = np.stack([page(seed) for seed in range(5)])  # 5, 64, 80
    stack.upload("five.ome.tif", tiff(channels, metadata={"axes": "CYX"}, ome=True))
    (result,) = stack.handle(request("five.ome.tif", channel=3))
    mask = stack.mask(f"jobs/{result['job_id']}/five.ome.tif.mask.png")
    assert np.array_equal(mask == 255, predictor.predict(page(3)).mask)


def test_bit_depth_does_not_change_the_mask(stack: SegmentStack) -> None:
    eight = (page() >> 8).astype(np.uint8)
    stack.segment("8.tif", tiff(eight))
    stack.segment("12.tif", tiff(eight.astype(np.uint16) * 16))
    stack.segment("16.tif", tiff(eight.astype(np.uint16) * 257))
    eight_bits = stack.mask("8.tif.mask.png")
    assert np.array_equal(eight_bits, stack.mask("12.tif.mask.png"))
    assert np.array_equal(eight_bits, stack.mask("16.tif.mask.png"))


def test_a_constant_image_has_no_cells(stack: SegmentStack) -> None:
    result = stack.segment("flat.tif", tiff(np.full((HEIGHT, WIDTH), 700, np.uint16)))
    assert (result["status"], result["confluence"]) == ("SUCCEEDED", 0.0)
    assert not stack.mask("flat.tif.mask.png").any()


def test_a_repeat_returns_the_same_result(stack: SegmentStack) -> None:
    first = stack.segment(KEY, tiff())
    (repeated,) = stack.handle(s3_event(KEY))
    assert repeated == first


def test_the_process_refuses_an_invalid_environment(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBS_TABLE")
    with pytest.raises(ValueError, match="JOBS_TABLE"):
        stack.app.connect()


def test_all_outputs_show_the_cells_of_the_mask(stack: SegmentStack) -> None:
    outputs = ["mask", "probability", "overlay", "rois", "geojson", "labels", "ome"]
    stack.upload(KEY, tiff(imagej=True, resolution=(2.0, 2.0), metadata={"unit": "um"}))
    stack.deliver(request(KEY, outputs=outputs))
    (row,) = stack.rows()
    prefix = f"jobs/{row['job_id']}/{KEY}"
    endings = [
        "mask.png",
        "probability.png",
        "overlay.png",
        "rois.zip",
        "geojson",
        "labels.tif",
        "labels.csv",
    ]
    assert stack.outputs() == {f"{prefix}.{ending}" for ending in (*endings, "mask.ome.tif", "result.json")}
    cells = stack.mask(f"{prefix}.mask.png") > 0
    labels = tifffile.imread(io.BytesIO(stack.output(f"{prefix}.labels.tif")))
    assert np.array_equal(labels > 0, cells)
    assert np.array_equal(tifffile.imread(io.BytesIO(stack.output(f"{prefix}.mask.ome.tif"))) > 0, cells)
    features = json.loads(stack.output(f"{prefix}.geojson"))["features"]
    areas = [feature["properties"]["measurements"] for feature in features]
    assert sum(each["Area px^2"] for each in areas) == cells.sum()
    assert sum(each["Area µm^2"] for each in areas) == pytest.approx(cells.sum() / 4)
    table = stack.output(f"{prefix}.labels.csv").decode().splitlines()
    assert len(table) == len(features) + 1 == labels.max() + 1
    with zipfile.ZipFile(io.BytesIO(stack.output(f"{prefix}.rois.zip"))) as rois:
        assert len(rois.namelist()) == len(features)
    (page_result,) = stack.result(f"{prefix}.result.json")["pages"]
    assert page_result["pixel_size_um"] == [0.5, 0.5]
    assert page_result["cell_area_mm2"] == pytest.approx(cells.sum() / 4e6)
    ome = tifffile.TiffFile(io.BytesIO(stack.output(f"{prefix}.mask.ome.tif"))).ome_metadata
    assert 'PhysicalSizeX="0.5"' in str(ome)
    assert page_result["labels_table"].endswith(".labels.csv")
    assert float(row["cell_area_mm2"]) == page_result["cell_area_mm2"]


def test_missing_exports_are_made_again(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff())
    stack.deliver(request(KEY, outputs=["geojson"]))
    (row,) = stack.rows()
    key = f"jobs/{row['job_id']}/{KEY}.geojson"
    stack.s3.delete_object(Bucket=OUTPUT, Key=key)
    stack.deliver(request(KEY, outputs=["geojson"]))
    assert stack.output(key).startswith(b'{"type":"FeatureCollection"')


def test_a_cleaned_mask_decides_every_number(stack: SegmentStack, predictor: Predictor) -> None:
    stack.upload(KEY, tiff())
    plain = predictor.predict(page()).mask
    sizes = sorted(find_regions(plain).filled_areas.tolist())
    least = sizes[-1]  # only the largest stays
    asked = {
        "min_size_um2": least / 4,
        "pixel_size_um": 0.5,
        "fill_holes": True,
        "outputs": ["mask", "labels"],
    }
    (result,) = stack.handle(request(KEY, **asked))
    prefix = f"jobs/{result['job_id']}/{KEY}"
    mask = stack.mask(f"{prefix}.mask.png") > 0
    assert np.array_equal(mask, find_regions(plain).mask(min_area=least, fill_holes=True))
    assert 0 < mask.sum() < plain.sum()
    assert result["confluence"] == mask.mean()
    assert result["confluence_low"] <= result["confluence"] <= result["confluence_high"]
    assert result["pages"][0]["cell_area_mm2"] == pytest.approx(mask.sum() / 4e6)
    assert result["parameters"]["min_size_um2"] == least / 4
    assert result["parameters"]["fill_holes"] is True
    assert result["parameters"]["pixel_size_um"] == [0.5, 0.5]
    assert f"{least}," in stack.output(f"{prefix}.labels.csv").decode()
    assert result["timings_ms"]["clean"] > 0


def test_an_area_in_micrometres_of_unknown_pixels_rejects_the_image(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff())
    (result,) = stack.handle(request(KEY, min_size_um2=20))
    assert result["status"] == "REJECTED"
    assert result["error"]["code"] == "PIXEL_SIZE_UNKNOWN"
    assert "give `pixel_size_um` too, or `min_size_px`" in result["error"]["message"]


def test_the_files_pixel_size_is_used_without_one_in_the_request(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff(imagej=True, resolution=(2.0, 2.0), metadata={"unit": "um"}))
    (result,) = stack.handle(request(KEY, min_size_um2=1e6))
    assert (result["status"], result["confluence"]) == ("SUCCEEDED", 0.0)
