"""A network as a Python file that needs PyTorch alone, for the weights beside it."""

from __future__ import annotations

import torch
import torch.fx
from torch import nn

from morphnet.nn.activation import prelu

_HEADER = '''"""{what}

Written by morphnet {version}; needs PyTorch alone.

    network = Network()
    network.load_state_dict(torch.load("{weights}", weights_only=True))
    network.eval()

Input: {size}. {normalisation}
"""

import torch
import torch.nn.functional as F
from torch import device, nn


def _prelu(x, a):
    """max(x, 0) + a min(x, 0), with one slope per channel."""
    return F.prelu(x, a.to(x.dtype))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        for name, module in MODULES.items():
            part, last = self._part(name)
            part.add_module(last, module())
        for name, shape in PARAMETERS.items():
            part, last = self._part(name)
            part.register_parameter(last, nn.Parameter(torch.zeros(shape)))
        for name, (shape, dtype) in BUFFERS.items():
            part, last = self._part(name)
            part.register_buffer(last, torch.zeros(shape, dtype=dtype))

    def _part(self, name):
        """The part that holds ``name``, made where it is missing, and the last word of it."""
        *path, last = name.split(".")
        part = self
        for word in path:
            if word not in part._modules:
                part.add_module(word, nn.Module())
            part = part._modules[word]
        return part, last

{forward}


MODULES = {{
{modules}
}}
PARAMETERS = {{
{parameters}
}}
BUFFERS = {{
{buffers}
}}
'''


class _Tracer(torch.fx.Tracer):
    """Enters everything but PyTorch's own layers."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module).__module__.startswith("torch.nn") and not isinstance(
            module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        )


def write_source(network: nn.Module, *, what: str, version: str, weights: str, size: str, normalisation: str) -> str:
    """Python source of a class ``Network`` whose state dict has the names of that of ``network``, as far as it is used.

    Raises:
        ValueError: the network's code cannot be traced.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # of the network's own code
        raise ValueError(
            f"the code of this {type(network).__name__} cannot be written down ({str(error).splitlines()[0]}); "
            "export format=program or onnx instead"
        ) from error
    leaves: dict[str, str] = {}
    parameters: dict[str, str] = {}
    buffers: dict[str, str] = {}
    known, kept = dict(network.named_parameters()), dict(network.named_buffers())
    for node in graph.nodes:
        if node.op == "call_module":
            leaves[str(node.target)] = f"nn.{network.get_submodule(str(node.target))!r}"
        elif node.op == "get_attr":
            name = str(node.target)
            if name in known:
                parameters[name] = f"{tuple(known[name].shape)}"
            elif name in kept:
                buffers[name] = f"({tuple(kept[name].shape)}, {kept[name].dtype})"
            else:
                raise ValueError(
                    f"{name} of this {type(network).__name__} is neither parameter nor buffer, so that no weights "
                    "could hold it; export format=program or onnx instead"
                )
    for node in graph.nodes:
        node.type = None  # annotations would need their names imported
    code = graph.python_code("self")
    own = [f for f in code.globals.values() if str(getattr(f, "__module__", "")).startswith("morphnet")]
    strange = [f.__name__ for f in own if f is not prelu]
    if strange:
        raise ValueError(f"the network calls {', '.join(strange)}, which a file without morphnet has not")
    names = [name for name, value in code.globals.items() if value is prelu]
    source = code.src[code.src.index("def forward") :]
    for name in names:
        source = source.replace(f"{name}(", "_prelu(")
    forward = "\n".join(f"    {line}" if line else "" for line in source.strip().splitlines())
    return _HEADER.format(
        what=what,
        version=version,
        weights=weights,
        size=size,
        normalisation=normalisation,
        forward=forward,
        modules="\n".join(f'    "{name}": lambda: {text},' for name, text in leaves.items()),
        parameters="\n".join(f'    "{name}": {shape},' for name, shape in parameters.items()),
        buffers="\n".join(f'    "{name}": {made},' for name, made in buffers.items()),
    )
