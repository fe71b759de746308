"""Make texts: descriptions of TIFFs, COCO files and plate maps, of hostile XML, JSON, tables and numbers."""

import codecs
import random
import struct
from collections.abc import Sequence

MOST_LETTERS = 9 * 2**20  # a little more than any description may have
MOST_LETTERS_OF_COCO = 64 * 2**20
TIMES = (0, 1, 3, 100, 5000, 100_000, 1_500_000)
LONG = (1, 30, 300, 5000, 200_000, 4_000_000)
WHOLE = ("0", "1", "-1", "2", "16", "255", "10000", "2147483647", "4294967295", "9" * 20, "9" * 5000)
NUMBERS = (
    *WHOLE,
    "1.0",
    "0.5",
    "1e9",
    "1e308",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "1e-400",
    '"7"',
    "null",
)
SIDES = (1, 2, 16, 100, 704, 2048, 8000)
SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def _often(part: str, chance: random.Random, most: int = MOST_LETTERS) -> str:
    """Repeat a text, mostly a few times."""
    [times] = chance.choices(TIMES, (10, 30, 20, 15, 10, 10, 5))
    return part * min(times, most // len(part))


def _long(letters: str, chance: random.Random) -> str:
    [length] = chance.choices(LONG, (30, 30, 20, 10, 7, 3))
    return (letters * length)[:length]


def _mostly(usual: str, chance: random.Random, others: Sequence[str]) -> str:
    return usual if chance.random() < 0.85 else chance.choice(others)


def _nested(before: str, after: str, chance: random.Random) -> str:
    depth = chance.choice((1, 10, 1000, 50_000, 1_000_000))
    return before * depth + after * chance.choice((depth, depth, depth, 0))


# Descriptions


def make_description(chance: random.Random, pages: int) -> bytes:
    """Make an ImageDescription, with its NUL, that some reader knows; mostly an empty one."""
    if chance.random() < 0.6:
        return b""
    many = chance.choice(WHOLE)
    times = _mostly(str(pages), chance, WHOLE)
    match chance.choice(("ome", "ome", "xml", "imagej", "shaped", "json", "settings")):
        case "ome":
            text = _declared(_ome(pages, chance), chance)
        case "xml":
            text = make_xml(chance)
        case "imagej":
            more = _often(chance.choice(("a=1\n", "frames=2\n", "\n", "loop=")), chance)
            text = f"ImageJ=1.53\nimages={many}\nframes={times}\nhyperstack=true\nfinterval={many}\n{more}"
        case "shaped":
            shape = f"[{times}, {chance.choice(SIDES)}, {chance.choice(SIDES)}]"
            text = f'{{"shape": {shape}, "axes": "TYX", "x": {make_json(chance)}}}'
        case "json":
            text = make_json(chance)
        case "settings":
            scanner = chance.choice(
                ("Aperio Image Library\n", "SCANIMAGE.SI.a = 1\n", "MetaSystems", "<MetaData>")
            )
            text = scanner + _often(chance.choice(("|a = 1", "a = 1\n", "<prop id='a'/>")), chance)
    return text.encode(errors="replace") + b"\0"


def _ome(pages: int, chance: random.Random) -> str:
    """Make OME's elements: images, channels, planes and their places, more or fewer than there are."""
    side = chance.choice(SIDES)
    samples, frames = _mostly("1", chance, ("3", *WHOLE)), _mostly(str(pages), chance, WHOLE)
    size = f'SizeX="{side}" SizeY="{side}" SizeC="{samples}" SizeZ="1" SizeT="{frames}"'
    page, planes = _mostly("0", chance, WHOLE), _mostly(str(pages), chance, WHOLE)
    parts = (
        f'<TiffData IFD="{page}"/>',
        f'<TiffData IFD="{page}" PlaneCount="{planes}"/>',
        '<TiffData><UUID FileName="other.ome.tif">urn:uuid:1</UUID></TiffData>',
        f'<Channel ID="C:0" SamplesPerPixel="{samples}" Name="{_long("n", chance)}"/>',
        f'<Plane TheT="{page}" TheC="0" TheZ="0" DeltaT="{chance.choice(WHOLE)}"/>',
    )
    inside = "".join(_often(part, chance, 2**22) for part in chance.sample(parts, 3))
    date = f"<AcquisitionDate>{chance.choice(('2026-01-02T03:04:05', _long('9', chance)))}</AcquisitionDate>"
    image = f'<Image ID="I:0">{date}<Pixels DimensionOrder="XYZCT" {size}>{inside}</Pixels></Image>'
    return f'<OME xmlns="{SCHEMA}">{_often(image, chance, 2**22) or image}{_markup(chance)}</OME>'


def _declared(root: str, chance: random.Random) -> str:
    """Put declarations, comments or a document type before a root."""
    grown = "".join(f'<!ENTITY e{number + 1} "{f"&e{number};" * 10}">' for number in range(9))
    before = (
        "",
        '<?xml version="1.0"?>',
        _often("<!-- a -->", chance),
        _often("<?a b?>", chance),
        "\ufeff" + _long(" ", chance),
        "<!--" + _long("-", chance),
        "<!DOCTYPE " + _long("a", chance),
        "<!DOCTYPE " + _long("[", chance),
        "<!DOCTYPE a [" + _often("<!ELEMENT a (b)>", chance) + "]>",
        f'<!DOCTYPE OME [<!ENTITY e0 "0123456789">{grown}]>',
        f'<!DOCTYPE OME [<!ENTITY e0 "{_long("a", chance)}">]>',
        "<!DOCTYPE OME SYSTEM 'file:///etc/passwd'>" * chance.choice((1, 1000)),
    )
    [chosen] = chance.choices(before, (40, 15, *[5] * 10))
    return chosen + root


def make_xml(chance: random.Random) -> str:
    """Make XML of no meaning, below the root of a reader that takes it."""
    root = chance.choice(("OME", "OME", "Argos", "iScan", "scan", "MetaData", "a"))
    return _declared(f"<{root}>{_markup(chance)}</{root}>", chance)


def _markup(chance: random.Random) -> str:
    """Make elements, attributes or text of no meaning: none, many, long, or deeply nested."""
    attributes = " ".join(f'a{number}="1"' for number in range(chance.choice((1, 1000, 30_000))))
    return chance.choice(
        (
            "",
            "",
            _nested("<a>", "</a>", chance),
            _often("<a/>", chance),
            _often("<!-- -->", chance),
            f"<a {attributes}/>",
            f'<a b="{_long("x", chance)}"/>',
            "<" + _long("a", chance) + "/>",
            _long("text ", chance),
            "<![CDATA[" + _long("]", chance) + "]]>",
            _often("&amp;", chance) + _often("&e9;", chance, 1000),
            "".join(f"<b{number}/>" for number in range(chance.choice((1, 200_000)))),
        )
    )


def make_json(chance: random.Random) -> str:
    """Make JSON of no meaning: numbers, texts, lists and objects, many, long or deeply nested."""
    return chance.choice(
        (
            chance.choice(NUMBERS),
            '"' + _long("a", chance) + '"',
            '"' + _long("\\u00e9", chance) + '"',
            "[" + _often("[],", chance) + "[]]",
            "[" + _often(chance.choice(NUMBERS) + ",", chance) + "0]",
            "{" + _often('"a":1,', chance) + '"a":2}',
            "{" + "".join(f'"{number}":{{}},' for number in range(chance.choice((1, 300_000)))) + '"a":2}',
            _nested("[", "]", chance),
            _nested('{"a":', "}", chance),
            _long(" ", chance) + "1",
        )
    )


def make_micro_manager(order: str, chance: random.Random) -> bytes:
    """Make what Micro-Manager writes behind a TIFF's first eight bytes: where its lists are, and JSON."""
    summary = f'{{"MajorVersion": 1, "PixelType": "GRAY16", "x": {make_json(chance)}}}'.encode(
        errors="replace"
    )
    places = [chance.choice((8, 40, 2**31, 2**32 - 1)) for _ in range(3)]
    length = chance.choice((len(summary), len(summary), 2**32 - 1))
    old = (54_773_648, places[0], 483_765_892, places[1], 99_384_722, places[2], 2_355_492, length)
    new = chance.choice(((483_729, 2, 2_355_492, length), (483_729, 3, 1, 2_355_492, length)))
    header = old if chance.random() < 0.6 else new
    index = 3_453_623, chance.choice((1, 2**24, 2**32 - 1))
    return (
        struct.pack(f"{order}{len(header)}I", *header)
        + summary
        + struct.pack(order + "2I", *index)
        + bytes(20 * chance.choice((1, 1000, 10**6)))
    )


# COCO files


def make_coco(chance: random.Random) -> bytes:
    """Make a COCO file: images and annotations of any number, form and size, and parts of no meaning."""
    height, width = chance.choice(SIDES), chance.choice(SIDES)
    listed = _images(height, width, chance)
    outlined = _annotations(height, width, chance)
    extra = f'"info":{make_json(chance)},' * (chance.random() < 0.1)
    twice = f'"images":{make_json(chance)},' * (chance.random() < 0.05)
    own = f',"annotations_without_image":{chance.choice(NUMBERS)},"prefix":"{_long("p", chance)}"'
    text = f'{{{extra}{twice}"images":{listed},"annotations":{outlined}{own * (chance.random() < 0.1)}}}'
    match chance.choices(("utf-8", "utf-16", "mark", "latin-1"), (88, 4, 4, 4))[0]:
        case "utf-16":
            return codecs.BOM_UTF16_LE + text.encode("utf-16-le")
        case "mark":
            return codecs.BOM_UTF8 + text.encode()
        case "latin-1":
            return text.replace("a.tif", "\xe9.tif").encode("latin-1", errors="replace")
    return text.encode()


def _images(height: int, width: int, chance: random.Random) -> str:
    """List one image, and after it the same one, others or nothing meaningful, often."""
    name = chance.choice(("a.tif", "a.tif", "a.tif", "f/a.tif", "/" * 5000, _long("n", chance)))
    number = chance.choice(("1", "1", "1", '"1"', "1.0", chance.choice(NUMBERS)))
    sides = chance.choice(
        (f'"width":{width},"height":{height}',) * 4 + (f'"width":{chance.choice(NUMBERS)}',)
    )
    one = f'{{"id":{number},"file_name":"{name}",{sides}}}'
    match chance.choice(("one", "one", "keyed", "same", "others", "folders", "0")):
        case "keyed":
            return "{" + _often(f'"2":{one},', chance) + f'"1":{one}}}'
        case "same":
            return f"[{one},{_often(one + ',', chance)}{one}]"
        case "others" | "folders" as how:
            many = range(2, chance.choice((3, 1000, 19_000, 300_000)))
            names = "{}.tif" if how == "others" else "f{}/a.tif"
            others = ",".join(
                f'{{"id":{at},"file_name":"{names.format(at)}","width":16,"height":16}}' for at in many
            )
            return f"[{one},{others}]"
        case "0":
            return (
                f"[{one}"
                + _often("," + chance.choice(("0", "{}", "[]", '""', make_json(chance)[:99])), chance)
                + "]"
            )
    return f"[{one}]"


def _annotations(height: int, width: int, chance: random.Random) -> str:
    """List the same annotation often, each time under its number or not."""
    image = _mostly("1", chance, ('"1"', *NUMBERS))
    shape = _segmentation(height, width, chance)
    more = f',"x":{make_json(chance)}' * (chance.random() < 0.05)
    one = f'{{"id":7,"image_id":{image},"segmentation":{shape}{more}}}'
    if chance.random() < 0.1:
        return f"[{one}{_often(',' + chance.choice(('0', '{}', 'null')), chance)}]"
    if chance.random() < 0.1:
        return "{" + _often(f'"7":{one},', chance) + f'"8":{one}}}'
    return f"[{_often(one + ',', chance, MOST_LETTERS_OF_COCO)}{one}]"


def _segmentation(height: int, width: int, chance: random.Random) -> str:
    """Make an outline: polygons, or run lengths that fill the page or do not."""
    pixels = height * width
    letters = chance.choice(("0", "1", "_", "o", "P", "~", "PPPPPPP0", "\\u0030"))
    zigzag = "".join(
        f"0,{at % height},{width - 1},{at * 7 % height}," for at in range(chance.choice((3, 1400, 9000)))
    )
    point = f"{chance.choice(NUMBERS)},{chance.choice(NUMBERS)},"
    polygon = _mostly(
        chance.choice((f"[0,0,{width},0,{width},{height}]", f"[{zigzag}0,0]")),
        chance,
        (
            "[" + _often(point, chance) + "0,0]",
            "[" + _often("1.25,1.75,", chance) + "0,0,9,0,9,9]",
            "[0,0,0,0,0,0]",
            _nested("[", "]", chance),
        ),
    )
    every = "1," * (pixels - 1 if pixels < 3_000_000 else 10)
    empty = "0,0," * chance.choice((1, 1000, 800_000))
    runs = _mostly(
        chance.choice(
            (f"[0,{pixels}]", f"[{every}1]", f"[0,{empty}{pixels}]", f'"{compressed([0, pixels])}"')
        ),
        chance,
        (
            "[" + _often(chance.choice(NUMBERS) + ",", chance) + f"{pixels}]",
            f'"{compressed([0, 0, 0, *[2**38, 0] * 2**13, *[-(2**38), 0] * 2**13, pixels])}"',
            f'"{_long(letters, chance)}"',
        ),
    )
    match chance.choices(("polygons", "runs", "other"), (55, 40, 5))[0]:
        case "polygons":
            return f"[{_often(polygon + ',', chance)}{polygon}]"
        case "runs":
            return f'{{"size":[{_mostly(str(height), chance, NUMBERS)},{width}],"counts":{runs}}}'
    return make_json(chance)


def compressed(numbers: list[int]) -> str:
    """Write numbers as COCO's compressed run lengths have them: five bits a letter, lowest first."""
    letters = ""
    for number in numbers:
        more = True
        while more:
            bits, number = number & 31, number >> 5  # noqa: PLW2901  # its rest
            more = number != -(bits >> 4)
            letters += chr(48 + bits + 32 * more)
    return letters


# Plate maps


def make_plate_map(chance: random.Random) -> bytes:
    """Make a plate map: IncuCyte's XML, a list of wells or a grid, in any of the encodings."""
    make = chance.choice((_plate_xml, _plate_list, _plate_list, _plate_grid))
    text = make(chance)[: 2**22 - 9 if chance.random() < 0.9 else None]
    encoding = chance.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"))
    return text.encode(encoding, errors="replace")


def _plate_xml(chance: random.Random) -> str:
    row, column = _mostly("1", chance, (*WHOLE, _long("1", chance))), _mostly("11", chance, WHOLE)
    dose = _mostly("0.5", chance, (*NUMBERS, _long("1 000", chance), _long("1,000", chance)))
    reference = f'<referenceItem displayName="{_long("n", chance)}"/>'
    item = f'<wellItem type="Compound" concentration="{dose}" concentrationUnits="uM">{reference}</wellItem>'
    inside = _often(item, chance, 2**21) + _markup(chance)
    begin = f'<well row="{row}" col="{column}">'
    wells = chance.choice(
        (
            begin + inside + "</well>",
            _often(f"{begin}{item}</well>", chance, 2**22),
            _nested(begin, "</well>", chance),
            "".join(f'<well row="{at // 12}" col="{at % 12}">{item}</well>' for at in range(96)),
        )
    )
    return _declared(f"<plateMap><wells>{wells}</wells></plateMap>", chance)


def _plate_list(chance: random.Random) -> str:
    """Make a list of wells below a header, each with cells that its columns may take or not."""
    mark = chance.choice((",", ",", ";", "\t"))
    header = mark.join(
        chance.choice(("well,condition", "well,compound,dose,unit", "Well,dose (uM),drug")).split(",")
    )
    setting = (
        "#" + chance.choice(("plate", "control", "expected pages", "x")) + chance.choice((":", ";", "", " "))
    )
    well = chance.choice(("A1", "A1:H12", "A1:AF48", "A1 - AF48", "A1;A2"))
    well = _mostly(well, chance, ("ZZ99", _long("A1 ", chance), _long("(", chance)))
    doses = (
        *NUMBERS,
        "1 000 000",
        "1,000",
        _long("1 000 ", chance),
        _long("0", chance),
        _long("1,000", chance),
    )
    named = _mostly("x", chance, [_long(letter, chance) for letter in ("x", "\u00e9", " ", '"', "0")])
    cells = [well, named, _mostly("0.5", chance, doses), "uM"][: 4 if "dose" in header else 2]
    lines = (
        _often(setting + _long(chance.choice(("x", ";", " ", "1")), chance) + "\n", chance, 2**22),
        _often(
            chance.choice(("\n", mark, f"{mark}\n", '"\n', "sep=,\n", "\r", "\u2028", "\x0c")), chance, 2**22
        ),
        header + "\n",
        _often(mark.join(cells) + "\n", chance, 2**22),
        _often(f"B2{mark}y{mark}1{mark}z\n", chance, 2**22),
        _often(chance.choice(("(", "[", "(a)", "\t ", "well,", '"')), chance, 2**22),
    )
    return "".join(line for line in lines if line.startswith(header) or chance.random() < 0.4)


def _plate_grid(chance: random.Random) -> str:
    """Make a grid of conditions, with or without row letters and column numbers."""
    rows, columns = chance.choice(((8, 12), (16, 24), (32, 48), (1, 1), (3, 60_000), (60_000, 3), (400, 400)))
    cell = chance.choice(("x", "", "1", "DMSO 0.1 %", _long("c", chance)[:300]))
    letters, numbered = chance.random() < 0.5, chance.random() < 0.5
    lines = [",".join(("",) * letters + tuple(map(str, range(1, columns + 1))))] * numbered
    row = ",".join([cell] * columns)
    lines += [f"{chr(65 + at % 32)}," * letters + row for at in range(rows)]
    blank = _often(chance.choice(("\n", ",\n", ",,,,,\n", "title\n")), chance, 2**20)
    return (blank + "\n".join(lines) + blank)[: 2**23]
