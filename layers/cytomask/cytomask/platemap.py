"""Plate maps: the content of each well. IncuCyte's `.PlateMap` files, and tables as spreadsheets write them.

The XML's layout is that of IncuCyte Zoom, read from the examples of github.com/chapmandu2/IncucyteDRC
(`inst/extdata/*.PlateMap`): wells with zero-based `row` and `col`, in each of them items of type Compound
(`concentration`, `concentrationUnits`), CellType (`passage`, `seedingDensity`) and GrowthCondition, which
refer to names. Pure: bytes in, a map out.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from xml.etree import ElementTree as etree

import msgspec

from cytomask.errors import InvalidPlateMap
from cytomask.plate_grid import Line, is_numbers, read_grid
from cytomask.wells import FORMATS, parse_well, smallest_format, well_name, well_position

LARGEST_FILE = 4 * 2**20  # bytes: 1,536 wells with three compounds each take 1 MB
LONGEST_TEXT = 200  # characters of a condition or a compound
LONGEST_LINE = 20_000  # characters: 1,536 names of wells take 9,000, as do 48 conditions
LONGEST_ELEMENT = 5_000  # characters of an XML element with its text
MOST_CELLS = 200_000  # of a table: 1,536 lines of 100 cells are 153,600
MOST_NAMED = 10 * 1536  # wells that a list names, repetitions included
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how .xlsx and .ods begin, and .xls
LINES_TO_LOOK_AT = 20  # for the line that names the columns
RANGE = re.compile(r"([A-Za-z]{1,2}\d{1,3})\s*[:-]\s*([A-Za-z]{1,2}\d{1,3})")
SETTING = re.compile(r"#\s*(plate|control|expected[ _]pages)\s*[:=;,\t](.*)", re.IGNORECASE)
SEPARATOR = re.compile(r'"?sep=(.)"?[;,\t]*', re.IGNORECASE)  # Excel's first line
SHORT_NUMBER = re.compile(r"\d{1,4}")  # int() refuses thousands of digits
IN_BRACKETS = re.compile(r"([^(\[]++)[(\[](.+)[)\]]")  # a column's name and its unit
COLUMNS = {
    "well": ("well", "wells", "position", "well_id", "well_name", "well_position"),
    "condition": ("condition", "treatment", "group", "sample"),
    "compound": ("compound", "drug", "substance"),
    "dose": ("dose", "concentration", "conc"),
    "unit": ("unit", "units", "dose_unit", "concentration_units", "concentrationunits"),
    "cell_type": ("cell_type", "celltype", "cell_line", "cells"),
    "density": ("density", "seeding_density", "seedingdensity"),
}


class Compound(msgspec.Struct, frozen=True, omit_defaults=True):
    """A substance in a well. `dose` is None where the map gives none; `unit` as the map writes it."""

    name: str
    dose: float | None = None
    unit: str = ""

    @property
    def label(self) -> str:
        """Name and dose, as `DMSO 0.1 %`."""
        dose = "" if self.dose is None else f" {self.dose:g}"
        return f"{self.name}{dose}{f' {self.unit}' if self.unit and dose else ''}"


class MappedWell(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is in a well. Wells with the same `condition` are replicates."""

    condition: str
    compounds: tuple[Compound, ...] = ()
    cell_type: str = ""
    density: str = ""


class PlateMap(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is in the wells of one plate.

    Attributes:
        wells: by name (`B02`); a well that is absent is empty.
        size: wells of the smallest plate that the map fits on.
        plate: whose map it is, where the file says so.
        control: the condition that others are compared with, where the file says so.
        expected_pages: of the whole experiment, where the file says so.
        states_size: whether the file tells that the plate has this size; a list of some wells does not.
    """

    wells: dict[str, MappedWell]
    size: int
    plate: str | None = None
    control: str | None = None
    expected_pages: int | None = None
    states_size: bool = False

    def conditions(self) -> dict[str, list[str]]:
        """Wells by condition, in the order of the map."""
        found: dict[str, list[str]] = {}
        for well, mapped in self.wells.items():
            found.setdefault(mapped.condition, []).append(well)
        return found


def parse_plate_map(content: bytes, name: str) -> PlateMap:
    """Read a plate map in any of the known formats.

    Args:
        content: of the file: IncuCyte's XML; a table with a column `well`; or a grid of conditions.
        name: what to call it in errors.

    Raises:
        InvalidPlateMap: its format is unknown, it is too large, or contradicts itself.
    """
    if len(content) > LARGEST_FILE:
        raise InvalidPlateMap(f"{name} has {len(content)} bytes; a plate map has at most {LARGEST_FILE}")
    if content.startswith(WORKBOOKS):
        raise InvalidPlateMap(f"{name} is a workbook of a spreadsheet; save its sheet as CSV and give that")
    text = _decode(content)
    if not text.strip():
        raise InvalidPlateMap(f"{name} is empty; a plate map has at least the line `well,condition`")
    return _from_xml(text, name) if re.match(r"\s*<[?!/A-Za-z]", text) else _from_table(text, name)


def require_fit(plate_map: PlateMap, wells: Iterable[str], name: str) -> None:
    """Check a map against the wells that have images.

    Raises:
        InvalidPlateMap: images are in wells that a plate of the size that the map states does not have, or
            none of the mapped wells has an image.
    """
    wells = list(wells)
    rows, columns = FORMATS[plate_map.size]
    outside = [well for well in wells if (at := well_position(well))[0] >= rows or at[1] >= columns]
    if plate_map.states_size and outside:
        raise InvalidPlateMap(
            f"{name} is a map of {plate_map.size} wells, and the plate has images of {_some(outside)}, which "
            f"needs {smallest_format(wells)}: is it another plate's map?"
        )
    if wells and not set(wells) & plate_map.wells.keys():
        raise InvalidPlateMap(
            f"{name} describes {_some(plate_map.wells)}, and the plate has images of {_some(wells)}: is it "
            "another plate's map?"
        )


def _from_xml(text: str, name: str) -> PlateMap:
    # Entities can make a small file huge, and no plate map declares any.
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise InvalidPlateMap(f"{name} declares a document type, which no plate map needs; export it again")
    if any(len(element) > LONGEST_ELEMENT for element in text.split("<")):
        raise InvalidPlateMap(
            f"{name} has an XML element of more than {LONGEST_ELEMENT:,} characters, which no plate map has; "
            "export it again"
        )
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    try:
        root = etree.fromstring(text)
    except (etree.ParseError, ValueError, RecursionError) as error:
        raise InvalidPlateMap(f"{name} is not well-formed XML ({error}); export it again") from error
    found: dict[tuple[int, int], MappedWell | None] = {}
    for element in root.iter():
        if _tag(element) != "well":
            continue
        position = _position(element, name)
        mapped = _xml_well(element, f"{name}, {well_name(*position)}")
        if found.setdefault(position, mapped) != mapped:
            raise InvalidPlateMap(
                f"{name} describes {well_name(*position)} twice and differently; leave one `well` in row "
                f"{position[0]}, column {position[1]}"
            )
    if not found:
        raise InvalidPlateMap(
            f"{name} is XML without a `well` element; IncuCyte's plate maps end in .PlateMap"
        )
    wells = {well_name(*position): mapped for position, mapped in found.items() if mapped is not None}
    if not wells:
        raise InvalidPlateMap(f"{name} describes only empty wells; fill them in and export it again")
    wells = _with_cell_types(wells)
    size = _size_of(found, name)
    return PlateMap(wells, size, states_size=len(found) == size)


def _with_cell_types(wells: dict[str, MappedWell]) -> dict[str, MappedWell]:
    """Add the cell types to the conditions if there are several, so that they are no replicates."""
    if len({mapped.cell_type for mapped in wells.values()}) < 2:
        return wells
    return {well: _with_cell_type(mapped) for well, mapped in wells.items()}


def _with_cell_type(mapped: MappedWell) -> MappedWell:
    if not mapped.cell_type or mapped.condition == mapped.cell_type:
        return mapped
    return msgspec.structs.replace(mapped, condition=f"{mapped.cell_type}: {mapped.condition}")


def _position(element: etree.Element, name: str) -> tuple[int, int]:
    """Row and column of a well, both counted from 0."""
    row, column = element.get("row", ""), element.get("col", "")
    numbers = SHORT_NUMBER.fullmatch(row) and SHORT_NUMBER.fullmatch(column)
    if not numbers or int(row) > 31 or int(column) > 47:
        raise InvalidPlateMap(
            f"{name} has a well in row {row[:20]!r}, column {column[:20]!r}; rows count from 0 to 31 and "
            "columns from 0 to 47"
        )
    return int(row), int(column)


def _xml_well(element: etree.Element, where: str) -> MappedWell | None:
    """What is in a well; None for an empty one."""
    compounds, others = [], []
    cell_type = density = ""
    for item in element.iter():
        if _tag(item) == "well" and item is not element:
            raise InvalidPlateMap(f"{where}: another `well` stands inside this one; export it again")
        if _tag(item) != "wellItem":
            continue
        reference = next((child for child in item if _tag(child) == "referenceItem"), item)
        label = (reference.get("displayName") or reference.get("description") or "").strip()[:LONGEST_TEXT]
        kind = item.get("type", "")
        if kind == "Compound" and label:
            dose, unit = item.get("concentration", ""), item.get("concentrationUnits", "")
            compounds.append(Compound(label, _dose(dose, where), unit.strip()[:20]))
        elif kind == "CellType":
            cell_type = label
            density = f"{item.get('seedingDensity', '')} {item.get('seedingDensityUnits', '')}".strip()
        elif label:
            others.append(label)
    told = [compound.label for compound in compounds] + others
    if not told and not cell_type:
        return None
    condition = " + ".join(told) or cell_type
    return MappedWell(condition[:LONGEST_TEXT], tuple(compounds), cell_type, density[:LONGEST_TEXT])


def _from_table(text: str, name: str) -> PlateMap:
    settings, lines = _settings(text, name)
    delimiter = _delimiter(lines)
    table = _cells(lines, delimiter, name)
    if not any(any(cells) for _, cells in table):
        raise InvalidPlateMap(f"{name} has no line but comments; a plate map has the line `well,condition`")
    size = None
    begin = _header_of_list(table)
    if begin is None:
        _require_a_grid(table, name)
        texts, size = read_grid(table, name)
        wells = {well: MappedWell(text[:LONGEST_TEXT]) for well, text in texts.items()}
        if not wells:
            raise InvalidPlateMap(f"{name} is an empty grid; write a condition into each well that has one")
    else:
        wells = _from_list(table[begin:], name, decimal_comma=delimiter == ";")
    return PlateMap(
        wells,
        size or _size_of(map(well_position, wells), name),
        plate=settings.get("plate") or None,
        control=settings.get("control") or None,
        expected_pages=_expected(settings.get("expected_pages"), name),
        states_size=size is not None,
    )


def _header_of_list(table: Sequence[Line]) -> int | None:
    """Return the index of the line that names the columns of a list; a title may stand above it."""
    for index, (_, cells) in enumerate(table):
        if "well" in _columns(cells) and not is_numbers(cells):
            return index
        if sum(map(bool, cells)) > 1:
            return None
    return None


def _require_a_grid(table: Sequence[Line], name: str) -> None:
    """Refuse a list that names wells by row and column, which may have the form of a small plate."""
    first = {cell.lower() for cell in next(cells for _, cells in table if any(cells))}
    if "row" in first and first & {"column", "col"}:
        raise InvalidPlateMap(
            f"{name} names wells by columns for row and column; join them in one column `well`, such as A1"
        )


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Return the index of each column that is known, by its name in `COLUMNS`."""
    names = [re.sub(r"[\s-]+", "_", _without_unit(cell)[0].lower()) for cell in header]
    return {column: names.index(alias) for column in COLUMNS for alias in COLUMNS[column] if alias in names}


def _without_unit(cell: str) -> tuple[str, str]:
    """Split the name of a column, such as `dose (µM)`, into name and unit."""
    match = IN_BRACKETS.fullmatch(cell)
    return (match[1].rstrip(), match[2].strip()) if match else (cell, "")


def _from_list(table: Sequence[Line], name: str, *, decimal_comma: bool) -> dict[str, MappedWell]:
    """Read a table with a well, or a range of wells, a line."""
    header = table[0][1]
    known = _columns(header)
    unit = _without_unit(header[known["dose"]])[1][:LONGEST_TEXT] if "dose" in known else ""
    wells: dict[str, MappedWell] = {}
    count = 0
    for number, row in table[1:]:
        where = f"line {number} of {name}"
        if any(row[len(header) :]):
            raise InvalidPlateMap(
                f"{where} has more cells than the header; put a cell with a comma, such as 0,1, in quotation "
                "marks, or use `;` between the cells"
            )
        told = {column: row[index] if index < len(row) else "" for column, index in known.items()}
        named = told.pop("well")
        told = {column: cell[:LONGEST_TEXT] for column, cell in told.items()}
        if not named:
            continue
        mapped = _list_well(told | {"unit": told.get("unit") or unit}, where, decimal_comma=decimal_comma)
        if mapped is None:
            continue
        for well in _wells_of(named, where):
            count += 1
            if count > MOST_NAMED:
                raise InvalidPlateMap(
                    f"{where} repeats wells: the lines up to it name more than {MOST_NAMED:,}, and a plate "
                    "has at most 1,536; name each once"
                )
            known_as = wells.setdefault(well, mapped)
            if known_as != mapped:
                raise InvalidPlateMap(
                    f"{name} maps {well} twice, to {known_as.condition!r} and to {mapped.condition!r} (line "
                    f"{number}); leave one"
                )
    if not wells:
        raise InvalidPlateMap(f"{name} maps no well; below its header it takes lines such as `A1:A12,DMSO`")
    return wells if "condition" in known else _with_cell_types(wells)


def _list_well(told: Mapping[str, str], where: str, *, decimal_comma: bool) -> MappedWell | None:
    unit = told["unit"]
    if re.fullmatch(r"[0-9.,]+", unit):
        raise InvalidPlateMap(
            f"{where} has the unit {unit!r}; put a dose with a comma, such as 0,1, in quotation marks"
        )
    dose = _dose(told.get("dose", ""), where, decimal_comma=decimal_comma)
    compound = told.get("compound", "")
    compounds = (Compound(compound, dose, unit),) if compound else ()
    condition = (
        told.get("condition") or " + ".join(each.label for each in compounds) or told.get("cell_type", "")
    )
    if not condition:
        return None
    if not compounds and dose is not None:
        compounds = (Compound(condition, dose, unit),)
    return MappedWell(condition, compounds, told.get("cell_type", ""), told.get("density", ""))


def _wells_of(text: str, where: str) -> Iterator[str]:
    """Wells of `A1`, of `A1:H12` (a rectangle), or of several of these apart by space, `;` or `,`."""
    text = RANGE.sub(r"\1:\2", text)
    for part in re.split(r"[\s;,+]+", text.strip()):
        first, _, last = part.partition(":")
        begin, end = parse_well(first), parse_well(last or first)
        if begin is None or end is None:
            raise InvalidPlateMap(
                f'{where}: "{part[:40]}" is not a well; write A1, or a range such as A1:A12'
            )
        (top, left), (bottom, right) = well_position(begin), well_position(end)
        for row in range(min(top, bottom), max(top, bottom) + 1):
            for column in range(min(left, right), max(left, right) + 1):
                yield well_name(row, column)


def _settings(text: str, name: str) -> tuple[dict[str, str], list[str]]:
    """The settings in lines that begin with `#`, and all lines, with an empty one for each of these."""
    settings, lines = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LONGEST_LINE:
            raise InvalidPlateMap(
                f"line {number} of {name} has {len(line):,} characters; a plate map's line has at most "
                f"{LONGEST_LINE:,}"
            )
        match = SETTING.match(line.strip('"'))
        if match:
            value = match[2].rstrip(" \t;,").strip().strip('"')
            settings[re.sub(r"[ _]", "_", match[1].lower())] = value[:LONGEST_TEXT]
        lines.append("" if match or line.startswith("#") else line)
    return settings, lines


def _delimiter(lines: list[str]) -> str:
    """Return what separates a table's cells: `;`, a tab or `,`. Empty Excel's line that tells it."""
    for index, line in enumerate(lines):
        if match := SEPARATOR.fullmatch(line):
            lines[index] = ""
            return match[1]
        if line.strip():
            break
    for each in ";\t,":
        for line in lines[:LINES_TO_LOOK_AT]:
            if each in line and "well" in _columns([cell.strip(' "') for cell in line.split(each)]):
                return each
    # Commas in a table that has `;` or a tab in each line are those of numbers.
    separated = [line for line in lines if re.search(r"[;\t,]", line)]
    return next((each for each in ";\t" if separated and all(each in line for line in separated)), ",")


def _cells(lines: Sequence[str], delimiter: str, name: str) -> list[Line]:
    """Return the number and the cells of each line that has any, with single spaces within the cells."""
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, strict=True)
    table: list[Line] = []
    count = 0
    try:
        for row in filter(None, reader):
            count += len(row)
            if count > MOST_CELLS:
                raise InvalidPlateMap(
                    f"{name} has more than {MOST_CELLS:,} cells; delete the rows and columns that are empty "
                    "or describe no well"
                )
            table.append((reader.line_num, [" ".join(cell.split()) for cell in row]))
    except csv.Error as error:
        raise InvalidPlateMap(
            f"line {reader.line_num} of {name} is no line of a table ({error}); is a quotation mark missing?"
        ) from error
    return table


def _decode(content: bytes) -> str:
    """Text of a file as Excel and IncuCyte save it: UTF-8 or UTF-16 with a mark, UTF-8, or Windows-1252.

    The Greek letter μ becomes the micro sign µ, or two units that look the same would be two conditions.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", errors="replace").lstrip("\ufeff")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
    return text.replace("\u03bc", "\u00b5")


def _dose(text: str, where: str, *, decimal_comma: bool = False) -> float | None:
    """Read a dose with a decimal point or comma; None for a text without a digit.

    Args:
        text: of the cell.
        where: what to call the cell in errors.
        decimal_comma: whether the file writes decimal commas, so that a point may separate thousands.

    Raises:
        InvalidPlateMap: it is not a number, or a mark in it may separate thousands.
    """
    number = re.sub(r"(?<=\d)\s(?=\d{3}\b)", "", text.strip()).replace("\u2212", "-")
    if not any(character.isdecimal() for character in number):
        return None
    mark = "." if decimal_comma else ","
    if re.fullmatch(rf"[1-9]\d{{0,2}}({re.escape(mark)}\d{{3}})+", number):
        raise InvalidPlateMap(
            f"{where}: the dose {text[:40]!r} may be {number.replace(mark, '')[:40]} or "
            f"{number.replace(mark, '.', 1)[:40]}; write it without separators of thousands or trailing zeros"
        )
    if number.count(",") == 1 and "." not in number:
        number = number.replace(",", ".")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in number:
        raise InvalidPlateMap(
            f"{where}: the dose {text[:40]!r} is not a number; write one such as 1234.5, and its unit in a "
            "column `unit`"
        )
    return value


def _expected(text: str | None, name: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) <= 10_000_000:
        raise InvalidPlateMap(f'{name}: expected pages are a number from 1 to 10,000,000, not "{text[:40]}"')
    return int(text)


def _size_of(positions: Iterable[tuple[int, int]], name: str) -> int:
    """Wells of the smallest plate that holds these positions."""
    try:
        return smallest_format(well_name(row, column) for row, column in positions)
    except StopIteration:
        raise InvalidPlateMap(f"{name} has more rows or columns than a plate of 1,536 wells") from None


def _tag(element: etree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _some(wells: Iterable[str]) -> str:
    names = sorted(wells)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
