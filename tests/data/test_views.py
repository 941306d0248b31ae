import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from morphnet.data import views
from morphnet.data.pixels import IMAGENET, Normaliser
from morphnet.data.views import centre_view, random_view, resized, ten_views
from tests.pictures import picture

#: (width, height)
SIZES = [(90, 70), (70, 90), (80, 80), (500, 375), (1, 1), (33, 300), (301, 32)]


def _tensor(size):
    return v2.functional.to_image(picture(*size)).as_subclass(torch.Tensor)


@pytest.mark.parametrize("size", SIZES)
def test_resized_is_what_torchvision_makes_it(size):
    for shorter in (32, 57, 96):
        height, width = resized(size[::-1], shorter)
        assert v2.functional.resize(picture(*size), [shorter]).size == (width, height)


@pytest.mark.parametrize("size", SIZES)
def test_a_random_view_is_torchvisions_resize_and_crop(size):
    image, rng = _tensor(size), np.random.default_rng(0)
    for shorter in (48, 57, 96, min(size) + 1) if min(size) > 47 else (48, 57, 96):
        whole = v2.functional.resize(image, [shorter], antialias=True)
        for _ in range(5):
            down, right = rng.random(2)
            top, left = int(down * (whole.shape[1] - 47)), int(right * (whole.shape[2] - 47))
            expected = v2.functional.crop(whole, top, left, 48, 48)
            assert torch.equal(random_view(image, shorter, (down, right), False, 48), expected)
            assert torch.equal(random_view(image, shorter, (down, right), True, 48), expected.flip(2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("large", [False, True])
def test_views_are_those_of_pillow_within_rounding(size, large, monkeypatch):
    if large:
        monkeypatch.setattr(views, "LARGE_PIXELS", 0)
    whole = v2.functional.resize(picture(*size), [96])
    expected = v2.functional.to_image(v2.functional.crop(whole, 11, 13, 48, 48))
    height, width = whole.height - 47, whole.width - 47
    found = random_view(_tensor(size), 96, (11.5 / height, 13.5 / width), False, 48)
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() <= 0.5


@pytest.mark.parametrize("size", SIZES)
def test_the_centre_is_torchvisions(size):
    expected = v2.Compose([v2.Resize(57, antialias=True), v2.CenterCrop(48)])(_tensor(size))
    assert torch.equal(centre_view(_tensor(size), 57, 48), expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_ten_views_are_torchvisions(size):
    theirs = v2.TenCrop(48)(v2.functional.resize(_tensor(size), [64], antialias=True))
    # Theirs are windows of the mirrored image: left is right, and its centre may lie half a pixel beside.
    expected = [*(theirs[i] for i in (0, 1, 2, 3, 4, 6, 5, 8, 7)), theirs[4].flip(2)]
    assert torch.equal(ten_views(_tensor(size), 64, 48), torch.stack(expected))


def test_the_whole_pipeline_is_torchvisions_on_pillow_images():
    theirs = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET),
        ]
    )(picture(320, 260))
    mine = Normaliser(*IMAGENET, torch.device("cpu"))(centre_view(_tensor((320, 260)), 256, 224)[None])[0]
    assert float((mine - theirs).abs().max()) <= 1.01 / 255 / min(IMAGENET[1])
    assert float((mine - theirs).abs().mean()) < 0.1 / 255


def test_of_noise_fewer_than_one_value_in_a_thousand_is_rounded_otherwise():
    rng, differ, total = np.random.default_rng(0), 0, 0
    for _ in range(40):
        shape = (3, int(rng.integers(200, 600)), int(rng.integers(200, 600)))
        image = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).contiguous()
        shorter = int(rng.integers(256, 481))
        whole = v2.functional.resize(image, [shorter], antialias=True)
        down, right = rng.random(2)
        top, left = int(down * (whole.shape[1] - 223)), int(right * (whole.shape[2] - 223))
        found = random_view(image, shorter, (down, right), False, 224).int()
        difference = (found - v2.functional.crop(whole, top, left, 224, 224).int()).abs()
        assert difference.max() <= 1
        differ, total = differ + int(difference.count_nonzero()), total + difference.numel()
    assert differ < total / 1000


def test_every_place_can_be_drawn():
    image = _tensor((64, 64))
    corners = {random_view(image, 50, (down, 0), False, 48).numpy().tobytes() for down in (0, 0.4, 0.999999)}
    assert len(corners) == 3


def test_a_line_of_pixels_takes_no_memory():
    image = torch.tensor([5, 6, 7], dtype=torch.uint8).view(3, 1, 1).expand(3, 1, 60_000).contiguous()
    expected = image[:, :, :224].expand(3, 224, 224)
    assert torch.equal(random_view(image, 480, (0.5, 0.5), False, 224), expected)
    assert torch.equal(ten_views(image, 256, 224), expected.expand(10, 3, 224, 224))
