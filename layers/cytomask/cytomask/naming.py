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

from cytomask.wells import MOST_ROWS, well_name

_WELL = r"(?P<well>[A-Za-z]{1,2}\d{1,3})"
_CHANNEL = (
    r"(?i:Phase(?:[ _-]?(?:Contrast|Original))?|Bright[ _-]?field|"
    r"(?:Green|Red|NIR|Near[ _-]?IR|Orange|Blue)(?:[ _-]?(?:Original|Calibrated|Image))?)|"
    r"Ph|P|BF|C\d"
)
# Everything before `_WELL`; lazy, and every later part has a bounded length.
_EXPERIMENT = rf"(?:^|/)(?:(?P<plate>[^/]*?)(?:[_-](?P<channel>{_CHANNEL}))?_)?"
_ELAPSED = r"(?P<elapsed>\d{1,3}d\d{1,2}h\d{1,2}m)"
_HOURS = r"(?P<elapsed>(?:\d{1,3}d)?\d{1,4}h(?:\d{1,2}m)?)"
_CLOCK = r"(?P<date>\d{4}y\d{2}m\d{2}d_\d{2}h\d{2}m)"
_ISO = r"(?P<iso>\d{4}-?\d{2}-?\d{2}[T_ ]\d{2}[-:.]?\d{2}(?:[-:.]?\d{2})?)"

Told = dict[str, str]  # without a plate if the folder is the plate; an empty plate if that is not so either


def last_folder(path: str) -> str:
    """Return the name of the folder that a path ends in; empty if it has none."""
    return path.rpartition("/")[0].rstrip("/").rpartition("/")[2]


def _by_name(match: re.Match[str]) -> Told:
    return {name: text for name, text in match.groupdict().items() if text}


def _archive(match: re.Match[str]) -> Told:
    told = _by_name(match)
    return told | {"date": "20{year}-{month}-{day}T{hour}:{minute}".format(**told)}


def _by_time(match: re.Match[str]) -> Told:
    """Take the folder above that of the time as the plate if there is none between."""
    told = _by_name(match)
    told["date"] = told.get("date") or told.get("iso", "")
    if "elapsed" in told or told["date"]:
        told.setdefault("plate", last_folder(match.string[: match.start("folder")]))
    return told


def _opera(match: re.Match[str]) -> Told:
    told = _by_name(match)
    row, column = int(told["row"]), int(told["column"])
    if not 1 <= row <= MOST_ROWS:
        return {}
    folder = re.sub(r"(?<![^/])Images/$", "", match.string[: match.start()])
    return told | {"well": well_name(row - 1, column - 1), "plate": last_folder(folder)}


def _image_xpress(match: re.Match[str]) -> Told:
    told = _by_name(match)
    if match["thumb"]:
        return {}  # a preview of the page beside it
    return {"plate": last_folder(match.string[: match.start()])} | told


def _micro_manager(match: re.Match[str]) -> Told:
    """Read well and site from the position's folder (`B2-Site_0`); the plate is the folder above."""
    told = _by_name(match)
    above, _, position = match.string[: match.start()].rstrip("/").rpartition("/")
    named = re.search(r"(?:^|[_-])([A-P]\d{1,2})-Site_(\d{1,4})$", position)
    if named is not None:
        told |= {"well": named[1], "site": named[2]}
    return told | {"plate": last_folder(f"{above}/")}


_Preset = tuple[str, re.Pattern[str], Callable[[re.Match[str]], Told]]
PRESETS: tuple[_Preset, ...] = (
    (
        "incucyte_elapsed",
        re.compile(rf"{_EXPERIMENT}{_WELL}_(?P<site>\d{{1,3}})_{_ELAPSED}(?:_(?P<part>\d{{1,3}}))?$"),
        _by_name,
    ),
    (
        "incucyte_clock",
        re.compile(rf"{_EXPERIMENT}{_WELL}_(?P<site>\d{{1,3}})_{_CLOCK}(?:_(?P<part>\d{{1,3}}))?$"),
        _by_name,
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
            rf"(?<![^/])(?P<folder>(?:{_HOURS}|{_CLOCK}|{_ISO})/)?"
            rf"(?:(?P<plate>[^/]+)/)?{_WELL}[-_](?P<site>\d{{1,3}})[-_](?P<channel>{_CHANNEL})$"
        ),
        _by_time,
    ),
    (
        "opera",
        re.compile(
            r"(?<![^/])r(?P<row>\d{2})c(?P<column>\d{2})f(?P<site>\d{2,3})p(?P<plane>\d{2,3})"
            r"-ch(?P<channel>\d{1,2})sk(?P<frame>\d{1,5})fk\d{1,3}fl\d{1,3}$"
        ),
        _opera,
    ),
    (
        "yokogawa",
        re.compile(
            r"(?<![^/])(?:(?P<plate>[^/]*)_)?(?P<well>[A-Z]{1,2}\d{2})_T(?P<frame>\d{4})F(?P<site>\d{3,4})L\d{2}A\d{2}"
            r"Z(?P<plane>\d{2,3})C(?P<channel>\d{2})$"
        ),
        _by_name,
    ),
    (
        "image_xpress",
        re.compile(
            r"(?<![^/])(?:[Tt]ime[Pp]oint_?(?P<frame>\d{1,5})/(?:ZStep_(?P<plane>\d{1,4})/)?)?"
            # Lower-case s and w are site and wavelength. Names without both count in a TimePoint folder.
            r"(?:(?P<plate>[^/]+)_)?(?P<well>[A-Z]{1,2}\d{1,2}|[a-p]\d{1,2})(?(frame)|(?=_[sw]\d))"
            r"(?:_s(?P<site>\d{1,3}))?(?:_w(?P<channel>\d{1,2}))?(?P<thumb>_thumb)?"
            r"(?:[0-9A-Fa-f]{8}-[0-9A-Fa-f-]{27})?$"
        ),
        _image_xpress,
    ),
    (
        "gen5",
        re.compile(
            rf"(?:^|/){_WELL}_-?\d{{1,3}}_\d{{1,4}}_(?P<site>\d{{1,4}})_"
            r"(?P<channel>(?!Z\d)[A-Za-z][A-Za-z0-9 ,\[\]]{1,80})_(?P<frame>\d{3,5})$"
        ),
        _by_name,
    ),
    (
        "gen5_stack",
        re.compile(
            rf"(?:^|/){_WELL}_(?P<site>-?\d{{1,4}})(?:Z(?P<plane>\d{{1,4}}))?_"
            r"(?P<channel>[A-Za-z][A-Za-z0-9 ,\[\]]{1,80})_\d{1,3}_(?P<frame>\d{3,5})_[0-9-]{0,4}$"
        ),
        _by_name,
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
