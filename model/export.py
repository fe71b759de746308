"""Export a checkpoint: `python -m cytomask.model.export CHECKPOINT …` writes the ONNX file and its manifest.

It does not score them. `cytomask.training.promote` does, and only it writes the weights that ship.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import onnx
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from cytomask.model import preprocess
from cytomask.model.predictor import MANIFEST, MODES, Ancestor, Manifest, Mode, tile_side
from cytomask.model.serving_network import ServingNetwork
from cytomask.model.swin_unet import STRIDE, SwinUNet, SwinUNetConfig, count_parameters

ONNX_FILE = "swin_unet.onnx"
OPSET = 23  # the first with the Attention operator

# The terms that a licence may carry, and the words that state them.
RESTRICTIONS = {
    "non-commercial": re.compile(r"\bNC\b|\bnon-?\s?commercial", re.IGNORECASE),
    "share-alike": re.compile(r"\bSA\b|\bshare-?\s?alike|\bA?GPL", re.IGNORECASE),
    "without derivatives": re.compile(r"\bND\b|\bno-?\s?deriv", re.IGNORECASE),
}


def load_checkpoint(path: Path) -> SwinUNet:
    """Load the network of a training checkpoint, ready for inference.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a safetensors file of a Swin-UNet.
    """
    try:
        with safe_open(path, "pt") as file:
            sizes = json.loads(file.metadata()["config"])
        network = SwinUNet(SwinUNetConfig.from_dict(sizes))
        network.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"{path} is not a checkpoint of a Swin-UNet ({reason}); give the swin_unet.safetensors of a run"
        ) from error
    return network.eval()


def read_lineage(path: Path) -> list[Ancestor]:
    """Read which weights a checkpoint began from, oldest first.

    Raises:
        ValueError: the file does not say.
    """
    try:
        with safe_open(path, "pt") as file:
            return msgspec.json.decode(file.metadata()["lineage"], type=list[Ancestor])
    except (SafetensorError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise ValueError(
            f"{path} does not say which weights it began from, so its licence is unknown; train it with this "
            "version, or keep the manifest.json of its release beside it"
        ) from error


def check_licence(name: str, licence: str, lineage: Sequence[Ancestor]) -> None:
    """Check that a licence allows no more than the licences of the weights these began from.

    Raises:
        ValueError: it allows more; the message names the nearest ancestor and the missing term.
    """
    for ancestor in reversed(lineage):
        for term, pattern in RESTRICTIONS.items():
            if pattern.search(ancestor.licence) and not pattern.search(licence):
                raise ValueError(
                    f"{name} cannot have the licence {licence}, because it builds on {ancestor.name}, whose "
                    f"licence is {term} ({ancestor.licence}); give a licence that is {term} too"
                )


def join_licences(parent: str, pairs: str) -> str:
    """Return the licence of weights that began from a parent and learned from pairs of another licence.

    Args:
        parent: licence of the start weights.
        pairs: licence of images and ground truths; empty if they are the user's own.

    Raises:
        ValueError: the two cannot be combined.
    """
    if RESTRICTIONS["without derivatives"].search(pairs):
        raise ValueError(
            f"the licence of the pairs ({pairs}) allows no derived works, and weights are a derived work; "
            "ask the owner of the images for permission"
        )
    open_to_all = RESTRICTIONS["share-alike"].search(pairs) and not RESTRICTIONS["non-commercial"].search(
        pairs
    )
    if open_to_all and RESTRICTIONS["non-commercial"].search(parent):
        raise ValueError(
            f"the licence of the pairs ({pairs}) requires the same terms for the weights, but the start "
            f"weights are non-commercial ({parent}), so the two cannot be combined; use other pairs, or "
            "begin from other weights"
        )
    return f"{parent}; pairs: {pairs}" if pairs else parent


def export_onnx(network: SwinUNet, path: Path) -> None:
    """Write the network as ONNX: `image` (1, 1, tile, tile) float32 to `logits` of the same shape.

    It exports the graph of `ServingNetwork`, which is faster than the graph used in training.
    """
    example = torch.zeros(1, 1, network.config.tile, network.config.tile)
    program = torch.onnx.export(
        ServingNetwork(network.eval()).eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None  # it never is with dynamo=True
    # Node metadata holds the source paths of the machine that exported.
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def export(
    network: SwinUNet,
    folder: Path,
    *,
    name: str,
    threshold: float,
    training: dict[str, Any],
    training_data: list[str],
    licence: str,
    scores: dict[str, Any],
    lineage: Sequence[Ancestor] = (),
) -> Manifest:
    """Write the ONNX file and the manifest into `folder`, the folder of one mode.

    Raises:
        ValueError: the licence allows more than the licences of the weights these began from, or the network
            takes other tiles than the mode serves.
    """
    check_licence(name, licence, lineage)
    if network.config.tile != (side := tile_side(mode_of(training))):
        raise ValueError(
            f"{name} takes tiles of {network.config.tile} pixels, but {mode_of(training)} mode has tiles of "
            f"{side}; train it with windows of {side // STRIDE} tokens"
        )
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(network, folder / ONNX_FILE)
    manifest = Manifest(
        name=name,
        mode=mode_of(training),
        file=ONNX_FILE,
        sha256=hashlib.sha256((folder / ONNX_FILE).read_bytes()).hexdigest(),
        parameters=count_parameters(network),
        architecture=network.config.as_dict(),
        normalisation=preprocess.NORMALISATION,
        tile=network.config.tile,
        overlap=preprocess.OVERLAP,
        threshold=threshold,
        training=training,
        training_data=training_data,
        licence=licence,
        scores=scores,
        lineage=[*lineage],
    )
    write_manifest(manifest, folder)
    return manifest


def mode_of(training: Mapping[str, Any]) -> Mode:
    """Return the mode that a run's configuration names, `native` by default; raise ValueError if unknown."""
    mode = training.get("mode", "native")
    if mode not in MODES:
        raise ValueError(f"invalid mode {mode}; use {' or '.join(MODES)}")
    return cast(Mode, mode)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest into a folder of weights."""
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of the export."""
    parser = argparse.ArgumentParser(description="Export a checkpoint for serving.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", required=True, help="name of the model, with its version")
    parser.add_argument("--config", type=Path, required=True, help="config.json of the training run")
    parser.add_argument("--threshold", type=float, default=0.5, help="default probability that is cell")
    parser.add_argument("--source", action="append", required=True, help="a training source, repeatable")
    parser.add_argument("--licence", required=True, help="licence of the weights, as the sources allow")
    parser.add_argument("--scores", type=Path, required=True, help="JSON of mean IoU by set")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for ONNX file and manifest: WEIGHTS/native or WEIGHTS/resize",
    )
    parsed = parser.parse_args(arguments)
    export(
        load_checkpoint(parsed.checkpoint),
        parsed.out,
        name=parsed.name,
        threshold=parsed.threshold,
        training=json.loads(parsed.config.read_text()),
        training_data=parsed.source,
        licence=parsed.licence,
        scores=json.loads(parsed.scores.read_text()),
        lineage=read_lineage(parsed.checkpoint),
    )


if __name__ == "__main__":
    main()
