"""Image data sets, in memory or in files, and batches of them."""

from morphnet.data.batches import (
    calibration_batches,
    evaluation_batches,
    evaluation_count,
    placed_batches,
    train_batches,
)
from morphnet.data.feed import Batches, generator_for
from morphnet.data.images import ImageData, Split, with_normalisation, with_validation
from morphnet.data.memory import Augmentation, TrainBatches
from morphnet.data.noise import like_cifar, like_imagenet
from morphnet.data.sources import load_arrays, load_cifar, load_digits

__all__ = [
    "Augmentation",
    "Batches",
    "ImageData",
    "Split",
    "TrainBatches",
    "calibration_batches",
    "evaluation_batches",
    "evaluation_count",
    "generator_for",
    "like_cifar",
    "like_imagenet",
    "load_arrays",
    "load_cifar",
    "load_digits",
    "placed_batches",
    "train_batches",
    "with_normalisation",
    "with_validation",
]
