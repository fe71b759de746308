"""Small true files of microscopes: CZI by Zeiss's own writer, LIF and ND2 byte by byte.

LIF and ND2 have no free writer. The bytes follow what liffile and nd2 read; no file of a real Leica or Nikon
microscope is among the tests.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stack = NDArray[np.uint16]  # T, C, H, W


def write_czi(
    path: Path, stack: Stack, *, pixel_um: float, channels: Mapping[int, str], timed: bool = True
) -> None:
    """Write a CZI, whose times are a minute apart if it is `timed`."""
    from pylibCZIrw import czi

    with czi.create_czi(str(path)) as file:
        for time, planes in enumerate(stack):
            for channel, plane in enumerate(planes):
                file.write(plane[..., None], plane={"T": time, "C": channel, "Z": 0}, scene=0)
        names: Any = dict(channels)
        file.write_metadata(ROOM, channel_names=names, scale_x=pixel_um / 1e6, scale_y=pixel_um / 1e6)
    if timed:
        path.write_bytes(_timed(path.read_bytes()))


def _timed(content: bytes) -> bytes:
    """Put a date and an interval into a CZI's metadata, in the place of its title."""
    begin, end = content.index(b"<ImageDocument>"), content.index(b"</ImageDocument>")
    told = b"".join(line.strip() for line in content[begin:end].splitlines())
    told = told.replace(ROOM.encode(), b"a").replace(b"<Dimensions>", CZI_DATE + b"<Dimensions>" + CZI_TIMES)
    return content[:begin] + told.ljust(end - begin) + content[end:]


ROOM = "room" * 50
CZI_DATE = b"<AcquisitionDateAndTime>2026-11-25T13:20:11.5Z</AcquisitionDateAndTime>"
CZI_TIMES = b"<T><Positions><Interval><Increment>60</Increment></Interval></Positions></T>"
LIF_START = 134400864110000000  # 2026-11-25T13:20:11, in tenths of microseconds since 1601


def write_lif(path: Path, stack: Stack, *, pixel_um: float, timed: bool = True) -> None:
    """Write a LIF: an XML header in UTF-16, then a block of memory; stamps a minute apart if `timed`."""
    times, channels, height, width = stack.shape
    item = stack.dtype.itemsize
    strides = {"X": item, "Y": item * width, "T": item * width * height * channels}
    sizes = {"X": (1, width), "Y": (2, height), "T": (4, times)}
    described = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" NameOfMeasuredQuantity="" Min="0" '
        f'Max="65535" Unit="" LUTName="Gray" IsLUTInverted="0" BytesInc="{number * item * width * height}" '
        'BitInc="0"/>'
        for number in range(channels)
    )
    dimensions = "".join(
        f'<DimensionDescription DimID="{identity}" NumberOfElements="{count}" Origin="0" '
        f'Length="{(count - 1) * pixel_um / 1e6}" Unit="m" BytesInc="{strides[axis]}" BitInc="0"/>'
        for axis, (identity, count) in sizes.items()
    )
    stamps = " ".join(
        f"{LIF_START + time * 60 * 10**7 + channel * 10**6:x}"
        for time in range(times)
        for channel in range(channels)
    )
    listed = f"<TimeStampList>{stamps}</TimeStampList>" if timed else ""
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="a" UniqueID="1"><Children>'
        '<Element Name="Series001" UniqueID="2"><Data><Image><ImageDescription>'
        f"<Channels>{described}</Channels><Dimensions>{dimensions}</Dimensions></ImageDescription>{listed}</Image>"
        "</Data>"
        f'<Memory Size="{stack.nbytes}" MemoryBlockID="MemBlock_1"/></Element>'
        "</Children></Element></LMSDataContainerHeader>"
    )
    name = "MemBlock_1"
    path.write_bytes(
        struct.pack("<IIBI", 0x70, 2 * len(xml) + 5, 0x2A, len(xml))
        + xml.encode("utf-16-le")
        + struct.pack("<IIBQBI", 0x70, 2 * len(name) + 14, 0x2A, stack.nbytes, 0x2A, len(name))
        + name.encode("utf-16-le")
        + stack.tobytes()
    )


MAGIC = 0x0ABECEDA
IMAGE_NAME_ROOM = 4072  # of an image's chunk: nd2 skips its head and name as 4,096 bytes, and 8 of the time
PROBE = (
    '<pFluorescentProbe runtype="CLxListVariant"><m_ExcitationSpectrum runtype="CLxListVariant">'
    '<uiCount runtype="lx_uint32" value="0"/></m_ExcitationSpectrum></pFluorescentProbe>'
)


def write_nd2(
    path: Path, stack: Stack, *, pixel_um: float, channels: Mapping[int, str], probes: bool = True
) -> None:
    """Write an ND2 of version 2.1: chunks with XML, images with interleaved channels, a map of the chunks."""
    times, count, height, width = stack.shape
    planes = "".join(
        f'<i{number:010} runtype="CLxListVariant"><sDescription runtype="CLxStringW" value="{name}"/>'
        f'<uiCompCount runtype="lx_uint32" value="1"/>{PROBE if probes else ""}</i{number:010}>'
        for number, name in channels.items()
    )
    chunks: dict[str, bytes] = {
        "ImageAttributes!": _variant(
            uiWidth=width,
            uiHeight=height,
            uiWidthBytes=width * count * 2,
            uiComp=count,
            uiBpcInMemory=16,
            uiBpcSignificant=16,
            uiSequenceCount=times,
            uiTileWidth=width,
            uiTileHeight=height,
            eCompression=2,
        ),
        "ImageMetadataSeq|0!": (
            '<variant version="1.0"><no_name runtype="CLxListVariant">'
            '<bCalibrated runtype="bool" value="true"/>'
            f'<dCalibration runtype="double" value="{pixel_um}"/>'
            '<dTimeMSec runtype="double" value="0"/>'
            f'<sPicturePlanes runtype="CLxListVariant"><uiCount runtype="lx_uint32" value="{count}"/>'
            f'<sPlaneNew runtype="CLxListVariant">{planes}</sPlaneNew></sPicturePlanes></no_name></variant>'
        ).encode(),
        "ImageMetadata!": (
            '<variant version="1.0"><no_name runtype="CLxListVariant"><eType runtype="lx_uint32" value="1"/>'
            '<uLoopPars runtype="CLxListVariant">'
            f'<uiCount runtype="lx_uint32" value="{times}"/><dStart runtype="double" value="0"/>'
            '<dPeriod runtype="double" value="60000"/><dDuration runtype="double" value="0"/>'
            '<dMinPeriodDiff runtype="double" value="0"/><dMaxPeriodDiff runtype="double" value="0"/>'
            '<dAvgPeriodDiff runtype="double" value="0"/></uLoopPars></no_name></variant>'
        ).encode(),
        "CustomData|AcqTimesCache!": (np.arange(times, dtype=np.float64) * 60_000).tobytes(),
    }
    for time, frame in enumerate(stack):
        pixels = np.ascontiguousarray(frame.transpose(1, 2, 0))  # H, W, C
        chunks[f"ImageDataSeq|{time}!"] = struct.pack("<d", time * 60_000.0) + pixels.tobytes()
    data = (
        struct.pack("<IIQ", MAGIC, 32, 64) + b"ND2 FILE SIGNATURE CHUNK NAME01!" + b"Ver2.1".ljust(64, b"\0")
    )
    places = []
    for name, content in chunks.items():
        room = IMAGE_NAME_ROOM if name.startswith("ImageDataSeq") else len(name) + 1
        places.append((name.encode(), len(data), len(content)))
        data += struct.pack("<IIQ", MAGIC, room, len(content)) + name.encode().ljust(room, b"\0") + content
    signature = b"ND2 FILEMAP SIGNATURE NAME 0001!"
    end = b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", len(data))
    listed = b"".join(name + struct.pack("<QQ", at, size) for name, at, size in places) + end
    path.write_bytes(data + struct.pack("<IIQ", MAGIC, len(signature), len(listed)) + signature + listed)


def _variant(**values: int) -> bytes:
    inner = "".join(f'<{name} runtype="lx_uint32" value="{value}"/>' for name, value in values.items())
    return (f'<variant version="1.0"><no_name runtype="CLxListVariant">{inner}</no_name></variant>').encode()
