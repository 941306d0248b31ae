"""A network as a Python file that needs only PyTorch."""

from __future__ import annotations

import ast
import re

import torch
import torch.fx
from torch import nn

from morphnet.nn.activation import prelu

_HEADER = '''"""A {kind}.

Written by morphnet {version}; needs PyTorch alone.

    network = Network()
    network.load_state_dict(torch.load("{weights}", weights_only=True))
    network.eval()

Input: {size}. {normalisation}
"""

import torch
import torch.nn.functional as F
from torch import device, nn

DATA = {data}  # what it was trained on


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


def write_source(
    network: nn.Module, *, version: str, weights: str, size: str, normalisation: str, data: str | None
) -> str:
    """Python source of a class ``Network`` whose state dict has the names of the used tensors of ``network``.

    Args:
        version, weights, size, normalisation: trusted text for the docstring.
        data: the data set's name in the network's file, any text.

    Raises:
        ValueError: the code of the network cannot be traced, or a name or layer cannot be written as source.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # of the code of the network
        raise ValueError(
            f"the code of this {type(network).__name__} cannot be written down ({str(error).splitlines()[0]}); "
            "export format=program or onnx instead"
        ) from error
    leaves: dict[str, str] = {}
    parameters: dict[str, str] = {}
    buffers: dict[str, str] = {}
    known, kept = dict(network.named_parameters()), dict(network.named_buffers())
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr") and not re.fullmatch(r"[\w.-]+", str(node.target)):
            raise ValueError(
                f"a layer is called {node.target!r}: Python source needs names of letters, digits, '_', '-'; "
                "rename it, or export format=program or onnx instead"
            )
        if node.op == "call_module":
            leaves[str(node.target)] = _constructor(network.get_submodule(str(node.target)))
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
        kind=type(network).__name__,
        version=version,
        weights=weights,
        size=size,
        normalisation=normalisation,
        data=repr(data),
        forward=forward,
        modules="\n".join(f"    {name!r}: lambda: {text}," for name, text in leaves.items()),
        parameters="\n".join(f"    {name!r}: {shape}," for name, shape in parameters.items()),
        buffers="\n".join(f"    {name!r}: {made}," for name, made in buffers.items()),
    )


def _constructor(module: nn.Module) -> str:
    """The call that builds a layer of PyTorch; raises ``ValueError`` if an argument is not a literal."""
    text = f"nn.{module!r}"
    try:
        match ast.parse(text, mode="eval").body:
            case ast.Call(ast.Attribute(ast.Name("nn"), _), arguments, keywords):
                for value in (*arguments, *(keyword.value for keyword in keywords)):
                    ast.literal_eval(value)
                return text
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"{text} is no call with numbers and texts alone; export format=program or onnx instead")
