"""Experiments: a YAML file is read whole or refused by the name of its field."""

from pathlib import Path

import pytest
import yaml

from cytomask.training.crops import Augmentation
from cytomask.training.experiment import TrainingConfig

ROOT = Path(__file__).parents[2]


def test_an_experiment_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text("train: {a/train: 2}\nvalidation: [a/val]\nepochs: 7\naugmentation: {squash: 0.5}\n")
    config = TrainingConfig.read(path)
    assert (config.name, config.epochs, config.batch_size) == ("trial", 7, 12)
    assert config.train == {"a/train": 2.0}
    assert config.augmentation == Augmentation(squash=0.5)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("epocs: 8", "unknown field `epocs`"),
        ("augmentation: {flipp: 1}", "unknown field `flipp`"),
        ("swin_unet: {half_widht: 32}", "unknown field `half_widht`"),
        ("swin_unet: {head_width: 0}", r"`\$.swin_unet.head_width`"),
        ("swin_unet: {depths: []}", r"`\$.swin_unet.depths`"),
        ("min_learning_rate: 1e-3", r"Expected `float`, got `str` - at `\$.min_learning_rate`"),
        ("seed: yes", r"`\$.seed`"),
        ("batch_size: 0", r"`\$.batch_size`"),
        ("batch_size: 1.5", r"`\$.batch_size`"),
        ("learning_rate: -1", r"`\$.learning_rate`"),
        ("learning_rate: .nan", r"`\$.learning_rate`"),
        ("threshold: 1.2", r"`\$.threshold`"),
        ("average_decay: 1", r"`\$.average_decay`"),
        ("seed: -1", r"`\$.seed`"),
        ("schedule: linear", r"`\$.schedule`"),
        ("network: unet", r"`\$.network`"),
        ("mode: tiles", r"`\$.mode`"),
        ("train: {}", r"`\$.train`"),
        ("train: {a/train: 0}", r"`\$.train"),
        ("train: [a/train]", r"`\$.train`"),
        ("augmentation: {zoom: [1.3, 0.7]}", r"zoom.*`\$.augmentation`"),
        ("augmentation: {blur: 2}", r"`\$.augmentation.blur`"),
        ("epochs: null", r"`\$.epochs`"),
        ("early_stopping: 5", "early_stopping needs validation or hold_out"),
    ],
)
def test_an_invalid_field_is_named(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump({"train": {"a/train": 1}, "epochs": 2} | yaml.safe_load(line)))
    with pytest.raises(ValueError, match=f"^experiment trial: .*{named}"):
        TrainingConfig.read(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^experiment trial: .*`epochs`"):
        TrainingConfig.from_dict("trial", {"train": {"a/train": 1}})


@pytest.mark.parametrize("content", ["", "- train", "train: [", "just words"])
def test_a_file_that_is_no_experiment_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"trial\.yaml (is not YAML|has no fields of an experiment)"):
        TrainingConfig.read(path)


EXPERIMENTS = sorted((ROOT / "training" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=[path.stem for path in EXPERIMENTS])
def test_the_experiments_that_ship_can_be_read_and_keep_to_their_splits(path: Path) -> None:
    config = TrainingConfig.read(path)
    # Test images are used neither for training nor for choosing.
    used = (*config.train, *config.validation)
    assert [source for source in used if "test" in source.lower()] == []
    assert set(config.train).isdisjoint(config.validation)


def test_the_references_configuration_keeps_its_known_values() -> None:
    config = TrainingConfig.read(ROOT / "training" / "configs" / "reference.yaml")
    assert (config.batch_size, config.epochs, config.min_epochs, config.early_stopping) == (32, 100, 25, 5)
    assert (config.learning_rate, config.min_learning_rate, config.schedule) == (1e-3, 1e-6, "cosine")
    assert (config.threshold, config.loss, config.mode) == (0.5, "bce", "resize")
    assert (config.warmup_steps, config.average_decay) == (0, 0)
    augmentation = config.augmentation
    assert (augmentation.flip, augmentation.affine, augmentation.blur) == (0.5, 0.25, 0.25)
    assert (augmentation.squash, augmentation.squash_window, augmentation.turn) == (1, 1, False)
