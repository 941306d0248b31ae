"""A larger kernel for one convolution, with the function of the network unchanged."""

from __future__ import annotations

from torch import nn

from morphnet.nn.replace import convolution_like, plain_convolution, replace_module
from morphnet.solvers import zero_pad


def enlarge_layer(network: nn.Module, name: str, kernel: int | tuple[int, int]) -> dict[str, str]:
    """Grows the kernel of the convolution ``name`` to ``kernel``, in place.

    The filter is padded with zeros and the padding of the image grows with it: the output keeps its size and, up to
    the order of sums, its values, on the border too. The new taps get gradients from the first step on.

    Args:
        network: changed in place.
        name: an ``nn.Conv2d``; groups, stride, dilation and padding are free.
        kernel: the new size, or (height, width); on each axis at least the old size and of the same parity.

    Returns:
        The change, such as ``{"conv1": "Conv2d, kernel 3x3 -> 5x5"}``; empty if the kernel has that size already.

    Raises:
        ValueError: there is no such ``nn.Conv2d``, or the kernel does not fit; nothing is changed.

    The larger padding has to fit the image: PyTorch refuses ``reflect`` padding as wide as the image and ``circular``
    padding wider than it. ``padding="valid"`` becomes a number. Infinite inputs turn into NaN under a tap of zero.

    Source: network morphism of the kernel size, Wei et al. 2016 (arXiv 1603.01670).
    """
    conv = plain_convolution(network, name)
    old = (conv.kernel_size[0], conv.kernel_size[1])
    new = tuple(kernel) if isinstance(kernel, (tuple, list)) else (kernel, kernel)
    integers = len(new) == 2 and all(isinstance(size, int) for size in new)
    if not integers or any(large < small or (large - small) % 2 for large, small in zip(new, old, strict=True)):
        raise ValueError(
            f"{name}: its kernel is {_words(old)}, and {kernel!r} was asked for; along each axis the new size must be "
            f"at least the old one and of the same parity, such as {_words((old[0] + 2, old[1] + 2))}"
        )
    if new == old:
        return {}
    growth = [dilation * (large - small) // 2 for dilation, large, small in zip(conv.dilation, new, old, strict=True)]
    padding: str | tuple[int, ...]
    if conv.padding == "same":
        padding = "same"  # PyTorch pads by the size of the kernel: each side grows by the same number
    elif isinstance(conv.padding, str):  # "valid"
        padding = tuple(growth)
    else:
        padding = tuple(before + more for before, more in zip(conv.padding, growth, strict=True))
    weight = zero_pad(conv.weight.detach(), (new[0], new[1]))
    replace_module(network, conv, convolution_like(conv, weight, conv.bias, padding=padding))
    return {name: f"Conv2d, kernel {_words(old)} -> {_words(new)}"}


def _words(kernel: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel))
