"""A model of a few thousand numbers, on disk as `cytomask finetune` leaves one, and pairs to train it on."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image

from cytomask.model.export import main as export
from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig
from cytomask.samples.fields import phase_contrast_field
from cytomask.training.checkpoints import save

HEIGHT, WIDTH = 96, 120


def tiny_network() -> SwinUNet:
    torch.manual_seed(1)
    config = SwinUNetConfig(width=16, depths=(1,), bottleneck_depth=1, half_width=4, quarter_width=8)
    return SwinUNet(config).eval()


def make_tiny_model(folder: Path, name: str = "parent-1", licence: str = "CC BY-NC 4.0") -> Path:
    """Write manifest, ONNX file and checkpoint of random weights into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save(tiny_network(), folder / "swin_unet.safetensors")
    (folder / "config.json").write_text(json.dumps({"mode": "native"}))
    (folder / "scores.json").write_text("{}")
    given = ["--name", name, "--source", "fields", "--licence", licence]
    files = ["--config", str(folder / "config.json"), "--scores", str(folder / "scores.json")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter uses what torch deprecates
        export([str(folder / "swin_unet.safetensors"), *given, *files, "--out", str(folder)])
    return folder


def write_pairs(folder: Path, count: int, **shape: int) -> Path:
    """Write generated fields and their truths into one folder, f0.tif with f0_mask.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        made = phase_contrast_field(seed, shape.get("height", HEIGHT), shape.get("width", WIDTH), 0.4)
        tifffile.imwrite(folder / f"f{seed}.tif", made.pixels)
        write_mask(folder / f"f{seed}_mask.png", made.cells)
    return folder


def write_mask(path: Path, cells: Any) -> None:
    Image.fromarray(cells.astype(np.uint8) * 255).save(path)
