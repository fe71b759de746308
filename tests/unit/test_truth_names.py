"""Ground truths are matched with images by whole names, whichever tool wrote them."""

import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.cli.files import SUFFIXES
from cytomask.truths.names import (
    assign,
    base,
    clean,
    image_stems,
    listed,
    relative,
    shortest_stem,
    shortest_stems_of,
    truth_stems,
)

PART = st.text("abü é+%1.", min_size=1, max_size=4).filter(lambda part: part.strip(". ") != "")
PATH = st.lists(PART, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("images\\a.tif", "images/a.tif"),
        ("C:\\data\\p 1\\a.tif", "C:/data/p 1/a.tif"),
        ("plate%201/a%2Bb.tif", "plate 1/a+b.tif"),
        ("images%5Ca.tif", "images/a.tif"),
        ("u\u0308.tif", "ü.tif"),
        ("u%CC%88.tif", "ü.tif"),
        ("./images//a.tif", "images/a.tif"),
        ("../../media/upload/1/a.tif", "media/upload/1/a.tif"),
        ("x/../a.tif", "a.tif"),
        ("/images/a.tif", "images/a.tif"),
        ("s3://bucket/plate 1/a.tif", "bucket/plate 1/a.tif"),
        ("https://host/a.tif?X-Amz-Date=1", "host/a.tif"),
        ("http://host/data/local-files/?d=p%201/a.tif", "p 1/a.tif"),
        ("/data/local-files/?d=a.tif", "a.tif"),
        ("/data/local-files?x=1&d=p1%2Fa.tif&y=2", "p1/a.tif"),
        ("50%.tif", "50%.tif"),
        ("%ff.tif", "%ff.tif"),
        ("a+b.tif", "a+b.tif"),
        ("/", ""),
    ],
)
def test_a_name_has_one_form_whichever_tool_wrote_it(name: str, said: str) -> None:
    assert clean(name) == said
    assert base(name) == said.rpartition("/")[2]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_truth_is_found_for_an_image_of_every_suffix(suffix: str) -> None:
    assert "p/a" in image_stems(f"p/a{suffix}")
    assert truth_stems(f"p/a_mask{suffix}") == ["p/a_mask", "p/a"]


@given(PATH)
def test_encoding_folders_and_unicode_form_do_not_matter(path: str) -> None:
    written = [path.replace("/", "\\"), f"./{path}", unicodedata.normalize("NFD", path)]
    assert {clean(each) for each in written} == {clean(path)}
    assert clean(quote(path)) == clean(quote(unicodedata.normalize("NFD", path)))
    assert clean(clean(quote(path))) in (clean(path), clean(clean(path)))


@pytest.mark.parametrize(
    "truth",
    [
        "p/a.png",
        "p/a.PNG",
        "p/a.tiff",
        "p/a.tif.png",
        "p/a_mask.png",
        "p/a_masks.tif",
        "p/a_cp_masks.png",
        "p/a_cp_masks.TIFF",
        "p/a_label.tif",
        "p/a_labels.TIFF",
        "p/a-labels.png",
        "p/a_Mask.Png",
        "p/a.masks.tif",
        "p/a_seg.png",
        "p/a_gt.png",
        "p/a_ground_truth.png",
        "p/a.tif_mask.png",
        "p/a_mask.tif.png",
        "p/a_labels.ome.tif",
        "p%2Fa_mask.png",
    ],
)
def test_a_mask_is_found_by_any_of_its_usual_names(truth: str) -> None:
    assert set(truth_stems(truth)) & set(image_stems("p/a.tif"))
    assert set(truth_stems(truth)) & set(image_stems("p/a.ome.tif"))
    assert not set(truth_stems(truth)) & set(image_stems("q/a.tif"))
    assert not set(truth_stems(truth)) & set(image_stems("p/b.tif"))


@pytest.mark.parametrize(
    ("truth", "image"),
    [
        ("unmask.png", "un.tif"),
        ("a_1.png", "a.tif"),
        ("a1.png", "a.tif"),
        ("a_mask_2.png", "a.tif"),
        ("mask.png", ".tif"),
        ("img.v1", "img.v2"),
        ("A172_Phase_C7_1_00d.png", "A172_Phase_C7_1.tif"),
    ],
)
def test_a_longer_name_belongs_to_another_image(truth: str, image: str) -> None:
    assert not set(truth_stems(truth)) & set(image_stems(image))


@given(path=PATH, suffix=st.sampled_from(["", ".tif", ".ome.tif", ".OME.TIFF", ".czi", ".ome.czi", ".png"]))
def test_an_images_shortest_stem_is_found_from_each_of_its_stems_and_from_its_base_name(
    path: str, suffix: str
) -> None:
    key = path + suffix
    shortest = shortest_stem(clean(key))
    for stem in image_stems(key):
        assert shortest in shortest_stems_of(stem)
    assert base(key) == clean(key).rpartition("/")[2]
    assert shortest_stem(base(key)) == shortest.rpartition("/")[2]


def test_the_likeliest_image_of_a_mask_comes_first() -> None:
    assert truth_stems("p/a_cp_masks.png") == ["p/a_cp_masks", "p/a", "p/a_cp"]
    assert image_stems("p/a.dat") == ["p/a.dat", "p/a"]


def matched(images: list[str], truths: list[str]) -> dict[str, str]:
    """Return the images that have a ground truth, by `clean` names."""
    found = assign({name: [clean(name)] for name in images}, {name: [clean(name)] for name in truths})
    assert {*found.truths, *found.doubtful, *found.lonely} == set(images)
    assert len(found.truths) + len(found.doubtful) + len(found.lonely) == len(images)
    return dict(found.truths)


@pytest.mark.parametrize(
    ("images", "truths", "expected"),
    [
        (["a"], ["a"], {"a": "a"}),
        (["p/a"], ["a"], {"p/a": "a"}),
        (["a"], ["images\\a"], {"a": "images\\a"}),
        (["p1/a", "p2/a"], ["p1/a", "p2/a"], {"p1/a": "p1/a", "p2/a": "p2/a"}),
        (["p1/a", "p2/a"], ["p1/a"], {"p1/a": "p1/a"}),
        (["p2/a"], ["p1/a", "a"], {}),
        (["p1/a", "p2/a"], ["a"], {}),
        (["a", "p1/a"], ["a"], {"a": "a"}),
        (["u/p1/a", "u/p2/a"], ["i/p1/a", "i/p2/a"], {"u/p1/a": "i/p1/a", "u/p2/a": "i/p2/a"}),
        (["p1/a"], ["i/p1/a", "j/p1/a"], {}),
        (["p2/a", "z/a"], ["p1/a", "p2/a"], {"p2/a": "p2/a"}),
        (["p2/a", "z/a"], ["p2/a", "a"], {"p2/a": "p2/a"}),
        (["p1/a", "p1/b"], ["a", "b"], {"p1/a": "a", "p1/b": "b"}),
        (["a"], ["b"], {}),
    ],
)
def test_whole_names_decide_and_base_names_only_where_nothing_else_has_them(
    images: list[str], truths: list[str], expected: dict[str, str]
) -> None:
    assert matched(images, truths) == expected


def test_doubtful_and_unused_names_are_listed() -> None:
    found = assign({"p1/a": ["p1/a"], "p2/a": ["p2/a"], "b": ["b"]}, {"a": ["a"], "c": ["c"]})
    assert dict(found.doubtful) == {"p1/a": ["a"], "p2/a": ["a"]}
    assert (found.lonely, found.unused) == (["b"], ["a", "c"])


def test_two_masks_of_one_image_are_doubtful_and_the_plainest_name_wins() -> None:
    images = {"a.tif": image_stems("a.tif")}
    twice = assign(images, {name: truth_stems(name) for name in ("a.png", "a.tiff")})
    assert dict(twice.doubtful) == {"a.tif": ["a.png", "a.tiff"]}
    ranked = assign(images, {name: truth_stems(name) for name in ("a_mask.png", "a.png")})
    assert dict(ranked.truths) == {"a.tif": "a.png"}


@given(st.lists(PATH, unique_by=clean, max_size=6), st.lists(PATH, unique_by=clean, max_size=6))
def test_an_equal_name_always_wins_and_no_truth_serves_two_images(
    images: list[str], truths: list[str]
) -> None:
    found = matched(images, truths)
    cleaned = {clean(name): name for name in truths}
    for image in images:
        if clean(image) in cleaned:
            assert found[image] == cleaned[clean(image)]
    assert len(set(found.values())) == len(found)
    for image, truth in found.items():
        assert base(image) == base(truth)


@given(st.lists(PATH, unique_by=clean, max_size=6), st.lists(PATH, unique_by=clean, max_size=6))
def test_the_order_of_names_does_not_matter(images: list[str], truths: list[str]) -> None:
    assert matched(images[::-1], truths[::-1]) == matched(images, truths)


def test_a_key_is_also_known_below_the_prefix_of_its_file() -> None:
    assert relative("plate 1/a.tif", "") == ["plate 1/a.tif"]
    assert relative("plate 1/a.tif", "plate 1/") == ["plate 1/a.tif", "a.tif"]
    assert relative("plate 1/ü/a.tif", "plate 1/ü") == ["plate 1/ü/a.tif", "ü/a.tif", "a.tif"]
    assert relative("plate 10/a.tif", "plate 1") == ["plate 10/a.tif"]


def test_many_names_are_cut_to_one_line() -> None:
    assert listed(["b", "a"]) == "a, b"
    assert listed(map(str, range(10)), 2) == "0, 1 and 8 more"
