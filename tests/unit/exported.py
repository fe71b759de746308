"""Networks exported to ONNX once: an export takes seconds, and every test process needs the same ones.

The files stay in pytest's cache under a name made of all that decides them, so that a changed network, a
changed exporter and another torch are exported anew.
"""

import hashlib
import json
import shutil
import uuid
import warnings
from pathlib import Path

import torch
from safetensors.torch import save

from cytomask.model import export, serving_network, swin_unet
from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig

CODE = [Path(module.__file__ or "").read_bytes() for module in (export, serving_network, swin_unet)]
real_export = export.export_onnx


class Exporter:
    """Exports like `export_onnx`, and caches each file in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, network: SwinUNet, path: Path) -> None:
        """Write the network as ONNX to a path."""
        known = self._folder / f"{fingerprint(network)}.onnx"
        if not known.exists():
            made = self._folder / f"{uuid.uuid4().hex}.partial"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch's exporter uses what torch deprecates
                real_export(network, made)
            made.replace(known)
        shutil.copyfile(known, path)


def fingerprint(network: SwinUNet) -> str:
    """Digest a network's weights and sizes, the code that exports it, and torch's version."""
    digest = hashlib.sha256(json.dumps([network.config.as_dict(), torch.__version__]).encode())
    for part in (save(network.state_dict()), *CODE):
        digest.update(part)
    return digest.hexdigest()[:32]


def small_network(window: int) -> SwinUNet:
    """Make a small network with every kind of layer and random weights, biases and statistics."""
    torch.manual_seed(0)
    network = SwinUNet(SwinUNetConfig(width=16, depths=(2,), half_width=4, quarter_width=8, window=window))
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(0.2 * (torch.rand_like(value) - 0.5))
        # Spread the logits from clear background to clear cell; otherwise all probabilities are near 0.5.
        network.head.logit.weight *= 40
    return network.eval()
