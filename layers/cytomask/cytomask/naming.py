"""The naming schemes of common microscopes: patterns over a key without its suffix, and how to read a match.

Sources of the presets (looked up in November 2026):

* IncuCyte, elapsed time: LIVECell's file names (Edlund et al. 2021, doi:10.1038/s41592-021-01249-6) and
  MoBIE's `HCSPattern` (github.com/mobie/mobie-viewer-fiji: `MiaPaCa2-PhaseOriginal_A2_1_03d06h40m.tif`).
* IncuCyte, clock time: `nameMinerIncucyte.m` of github.com/TylerJost/incucyteClusterTracking.
* IncuCyte archive: github.com/Leiden-Cell-Observatory/OMERO_scripts, incucyte/README.md
  (`EssenFiles/ScanData/YYMM/DD/HHMM/<plate>/A1-1-Ph.tif`).
* Opera and Operetta: fractal-uzh-converters, "Revvity Operetta / Opera Phenix" (row, column, field, plane,
  channel; `sk` counts the time points).
* ImageXpress: the microscope formats of github.com/trissim/ezstitcher, and MoBIE's `HCSPattern`.
* Yokogawa CellVoyager: fractal-tasks-core, and the CV7000 name extractor of the HC tools for KNIME
  (T time point, F field, L timeline, A action, Z plane, C channel).
* BioTek Gen5: "BioTekReader" in the README of github.com/glencoesoftware/bioformats2raw.
* Micro-Manager, separate image files: micro-manager.org, "Micro-Manager File Formats"; its HCS site generator
  names positions `B2-Site_0`.
"""

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from cytomask.wells import MOST_ROWS, well_name

_WELL = r"(?P<well>[A-Za-z]{1,2}\d{1,3})"
_CHANNEL = (
    r"Phase(?:[ -]?Contrast|Original)?|Ph|P|(?:Green|Red|NIR|Orange|Blue)(?:Original|Calibrated)?|"
    r"Bright[ -]?[Ff]ield|BF|C\d"
)
# Everything before `_WELL`; lazy, and every later part has a bounded length.
_EXPERIMENT = rf"(?:^|/)(?:(?P<plate>[^/]*?)(?:[_-](?P<channel>{_CHANNEL}))?_)?"
_ELAPSED = r"(?P<elapsed>\d{1,3}d\d{2}h\d{2}m)"
_CLOCK = r"(?P<date>\d{4}y\d{2}m\d{2}d_\d{2}h\d{2}m)"
_ISO = r"(?P<iso>\d{4}-?\d{2}-?\d{2}[T_ ]\d{2}[-:.]?\d{2})"

Told = dict[str, str | None]


def _by_name(match: re.Match[str]) -> Told:
    return dict(match.groupdict())


def _in_its_folder(match: re.Match[str]) -> Told:
    """Take the last folder as the plate if the file's name has none."""
    told = _by_name(match)
    if not told.get("plate"):
        told["plate"] = _last_folder(match.string[: match.start("well")])
    return told


def _archive(match: re.Match[str]) -> Told:
    told = _by_name(match)
    return told | {"date": "20{year}-{month}-{day}T{hour}:{minute}".format(**match.groupdict())}


def _opera(match: re.Match[str]) -> Told:
    told = _by_name(match)
    row, column = int(told.pop("row") or 0), int(told.pop("column") or 0)
    if not 1 <= row <= MOST_ROWS:
        return {}
    folder = re.sub(r"/Images$", "", match.string[: match.start()].rstrip("/"))
    return told | {"well": well_name(row - 1, column - 1), "plate": folder.rpartition("/")[2]}


def _image_xpress(match: re.Match[str]) -> Told:
    told = _by_name(match)
    if match["thumb"]:
        return {}  # a preview of the page beside it
    folder = re.sub(r"/?TimePoint_\d+.*$", "", match.string[: match.start("file")].rstrip("/"))
    return told | {"plate": told.get("plate") or folder.rpartition("/")[2]}


def _micro_manager(match: re.Match[str]) -> Told:
    """Read well and site from the position's folder (`B2-Site_0`); the plate is the folder above."""
    told = _by_name(match)
    above, _, position = match.string[: match.start()].rstrip("/").rpartition("/")
    named = re.search(r"(?:^|[_-])([A-P]\d{1,2})-Site_(\d{1,4})$", position)
    if named is not None:
        told |= {"well": named[1], "site": named[2]}
    return told | {"plate": above.rpartition("/")[2]}


_Preset = tuple[str, re.Pattern[str], Callable[[re.Match[str]], Told]]
PRESETS: tuple[_Preset, ...] = (
    (
        "incucyte_elapsed",
        re.compile(rf"{_EXPERIMENT}{_WELL}_(?P<site>\d{{1,3}})_{_ELAPSED}(?:_(?P<part>\d{{1,3}}))?$"),
        _in_its_folder,
    ),
    (
        "incucyte_clock",
        re.compile(rf"{_EXPERIMENT}{_WELL}_(?P<site>\d{{1,3}})_{_CLOCK}(?:_(?P<part>\d{{1,3}}))?$"),
        _in_its_folder,
    ),
    (
        "incucyte_archive",
        re.compile(
            r"(?:^|/)(?P<year>\d{2})(?P<month>\d{2})/(?P<day>\d{2})/(?P<hour>\d{2})(?P<minute>\d{2})/"
            r"(?P<plate>[^/]+)/"
            rf"{_WELL}[-_](?P<site>\d{{1,3}})[-_](?P<channel>{_CHANNEL})$"
        ),
        _archive,
    ),
    (
        "incucyte_by_time",
        re.compile(
            rf"(?:^|/)(?:(?:{_ELAPSED}|{_CLOCK}|{_ISO}|[^/]+)/)?"
            rf"(?:(?P<plate>[^/]+)/)?{_WELL}[-_](?P<site>\d{{1,3}})[-_](?P<channel>{_CHANNEL})$"
        ),
        _by_name,
    ),
    (
        "opera",
        re.compile(
            r"(?:(?<=/)|^)r(?P<row>\d{2})c(?P<column>\d{2})f(?P<site>\d{2,3})p(?P<plane>\d{2,3})"
            r"-ch(?P<channel>\d{1,2})sk(?P<frame>\d{1,5})fk\d{1,3}fl\d{1,3}$"
        ),
        _opera,
    ),
    (
        "yokogawa",
        re.compile(
            r"(?:^|/)(?P<plate>[^/]+)_(?P<well>[A-Z]{1,2}\d{2})_T(?P<frame>\d{4})F(?P<site>\d{3,4})L\d{2}A\d{2}"
            r"Z(?P<plane>\d{2,3})C(?P<channel>\d{2})$"
        ),
        _by_name,
    ),
    (
        "image_xpress",
        re.compile(
            r"(?:(?<=/)TimePoint_(?P<frame>\d{1,5})/(?:ZStep_(?P<plane>\d{1,4})/)?|"
            r"^TimePoint_(?P<frame_>\d{1,5})/(?:ZStep_(?P<plane_>\d{1,4})/)?|(?<=/)|^)"
            r"(?P<file>(?:(?P<plate>[^/]+)_)?(?P<well>[A-Z]{1,2}\d{2})(?=_[sw]\d)(?:_s(?P<site>\d{1,3}))?"
            r"(?:_w(?P<channel>\d))?(?P<thumb>_thumb)?(?:[0-9A-F]{8}-[0-9A-F-]{27})?)$"
        ),
        _image_xpress,
    ),
    (
        "gen5",
        re.compile(
            rf"(?:^|/){_WELL}_-?\d{{1,3}}_\d{{1,4}}_(?P<site>\d{{1,4}})_"
            r"(?P<channel>(?!Z\d)[A-Za-z][A-Za-z0-9 ,\[\]]{1,80})_(?P<frame>\d{3,5})$"
        ),
        _in_its_folder,
    ),
    (
        "gen5_stack",
        re.compile(
            rf"(?:^|/){_WELL}_(?P<site>-?\d{{1,4}})(?:Z(?P<plane>\d{{1,4}}))?_"
            r"(?P<channel>[A-Za-z][A-Za-z0-9 ,\[\]]{1,80})_\d{1,3}_(?P<frame>\d{3,5})_[0-9-]{0,4}$"
        ),
        _in_its_folder,
    ),
    (
        "micro_manager",
        re.compile(
            r"(?<![^/])img_channel(?P<channel>\d{1,4})_position(?P<site>\d{1,6})_time(?P<frame>\d{1,10})"
            r"_z(?P<plane>\d{1,5})$"
        ),
        _micro_manager,
    ),
)


def _last_folder(path: str) -> str:
    return PurePosixPath(path).parent.name if not path.endswith("/") else PurePosixPath(path).name
