"""Networks on disk: saved networks, weights trained elsewhere, and SOURCE of the command line.

The names are listed in ``__init__.pyi`` and loaded on first use: writing a file must not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
