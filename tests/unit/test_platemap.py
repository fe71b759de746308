"""Plate maps from IncuCyte and spreadsheets, and maps that are refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.errors import InvalidPlateMap
from cytomask.plate_pages import PlatePage
from cytomask.platemap import Compound, MappedWell, PlateMap, parse_plate_map, require_fit
from cytomask.plates import build_report
from cytomask.wells import well_name


def item(kind: str, name: str, **attributes: str) -> str:
    extra = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<wellItem type="{kind}"{extra}><referenceItem type="{kind}" displayName="{name}"/></wellItem>'


def xml(wells: dict[tuple[int, int], str], rows: int = 8, columns: int = 12) -> bytes:
    """A .PlateMap of a plate with these rows and columns; `wells` maps positions to their items."""
    body = "".join(
        f'<well row="{row}" col="{column}">{wells.get((row, column), "")}</well>'
        for row in range(rows)
        for column in range(columns)
    )
    body = f"<plateMap><wellStore><wells>{body}</wells></wellStore></plateMap>"
    text = f"<?xml version='1.0' encoding='utf-8'?>{body}"
    return b"\xef\xbb\xbf" + text.encode()


def read(text: str) -> PlateMap:
    return parse_plate_map(text.encode(), "map.csv")


def conditions(text: str) -> dict[str, str]:
    return {well: mapped.condition for well, mapped in read(text).wells.items()}


def test_incucytes_rows_and_columns_count_from_zero() -> None:
    dose = item("Compound", "DMSO", concentration="0.1", concentrationUnits="%")
    found = parse_plate_map(xml({(1, 2): dose}), "x.PlateMap")
    assert found.wells == {"B03": MappedWell("DMSO 0.1 %", (Compound("DMSO", 0.1, "%"),))}
    assert found.size == 96


def test_compounds_conditions_cells_and_density_are_read() -> None:
    well = (
        item("Compound", "PI-103", concentration="3.3", concentrationUnits="µM")
        + item("Compound", "DMSO")
        + item("GrowthCondition", "low serum")
        + item("CellType", "A172", passage="4", seedingDensity="2000")
    )
    (mapped,) = parse_plate_map(xml({(0, 0): well}), "x").wells.values()
    assert mapped.condition == "PI-103 3.3 µM + DMSO + low serum"
    assert mapped.compounds == (Compound("PI-103", 3.3, "µM"), Compound("DMSO"))
    assert (mapped.cell_type, mapped.density) == ("A172", "2000")


def test_several_cell_types_of_a_table_are_part_of_conditions_that_it_does_not_name() -> None:
    table = "well,{},dose,cell_type\nA1,X,1,A172\nA2,X,1,MCF7\n"
    assert conditions(table.format("compound")) == {"A01": "A172: X 1", "A02": "MCF7: X 1"}
    assert conditions(table.format("condition")) == {"A01": "X", "A02": "X"}


@pytest.mark.parametrize("header", ["Row,Column,Condition", "row,col,drug"])
def test_a_list_by_row_and_column_is_no_grid(header: str) -> None:
    """With one well below, it has the form of a plate of 6 wells."""
    with pytest.raises(InvalidPlateMap, match="names wells by columns for row and column; join them"):
        read(f"{header}\nA,1,x\n")


@pytest.mark.parametrize("name", ["Well ID", "well name", "Well Position"])
def test_other_names_of_the_column_of_wells_are_read(name: str) -> None:
    assert conditions(f"{name},Treatment\nA1,x\n") == {"A01": "x"}


def test_the_micro_sign_and_the_greek_letter_are_one_unit() -> None:
    assert set(conditions("well,compound,dose,unit\nA1,X,1,µM\nA2,X,1,μM\n").values()) == {"X 1 µM"}


@pytest.mark.parametrize("begins", [b"PK\x03\x04\x14", b"\xd0\xcf\x11\xe0\xa1"])
def test_a_workbook_is_refused_with_what_to_save(begins: bytes) -> None:
    with pytest.raises(
        InvalidPlateMap, match=r"map\.xlsx is a workbook of a spreadsheet; save its sheet as CSV"
    ):
        parse_plate_map(begins + b"\x00" * 40, "map.xlsx")


def test_several_cell_types_are_part_of_the_condition() -> None:
    drug = item("Compound", "X")
    found = parse_plate_map(
        xml({(0, 0): drug + item("CellType", "A172"), (0, 1): drug + item("CellType", "BV2")}), "x"
    )
    assert [mapped.condition for mapped in found.wells.values()] == ["A172: X", "BV2: X"]


@pytest.mark.parametrize(("rows", "columns", "size"), [(2, 3, 6), (16, 24, 384), (32, 48, 1536)])
def test_the_format_is_that_of_the_map(rows: int, columns: int, size: int) -> None:
    assert parse_plate_map(xml({(0, 0): item("Compound", "X")}, rows, columns), "x").size == size


@pytest.mark.parametrize(
    "declaration", ["<!DOCTYPE x [<!ENTITY a 'b'>]>", "<!doctype x SYSTEM 'file:///etc/passwd'>"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_a_document_type_is_refused_before_it_expands(declaration: str, encoding: str) -> None:
    bomb = f"<?xml version='1.0'?>{declaration}<plateMap>&a;</plateMap>".encode(encoding)
    with pytest.raises(InvalidPlateMap, match="declares a document type"):
        parse_plate_map(bomb, "x")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<plateMap>", "not well-formed XML"),
        (b"<html></html>", "XML without a `well` element"),
        (b"<w><well row='32' col='0'/></w>", "row '32', column '0'; rows count from 0 to 31"),
        (b"<w><well row='-1' col='0'/></w>", "row '-1'"),
        (b"<w><well/></w>", "row ''"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"# control: DMSO\n", "no line but comments"),
        (b"a,b\nc,d\n", "neither a column `well` nor the form of a plate"),
        (b"well,condition\n", r"maps no well; below its header"),
        (b"well,condition\nX99,DMSO\n", r'line 2 of map.csv: "X99" is not a well'),
        (b"title\n\nwell,condition\nX99,DMSO\n", r'line 4 of map.csv: "X99" is not a well'),
        (b'well,condition\nA1,"DMSO\nA2,x\n', "line 3 of map.csv is no line of a table"),
        (b'well,condition\nA1,"' + b"x" * 200_000 + b'"\n', "line 2 of map.csv has 200,005 characters"),
        (b'well,condition\nA1,"' + b"xx\n" * 70_000 + b'"\n', "is no line of a table"),
        (b"<w><well row='" + b"1" * 4900 + b"' col='0'/></w>", "row '11111111111111111111'"),
        (
            b"<w><well row='" + b"1" * 5000 + b"' col='0'/></w>",
            "an XML element of more than 5,000 characters",
        ),
        (b"<w>" + b"<well row='1' col='1'>" * 2 + b"</well></well></w>", "B02: another `well` stands inside"),
        (b"well,condition,dose\nA1,DMSO,0,1\n", "line 2 of map.csv has more cells than the header"),
        (b"well,condition,dose,unit\nA1,DMSO,0,1\n", "line 2 of map.csv has the unit '1'"),
        (b'well,compound,dose\nA1,x,"1,000"\n', "the dose '1,000' may be 1000 or 1.000"),
        (b"well;compound;dose\nA1;x;1.000\n", "the dose '1.000' may be 1000 or 1.000"),
        (b"well,compound,dose\nA1,x,10 nM\n", "the dose '10 nM' is not a number"),
        (b"<w><well row='0' col='0'/></w>", "describes only empty wells"),
        (b"well,condition\nA1,DMSO\na01,drug\n", "maps A01 twice, to 'DMSO' and to 'drug' .line 3"),
        (b"# expected pages: many\nwell,condition\nA1,x\n", "expected pages are a number from 1"),
        (b"x" * (4 * 2**20 + 1), "has at most 4194304"),
    ],
)
def test_an_invalid_plate_map_is_refused_with_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(InvalidPlateMap, match=sentence):
        parse_plate_map(content, "map.csv")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"well,condition\n" + b"A1:AF48,x\n" * 90_000, "line 12 of map.csv repeats wells"),
        (b"well,condition\n" + b'"' + b"A1:AF48 " * 2000 + b'",x\n', "line 2 of map.csv repeats wells"),
        (b"(" * 4_000_000 + b",x\nA1,b\n", "line 1 of map.csv has 4,000,002 characters"),
        (b"\n".join([b"(" * 19_000 + b",x"] * 200), "neither a column `well` nor"),
        (b"\n".join([b"(a" * 9_000 + b",x"] * 200), "neither a column `well` nor"),
        (b"#plate:" + b";" * 4_000_000 + b"x\nwell,condition\nA1,x\n", "line 1 of map.csv has 4,000,008"),
        (b"#plate:" + b"; " * 9_900 + b"x\nwell,condition\n", "maps no well"),
        (b",\n" * 2_000_000, "more than 200,000 cells"),
        pytest.param(
            (b"," * 19_000 + b"\n") * 200, "more than 200,000 cells", marks=pytest.mark.slow, id="wide table"
        ),
        (
            b"<a>" + b"<well row='1' col='1'>" * 130_000 + b"</well>" * 130_000 + b"</a>",
            "stands inside this one",
        ),
        pytest.param(
            b"<a xmlns='" + b"x" * 4_900 + b"'>" + b"<b/>" * 1_000_000 + b"</a>",
            "without a `well` element",
            marks=pytest.mark.slow,
            id="many elements",
        ),
        (
            b"<a xmlns='" + b"x" * 2_000_000 + b"'>" + b"<b/>" * 500_000 + b"</a>",
            "an XML element of more than",
        ),
    ],
)
def test_a_plate_map_that_would_take_long_is_refused_soon(content: bytes, sentence: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidPlateMap, match=sentence):
        parse_plate_map(content, "map.csv")
    assert time.process_time() - began < 5


def test_a_cell_may_name_every_well_of_a_plate() -> None:
    wells = [well_name(row, column) for row in range(32) for column in range(48)]
    assert conditions(f'well,condition\n"{", ".join(wells)}",x\n') == dict.fromkeys(wells, "x")


def test_ranges_are_rectangles() -> None:
    assert conditions("well,condition\nA1:A3,DMSO\nB1:C2,drug\n") == {
        **dict.fromkeys(["A01", "A02", "A03"], "DMSO"),
        **dict.fromkeys(["B01", "B02", "C01", "C02"], "drug"),
    }


def test_a_line_may_name_several_wells() -> None:
    assert list(conditions('well,condition\n"A1, A3; B2-B3",x\n')) == ["A01", "A03", "B02", "B03"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheets_bom_semicolons_and_decimal_commas(encoding: str, delimiter: str) -> None:
    lines = ["Well;Condition;Concentration;Units", "A1;Ü;0,5;µM", "A2;Ü;n.d.;µM", "A3;Ü;2;µM"]
    text = "\r\n".join(lines).replace(";", delimiter)
    wells = parse_plate_map(text.encode(encoding), "x.csv").wells
    assert wells["A01"].compounds == (Compound("Ü", 0.5, "µM"),)
    assert wells["A02"].compounds == ()
    assert wells["A03"].compounds == (Compound("Ü", 2.0, "µM"),)


def test_a_missing_condition_is_made_from_compound_and_dose() -> None:
    assert conditions("well,compound,dose,unit\nA1,PI-103,3.3,µM\n") == {"A01": "PI-103 3.3 µM"}


def test_a_bare_grid_of_doses_is_not_taken_for_numbered_columns() -> None:
    found = conditions("\n".join([",".join(["1", "10", "30"])] * 2))
    assert found == {"A01": "1", "A02": "10", "A03": "30", "B01": "1", "B02": "10", "B03": "30"}


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "My plate;;", "", "# a note"])
def test_a_line_above_the_columns_names_changes_nothing(first: str) -> None:
    assert conditions(f"{first}\nwell;condition;dose\nA1;DMSO;0,1\nA2;A, B;\n") == {
        "A01": "DMSO",
        "A02": "A, B",
    }


@pytest.mark.parametrize("header", ["dose (µM)", "Concentration [µM]", "dose(µM)"])
def test_the_unit_may_stand_in_the_columns_name(header: str) -> None:
    (mapped,) = read(f"well,compound,{header}\nA1,PI-103,3.3\n").wells.values()
    assert mapped.compounds == (Compound("PI-103", 3.3, "µM"),)


def test_a_list_may_name_several_wells_in_a_cell_whatever_separates_the_cells() -> None:
    assert list(conditions("well,condition\nA1;A2;A3;B1,DMSO\n")) == ["A01", "A02", "A03", "B01"]


def test_a_decimal_comma_in_quotation_marks_is_one() -> None:
    (mapped,) = read('well,compound,dose\nA1,x,"0,125"\n').wells.values()
    assert mapped.compounds == (Compound("x", 0.125),)


def test_a_well_that_xml_describes_twice_is_refused() -> None:
    first, second = item("Compound", "X"), item("Compound", "Y")
    text = "<w><well row='0' col='0'>{}</well><well row='0' col='0'>{}</well></w>"
    with pytest.raises(InvalidPlateMap, match="describes A01 twice and differently"):
        read(text.format(first, second))
    assert conditions(text.format(first, first)) == {"A01": "X"}


def test_settings_stand_in_comments() -> None:
    found = read("# plate: VID7\n# Control: DMSO\n# expected pages: 2016\nwell,condition\nA1,DMSO\n")
    assert (found.plate, found.control, found.expected_pages) == ("VID7", "DMSO", 2016)


def test_conditions_list_their_wells() -> None:
    assert read("well,condition\nA1:A2,x\nB1,y\n").conditions() == {"x": ["A01", "A02"], "y": ["B01"]}


def test_a_map_of_another_format_than_the_plate_is_refused() -> None:
    small = parse_plate_map(xml({(0, 0): item("Compound", "X")}, rows=2, columns=3), "x.PlateMap")
    with pytest.raises(
        InvalidPlateMap, match="map of 6 wells, and the plate has images of H12, which needs 96"
    ):
        require_fit(small, ["A01", "H12"], "x.PlateMap")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("well,condition\nA1:A2,X\n", id="csv"),
        pytest.param(f"<w><well row='0' col='0'>{item('Compound', 'X')}</well></w>", id="xml"),
    ],
)
def test_a_list_of_some_wells_fits_a_plate_of_any_format(content: str) -> None:
    pages = [PlatePage(plate="p", well=well, site="1", time=0.0) for well in ("A01", "D05", "H12")]
    found = build_report("p", pages, read(content))
    conditions = {well: report.condition for well, report in found.wells.items()}
    assert (found.size, conditions) == (96, {"A01": "X", "D05": "", "H12": ""})


def test_a_map_of_other_wells_than_the_plate_is_refused() -> None:
    with pytest.raises(InvalidPlateMap, match="describes A01, A02, and the plate has images of B03"):
        require_fit(read("well,condition\nA1:A2,x\n"), ["B03"], "map.csv")
    require_fit(read("well,condition\nA1:A2,x\n"), ["A02", "B03"], "map.csv")


PLATE_SIZES = (6, 12, 24, 48, 96, 384, 1536)


def size_or_nothing(content: bytes) -> int | None:
    """Return the number of wells of a map's plate; None if the map is refused."""
    try:
        return parse_plate_map(content, "x").size
    except InvalidPlateMap:
        return None


@given(st.binary(max_size=400))
def test_any_bytes_are_a_map_or_refused(content: bytes) -> None:
    assert size_or_nothing(content) in (None, *PLATE_SIZES)


@given(st.text(alphabet="well,condition\nA1:B2;\t\"'#<>/", max_size=200))
def test_any_text_is_a_map_or_refused(text: str) -> None:
    assert size_or_nothing(text.encode()) in (None, *PLATE_SIZES)
