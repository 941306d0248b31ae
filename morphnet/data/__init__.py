"""Image data sets in memory, and batches of them."""

from morphnet.data.batches import (
    Augmentation,
    TrainBatches,
    calibration_batches,
    evaluation_batches,
    evaluation_count,
    generator_for,
)
from morphnet.data.images import ImageData, Split, with_normalisation, with_validation
from morphnet.data.sources import load_arrays, load_cifar, load_digits

__all__ = [
    "Augmentation",
    "ImageData",
    "Split",
    "TrainBatches",
    "calibration_batches",
    "evaluation_batches",
    "evaluation_count",
    "generator_for",
    "load_arrays",
    "load_cifar",
    "load_digits",
    "with_normalisation",
    "with_validation",
]
