"""Fixtures of the unit tests: a small network, exported once, and the stack that CloudFormation gets."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import Exporter, small_network
from safetensors.torch import save_file
from samtranslator.translator.transform import transform

from cytomask.infra.template import load_template, without_local_code
from cytomask.model.export import main as export
from cytomask.model.predictor import Predictor
from cytomask.model.swin_unet import SwinUNet


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Give torch one thread, because its waiting threads spin: two on a busy core are 30 times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shipped() -> Predictor:
    """Load the shipped networks."""
    return Predictor(threads=1)  # as many tests run side by side as there are cores


@pytest.fixture(scope="session")
def network() -> SwinUNet:
    """Make a small network for `native` mode."""
    return small_network(9)


@pytest.fixture(scope="session")
def exporter(pytestconfig: pytest.Config) -> Exporter:
    """Export a network, or copy the file of an earlier export of the same."""
    return Exporter(pytestconfig.cache.mkdir("exported"))


@pytest.fixture(scope="session")
def weights(network: SwinUNet, exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export that network, and one like it for `resize` mode, into a folder that the predictor reads."""
    run, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("weights")
    checkpoint, config, scores = run / "swin_unet.safetensors", run / "config.json", run / "scores.json"
    scores.write_text(json.dumps({"noise": {"iou": 0.5, "images": 1}}))
    given = "--name small-1 --threshold 0.4 --source noise --source dust --licence CC0"
    files = [str(checkpoint), "--config", str(config), "--scores", str(scores)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cytomask.model.export.export_onnx", exporter)
        for mode, trained in {"native": network, "resize": small_network(7)}.items():
            metadata = {"config": json.dumps(trained.config.as_dict()), "lineage": "[]"}
            save_file(trained.state_dict(), checkpoint, metadata=metadata)
            config.write_text(json.dumps({"steps": 2, "mode": mode}))
            export([*files, *given.split(), "--out", str(folder / mode)])
    return folder


class NoManagedPolicies:
    """Stands for AWS, which SAM asks for managed policies; a template without any needs no answer."""

    def load(self) -> dict[str, str]:
        return {}


@pytest.fixture(scope="session")
def resources() -> dict[str, Any]:
    """Transform the template as SAM does: its resources by logical id, as CloudFormation gets them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        template = copy.deepcopy(without_local_code(load_template()))
        found: dict[str, Any] = transform(template, {}, NoManagedPolicies())["Resources"]
        return found
