import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from morphnet.data.views import centre_view, random_view, resized, ten_views
from tests.pictures import picture

SIZES = [(90, 70), (70, 90), (80, 80), (500, 375), (1, 1), (33, 300), (301, 32)]


def _as_array(tensor):
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_resized_is_what_torchvision_makes_it(size):
    for shorter in (32, 57, 96):
        assert v2.functional.resize(picture(*size), [shorter]).size == resized(size, shorter)


@pytest.mark.parametrize("size", SIZES)
def test_a_random_view_is_torchvisions_resize_and_crop(size):
    image, rng = picture(*size), np.random.default_rng(0)
    for shorter in (48, 57, 96):
        whole = v2.functional.resize(image, [shorter])
        down, right = rng.random(2)
        top, left = int(down * (whole.height - 47)), int(right * (whole.width - 47))
        expected = np.asarray(v2.functional.crop(whole, top, left, 48, 48))
        for mirrored in (False, True):
            found = random_view(image, shorter, (down, right), mirrored, 48)
            wanted = expected[:, ::-1] if mirrored else expected
            assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_the_centre_is_torchvisions(size):
    image = picture(*size)
    expected = v2.Compose([v2.Resize(57), v2.CenterCrop(48)])(image)
    assert np.abs(centre_view(image, 57, 48).astype(int) - np.asarray(expected, dtype=int)).max() <= 1


def test_the_ten_views_are_torchvisions():
    image = picture(300, 200)
    theirs = v2.TenCrop(48)(v2.functional.resize(image, [64]))
    expected = [theirs[i] for i in (0, 1, 2, 3, 4, 6, 5, 8, 7, 9)]  # those of the mirrored image: left is right
    found = list(ten_views(image, 64, 48))
    assert len(found) == len(expected) == 10
    for mine, other in zip(found, expected, strict=True):
        assert np.abs(mine.astype(int) - np.asarray(other, dtype=int)).max() <= 1


def test_the_whole_pipeline_is_torchvisions():
    from morphnet.data.images import IMAGENET, Normaliser

    image = picture(320, 260)
    theirs = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET),
        ]
    )(image)
    view = torch.from_numpy(centre_view(image, 256, 224).copy()).permute(2, 0, 1)[None]
    mine = Normaliser(*IMAGENET, torch.device("cpu"))(view)[0]
    assert float((mine - theirs).abs().max()) <= 1.01 / 255 / min(IMAGENET[1])
    assert float((mine - theirs).abs().mean()) < 0.1 / 255


def test_every_place_can_be_drawn():
    image = picture(64, 64)
    corners = {
        (random_view(image, 50, position, False, 48)[0, 0].tobytes()) for position in ((0, 0), (0.4, 0), (0.999999, 0))
    }
    assert len(corners) == 3


def test_a_line_of_pixels_takes_no_memory():
    image = Image.new("RGB", (60_000, 1), (5, 6, 7))
    assert (random_view(image, 480, (0.5, 0.5), False, 224) == (5, 6, 7)).all()
    assert sum(1 for _ in ten_views(image, 256, 224)) == 10
