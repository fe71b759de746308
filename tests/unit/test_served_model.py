"""What the layer says of the model is what the weights' manifest says."""

from cytomask.served_model import read_served_model
from model.predictor import Predictor


def test_the_layer_names_the_model_that_is_served(shipped: Predictor) -> None:
    served = read_served_model()
    assert (served.sha256, served.threshold) == (shipped.manifest.sha256, shipped.manifest.threshold)
