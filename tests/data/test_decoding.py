import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from morphnet.data import decoding
from morphnet.data.decoding import UnreadableError, decode
from tests.pictures import content, picture


def _difference(one, two):
    arrays = [x.permute(1, 2, 0).numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in (one, two)]
    return np.abs(arrays[0].astype(float) - arrays[1].astype(float)).mean()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_kind_become_rgb(mode):
    image = picture().convert(mode)
    found = decode(content(image, quality=95))
    assert (found.dtype, found.shape) == (torch.uint8, (3, 70, 90))
    assert _difference(found, picture().convert(mode).convert("RGB")) < 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "I;16"])
def test_pngs_of_every_kind_become_rgb(mode):
    image = Image.fromarray(np.arange(6300, dtype=np.uint16).reshape(70, 90)) if mode == "I;16" else None
    found = decode(content(image or picture().convert(mode), "PNG"))
    assert (found.dtype, found.shape) == (torch.uint8, (3, 70, 90))
    if mode == "RGB":
        assert _difference(found, picture()) == 0


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_gray_of_16_bits_keeps_the_upper_8(format):
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    found = decode(content(Image.fromarray(ramp), format))
    assert np.array_equal(found[0].numpy(), ramp >> 8)


def test_bytes_stored_in_32_bits_each_are_bytes():
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert np.array_equal(decode(content(Image.fromarray(values), "TIFF"))[0].numpy(), values)


@pytest.mark.parametrize("values", [np.linspace(0, 1, 64, dtype=np.float32), np.arange(64, dtype=np.int32) * 10_000])
def test_other_numbers_than_bytes_are_refused(values):
    with pytest.raises(UnreadableError, match="8 or 16 bits a channel are needed"):
        decode(content(Image.fromarray(values.reshape(8, 8)), "TIFF"))


def test_the_two_decoders_agree_within_rounding(monkeypatch):
    data = content(picture(300, 200), quality=90)
    fast = decode(data)
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 0)
    monkeypatch.setattr(decoding, "LARGE_SIDE", 10_000)
    assert _difference(fast, decode(data)) < 0.5


def test_a_name_that_lies_about_the_format_does_not_matter():
    assert decode(content(picture(), "PNG")).shape == decode(content(picture(), "WEBP")).shape


def test_one_pixel_is_an_image():
    assert decode(content(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")).flatten().tolist() == [9, 8, 7]


def test_orientation_is_left_alone_unless_asked_for():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = content(picture(90, 70), exif=exif)
    assert decode(data).shape == (3, 70, 90)
    assert decode(data, exif=True).shape == (3, 90, 70)
    assert decode(content(picture(90, 70)), exif=True).shape == (3, 70, 90)


@pytest.mark.parametrize(
    "data",
    [b"", b"no image", content(picture())[:400], content(picture(), "PNG")[:300], b"\xff\xd8\xff\xe0" + bytes(50)],
)
def test_what_cannot_be_decoded_says_why(data):
    with pytest.raises(UnreadableError, match=r"\w+"):
        decode(data)


def test_every_truncation_of_a_jpeg_is_decoded_or_refused():
    whole = content(picture(), progressive=True)
    for length in range(0, len(whole), 37):
        with contextlib.suppress(UnreadableError):
            assert decode(whole[:length]).shape == (3, 70, 90)


def test_a_huge_jpeg_is_decoded_at_a_fraction_of_its_size():
    stream = io.BytesIO()
    Image.new("RGB", (9000, 4000), (10, 200, 30)).save(stream, "JPEG")
    found = decode(stream.getvalue())
    assert found.shape == (3, 2000, 4500)
    assert found[:, 5, 5].tolist() == pytest.approx([10, 200, 30], abs=3)


def test_an_image_that_would_fill_the_memory_is_refused():
    with pytest.raises(UnreadableError, match="exceeds limit"):
        decode(content(Image.new("1", (20_000, 10_000)), "PNG"))
