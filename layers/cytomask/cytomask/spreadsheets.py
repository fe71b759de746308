"""Lines of CSV that no spreadsheet executes: every table that cytomask writes goes through here."""

import csv
import io
import re
from collections.abc import Iterable

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet takes a cell that begins so for a formula
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", re.ASCII)


def guard(value: object) -> object:
    """Return a cell as it is, with ' before a text that a spreadsheet would run; numbers stay numbers."""
    if not isinstance(value, str) or not value.startswith(FORMULA) or NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def csv_line(values: Iterable[object], delimiter: str = ",", end: str = "\r\n") -> str:
    """Write one line of a table, with its end; each cell is guarded."""
    line = io.StringIO(newline="")
    csv.writer(line, delimiter=delimiter, lineterminator=end).writerow(map(guard, values))
    return line.getvalue()
