"""Tables on the terminal, and CSV files that a spreadsheet cannot execute."""

import os
import sys
from pathlib import Path

import pytest

from cytomask.cli.tables import number, print_table, write_csv


def test_columns_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("image", "IoU", "note"), [("a.tif", "0.5", "x"), ("細.tif", "0.123", "")], ["IoU"])
    assert capsys.readouterr().out == "image     IoU  note\na.tif     0.5  x\n細.tif  0.123\n"


def test_a_cell_cannot_break_out_of_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("image",), [("a\nb\x1b[2J",)])
    assert capsys.readouterr().out == "image\na\\nb\\x1b[2J\n"


def test_on_a_terminal_the_last_column_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 24)))
    print_table(("image", "reason"), [("a.tif", "x" * 100)])
    assert capsys.readouterr().out.splitlines()[1] == f"a.tif  {'x' * 32}…"


def test_a_missing_number_is_a_dash() -> None:
    assert [number(None), number(0.12345), number(12.5, 0)] == ["-", "0.123", "12"]


def test_a_csv_is_written_whole(tmp_path: Path) -> None:
    write_csv(tmp_path / "deep" / "a.csv", ("name", "iou"), [{"name": "=1", "iou": 0.5, "other": 1}, {}])
    assert (tmp_path / "deep" / "a.csv").read_text() == "name,iou\n'=1,0.5\n,\n"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.csv"]
