from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from morphnet.data import (
    Augmentation,
    Split,
    TrainBatches,
    calibration_batches,
    evaluation_batches,
    load_digits,
    with_normalisation,
)
from morphnet.data.memory import random_crop


@pytest.fixture
def digits():
    return with_normalisation(load_digits(), "own")


def test_order_is_a_function_of_seed_phase_and_epoch(digits):
    def labels(key, epoch):
        return torch.cat([y for _, y in TrainBatches(digits, 50, Augmentation(1, True), key).epoch(epoch)])

    assert torch.equal(labels((0, 0), 3), labels((0, 0), 3))
    for other in (((1, 0), 3), ((0, 1), 3), ((0, 0), 4)):
        assert not torch.equal(labels((0, 0), 3), labels(*other))


def test_an_epoch_continued_in_its_middle_gives_the_same_batches(digits):
    batches = TrainBatches(digits, 32, Augmentation(2, True), (0,))
    whole, rest = list(batches.epoch(1)), list(batches.epoch(1, start=4))
    assert len(whole) == len(batches) == 9
    assert len(rest) == 5
    for (x, y), (x2, y2) in zip(whole[4:], rest, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_every_image_is_seen_at_most_once_in_an_epoch(digits):
    plain = TrainBatches(digits, 50, Augmentation(), (0,))
    images = torch.cat([x for x, _ in plain.epoch(0)]).flatten(1)
    assert len(images) == 300
    assert_close(images.sort(0).values, next(iter(_all(digits))).sort(0).values)


def _all(data):
    from morphnet.data.pixels import Normaliser

    yield Normaliser(data.mean, data.std, data.train.images.device)(data.train.images).flatten(1)


def test_crops_are_windows_of_the_padded_image():
    images = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    cropped = random_crop(images, 1, torch.tensor([[1, 0], [1, 2]]))
    assert torch.equal(cropped[0], images[0])
    assert torch.equal(cropped[1, :, 1:, :3], images[1, :, :3, 1:])
    assert cropped[1, :, 0].abs().sum() == cropped[1, :, :, 3].abs().sum() == 0


@pytest.mark.parametrize("size", [0, -1, 301])
def test_a_batch_size_that_cannot_be_is_refused(digits, size):
    with pytest.raises(ValueError, match=f"optim.batch_size={size}"):
        TrainBatches(digits, size, Augmentation(), ())


def test_evaluation_sees_every_test_image_once(digits):
    assert sum(len(y) for _, y in evaluation_batches(digits, 500)) == 1497


def test_calibration_uses_no_image_twice(digits):
    found = calibration_batches(digits, Augmentation(), (0,), count=7, batch_size=128)
    assert [len(x) for x, _ in found] == [37] * 4 + [50] * 3
    images = [tuple(row) for x, _ in found for row in x.flatten(1).tolist()]
    assert len(set(images)) == len(images)


def test_calibration_of_a_tiny_data_set_is_halves_of_two_images(digits):
    few = replace(digits, train=Split(digits.train.images[:4], digits.train.labels[:4]))
    assert [len(x) for x, _ in calibration_batches(few, Augmentation(1), (0,))] == [2, 2]
