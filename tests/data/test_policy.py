import pytest
import torch

from morphnet.data import Augmentation, TrainBatches, load_digits, with_normalisation
from morphnet.data.policy import POLICIES, Policy

IMAGES = torch.randint(256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def digits():
    return with_normalisation(load_digits(), "own")


@pytest.mark.parametrize("name", POLICIES[1:])
def test_a_policy_is_a_function_of_seed_row_and_place(name):
    policy = Policy(name, (0.5, 0.5, 0.5), (0, 1))
    first = policy(IMAGES, (2, 3), 0)
    assert first.dtype == torch.uint8
    assert not first.equal(IMAGES)
    torch.rand(7)  # what others draw has no part in it
    assert policy(IMAGES, (2, 3), 0).equal(first)
    assert policy(IMAGES[4:], (2, 3), 4).equal(first[4:])
    assert not policy(IMAGES, (2, 4), 0).equal(first)
    assert not Policy(name, (0.5, 0.5, 0.5), (1, 1))(IMAGES, (2, 3), 0).equal(first)


def test_a_policy_leaves_the_global_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Policy("randaugment", (0.5,) * 3, (0,))(IMAGES, (0, 0), 0)
    assert torch.rand(3).equal(expected)


def test_a_cutout_is_a_rectangle_of_the_mean_in_about_every_second_image():
    many = torch.full((200, 3, 16, 16), 7, dtype=torch.uint8)
    varied = Policy("cutout", (0.2, 0.4, 0.6), (0,))(many, (0, 0), 0)
    hit = (varied != 7).any(1).flatten(1).sum(1)
    assert 70 <= int((hit > 0).sum()) <= 130
    assert hit[hit > 0].min() >= 0.05 * 256
    assert hit.max() <= 0.4 * 256
    values = varied.permute(0, 2, 3, 1)[(varied != 7).any(1)].unique(dim=0)
    assert values.tolist() == [[51, 102, 153]]


def test_feeds_of_any_number_of_processes_give_what_the_epoch_gives(digits):
    batches = TrainBatches(digits, 60, Augmentation(1, True, "cutout"), (0, 0))
    expected = list(batches.epoch(1))
    plain = list(TrainBatches(digits, 60, Augmentation(1, True), (0, 0)).epoch(1))
    assert not expected[0][0].equal(plain[0][0])
    for count in (1, 3):
        feeds = [batches.feed(index, count) for index in range(count)]
        for feed in feeds:
            feed.load(1, 2)
        for row in (2, 3):
            parts = []
            for feed in feeds:
                feed.advance()
                parts.append(feed.batch(torch.tensor([row])))
            assert torch.cat([images for images, _ in parts]).equal(expected[row][0])
            assert torch.cat([labels for _, labels in parts]).equal(expected[row][1])


def test_images_of_a_policy_lie_where_a_step_reads_them_that_was_captured_before(digits):
    batches = TrainBatches(digits, 50, Augmentation(1, True, "randaugment"), (0, 0))
    feed, row = batches.feed(), torch.zeros(1, dtype=torch.int64)
    feed.load(0, 0)
    place = feed.batch(row)[0]  # a capture runs a step before there is a first batch
    assert place.equal(batches.normaliser(torch.zeros(50, 1, 8, 8, dtype=torch.uint8)))
    feed.advance()
    assert feed.batch(row)[0].equal(next(batches.epoch(0))[0])


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match=r"data\.policy='mixup'; expected one of none, randaugment"):
        Augmentation(policy="mixup")
