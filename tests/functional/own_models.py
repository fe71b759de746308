"""Models for tests: the shipped network under another sha256, with a threshold that tells its masks apart."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx

from cytomask.model.predictor import WEIGHTS

SHIPPED = WEIGHTS / "native"
THRESHOLD = 0.9  # masks are smaller than those of the shipped 0.5


def make_model(folder: Path, name: str, threshold: float = THRESHOLD, **manifest: Any) -> str:
    """Write a model to a folder and return its sha256."""
    # A field of ONNX's ModelProto that is only a comment (6, doc_string), at the end of the file.
    comment = bytes([0x32, len(name)]) + name.encode()
    return write_model(
        folder, (SHIPPED / "swin_unet.onnx").read_bytes() + comment, name, threshold, **manifest
    )


def make_other_architecture(folder: Path, name: str) -> str:
    """Write a model that takes tiles of half the side."""
    tile = [1, 1, 112, 112]
    image, logits = (
        onnx.helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, tile) for each in ("image", "logits")
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["image"], ["logits"])], "g", [image], [logits]
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    content = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return write_model(folder, content, name, THRESHOLD)


def write_model(folder: Path, content: bytes, name: str, threshold: float, **manifest: Any) -> str:
    """Write an ONNX file and its manifest; return its sha256."""
    sha256 = hashlib.sha256(content).hexdigest()
    told = json.loads((SHIPPED / "manifest.json").read_text())
    told |= {"name": name, "sha256": sha256, "threshold": threshold, **manifest}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / told["file"]).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(told))
    return sha256
