"""Grow a trained convolutional network into a better one with its function unchanged.

*Modularized Morphing of Neural Networks* (Wei, Wang, Chen; arXiv 1701.03281) in PyTorch. The names are listed in
``__init__.pyi`` and loaded on first use: ``morphnet --help`` must not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
