"""The report counts, measures and shows all images in one file, whatever their names."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from small_data import add, look_at, picture, square

from cytomask.training import explore
from cytomask.training.explore import report

VOID = {"meta", "img", "wbr", "br"}


class Page(HTMLParser):
    """Collects what a browser would find: texts of table rows, pictures, open tags, references to files."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: list[Image.Image] = []
        self.open: list[str] = []
        self.wanted: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        source = dict(attrs).get("src") or dict(attrs).get("href") or ""
        kind, _, data = source.partition(",")
        if kind == "data:image/png;base64":
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(data))))
        elif source:
            self.wanted.append(source)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_report_is_one_file_that_counts_every_image(tmp_path: Path) -> None:
    for seed in range(7):
        add(tmp_path, "ours/train", f"A172_Phase_{seed}", picture(seed), square(seed + 2))
    add(tmp_path, "ours/val", "BV2_Phase_1", picture(8, "uint16"), square(20))
    add(tmp_path, "ours/val", "dead", picture(9, shape=(20, 20)), square(0, (20, 20)), "BV2")
    page = Page(report(look_at(tmp_path, "ours/train", "ours/val"), tmp_path))
    assert page.open == []
    assert page.wanted == []
    assert "9 images from 2 sources, 2 cell lines, 8 outlined cells" in page.text
    for row in (
        ["cell line", "ours/train", "ours/val", "all"],
        ["A172", "7", "·", "7"],
        ["BV2", "·", "2", "2"],
        ["all", "7", "2", "9"],
        ["ours/val", "30 × 40", "uint16", "1"],
        ["ours/val", "20 × 20", "uint8", "1"],
        ["BV2", "2", "0.0%", "16.7%", "33.3%"],
        ["BV2", "ours/val", "1", "400", "400", "400", "·"],
        ["ours/val", "dead", "no cell in the ground truth"],
    ):
        assert row in page.rows
    assert "None: no two images share their name or their pixels." in page.text
    figures, panels = page.pictures[:3], page.pictures[3:]
    assert all(figure.width > 1000 for figure in figures)
    assert [panel.size for panel in panels] == [(80, 30)] * 4 + [(40, 20), (80, 30)]


def test_no_name_can_break_the_page(tmp_path: Path) -> None:
    name, line = "<script>alert('x')&amp;\"", "</td><b onload=x>"
    add(tmp_path, "ours/train", name, picture(1), square(5), line)
    add(tmp_path, "ours/train", "other", picture(2), square(0), line)
    add(tmp_path, "ours/train", "same", picture(2), square(1), line)
    html = report(look_at(tmp_path, "ours/train"), tmp_path)
    assert "<script" not in html
    assert "<b " not in html
    page = Page(html)
    assert page.open == []
    assert [line, "3", "3"] in page.rows
    assert ["same pixels, different masks", "within one source"] in [row[:2] for row in page.rows]
    assert f"{name}, 2% cell" in page.text


def run_main(monkeypatch: pytest.MonkeyPatch, folder: Path, *sources: str) -> Path:
    out = folder / "reports" / "report.html"
    arguments = ["explore", *sources, "--data", str(folder), "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    explore.main()
    return out


def test_the_command_writes_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path, "ours/train", "a", picture(1), square(5))
    out = run_main(monkeypatch, tmp_path, "ours/train", "ours/train")
    assert "1 image from 1 source, 1 cell line" in Page(out.read_text()).text
    assert capsys.readouterr().out.startswith(f"{out}: 1 images, ")


def test_an_empty_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "ours/train", "a", picture(1), square(5))
    with pytest.raises(SystemExit, match=r"ours/tset in .* has no images"):
        run_main(monkeypatch, tmp_path, "ours/train", "ours/tset")
    assert not (tmp_path / "reports").exists()


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "ours/train", "a", picture(1), square(5))
    add(tmp_path, "ours/train", "torn", picture(2), square(5))
    torn = tmp_path / "ours/train/torn.tif"
    torn.write_bytes(torn.read_bytes()[:600])
    with pytest.raises(SystemExit, match=r"torn\.tif"):
        run_main(monkeypatch, tmp_path, "ours/train")
    assert not (tmp_path / "reports").exists()


def test_data_without_an_index_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"index\.csv"):
        run_main(monkeypatch, tmp_path, "ours/train")
