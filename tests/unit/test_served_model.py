"""The layer describes the networks as the weights' manifests do."""

import pytest

from cytomask.addresses import S3Object
from cytomask.model.predictor import MODES, Mode, Predictor
from cytomask.requests import Parameters, SegmentRequest
from cytomask.served_model import read_served_models, work_of


def test_the_layer_names_the_networks_that_are_served(shipped: Predictor) -> None:
    served = read_served_models()
    assert {mode: (model.sha256, model.threshold) for mode, model in served.items()} == {
        mode: (manifest.sha256, manifest.threshold) for mode, manifest in shipped.manifests.items()
    }


@pytest.mark.parametrize("mode", MODES)
def test_work_is_that_of_the_network_of_its_mode(shipped: Predictor, mode: Mode) -> None:
    request = SegmentRequest(S3Object("bucket", "a.tif"), Parameters(mode=mode))
    work = work_of(request, read_served_models())
    assert (work.request, work.model_sha256) == (request, shipped.manifests[mode].sha256)
