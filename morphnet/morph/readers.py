"""The layers that read the channels of a convolution, found in a torch.fx trace of the forward pass."""

from __future__ import annotations

import copy
import inspect
import operator
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from morphnet.nn.activation import FUNCTIONS, Activation, ParametricActivation
from morphnet.nn.replace import what_a_fresh_one_would_lose


@dataclass
class Readers:
    """The layers that depend on the number of channels, each with its input features per channel."""

    followers: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, int] = field(default_factory=dict)


class _BlockedError(Exception):
    """Why a layer cannot be widened; the message follows its name."""


class _UntraceableError(Exception):
    def __init__(self, module: nn.Module, reason: Exception) -> None:
        super().__init__(str(reason))
        self.module = module


@dataclass(frozen=True)
class _Trace:
    """The trace of one mode; ``opaque`` are the modules that cannot be traced, with the reason."""

    graph: fx.Graph
    opaque: dict[nn.Module, str]


def find_readers(network: nn.Module, name: str) -> Readers:
    """The layers that read the channels of convolution ``name`` in training or evaluation mode.

    Raises:
        ValueError: the network cannot be traced, or the output goes to an addition, a concatenation, or the output of
            the network. The message names it, and a layer that can be widened.
    """
    # Tracing runs the code of the network, which may change it: it runs on a copy that shares all tensors.
    attributes = chain.from_iterable(vars(module).values() for module in network.modules())
    shared = chain(network.parameters(), network.buffers(), (each for each in attributes if isinstance(each, Tensor)))
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    try:
        skeleton = copy.deepcopy(network, memo)
        traces = [_trace(skeleton, training) for training in (False, True)]
    except Exception as error:
        raise ValueError(
            f"{name}: torch.fx cannot trace the forward pass of {type(network).__name__}, so what reads this layer is "
            f"unknown ({_first_line(error)}); move code that depends on values of tensors into a submodule of its own"
        ) from error
    try:
        return _read(skeleton, traces, name)
    except _BlockedError as obstacle:
        raise ValueError(f"{name}: {obstacle}; {_alternative(skeleton, traces, name)}") from None


def _alternative(skeleton: nn.Module, traces: list[_Trace], name: str) -> str:
    """Advises to widen a convolution near ``name`` that can be widened."""

    def distance(other: str) -> int:
        common = 0
        for mine, theirs in zip(name.split("."), other.split("."), strict=False):
            if mine != theirs:
                break
            common += 1
        return -common

    candidates = [key for key, part in skeleton.named_modules() if type(part) is nn.Conv2d]
    for other in sorted(candidates, key=distance):
        try:
            readers = _read(skeleton, traces, other)
        except _BlockedError:
            continue
        return f"widen {other} instead, whose output is read by {' and '.join(readers.consumers)} alone"
    return "no convolution of this network can be widened alone; give a layer a larger kernel or a module instead"


def _read(skeleton: nn.Module, traces: list[_Trace], name: str) -> Readers:
    conv = skeleton.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    if conv.groups != 1:
        raise _BlockedError(f"it is a grouped convolution (groups={conv.groups})")
    names = {module: key for key, module in skeleton.named_modules()}
    readers = Readers()
    for trace in traces:
        for holder, reason in trace.opaque.items():
            if any(part is conv for part in holder.modules()):
                raise _BlockedError(f"it is a part of {names[holder]}, which torch.fx cannot trace ({reason})")
        walk = _Walk(trace, conv, skeleton, names)
        walk.run(readers)
    if not readers.consumers:
        raise _BlockedError("no layer reads its output in the forward pass")
    edited = [conv, *(skeleton.get_submodule(part) for part in (*readers.followers, *readers.consumers))]
    for module in edited:
        loss = what_a_fresh_one_would_lose(skeleton, module)
        if loss:
            raise _BlockedError(loss if module is conv else f"{names[module]} has to follow, and {loss}")
    for trace in traces:
        _check_uses(trace.graph, edited, skeleton, names)
    return readers


def _check_uses(graph: fx.Graph, edited: list[nn.Module], skeleton: nn.Module, names: dict[nn.Module, str]) -> None:
    calls: Counter[nn.Module] = Counter()
    for node in graph.nodes:
        if node.op == "get_attr":
            holder = skeleton.get_submodule(str(node.target).rpartition(".")[0])
            if holder in edited:
                raise _BlockedError(f"the network's code takes {node.target} by itself, beside calling the layer")
        elif node.op == "call_module":
            module = skeleton.get_submodule(str(node.target))
            calls[module] += 1
            for part in module.modules():
                if part is not module and part in edited:
                    raise _BlockedError(
                        f"{names[part]} is also a part of {names[module]}, which torch.fx does not trace"
                    )
    for module in edited:
        if calls[module] > 1:
            raise _BlockedError(f"{names[module]} is used {calls[module]} times in one forward pass")


# The trace ----------------------------------------------------------------------------------------------------------

_LEAVES = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.Linear,
    Activation,
    ParametricActivation,
)


class _Tracer(fx.Tracer):
    """Does not enter layers, nor modules that cannot be traced."""

    def __init__(self, opaque: dict[nn.Module, str]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or m in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except _UntraceableError:
            raise
        except Exception as error:
            raise _UntraceableError(m, error) from error


def _trace(skeleton: nn.Module, training: bool) -> _Trace:
    skeleton.train(training)
    signature = inspect.signature(skeleton.forward).parameters.values()
    defaults = {argument.name: argument.default for argument in signature if argument.default is not argument.empty}
    opaque: dict[nn.Module, str] = {}
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about default arguments
                return _Trace(_Tracer(opaque).trace(skeleton, concrete_args=defaults or None), opaque)
        except _UntraceableError as error:
            if error.module in opaque:
                raise  # it is not registered in the network
            opaque[error.module] = _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# The walk from the convolution to its readers -----------------------------------------------------------------------

_ELEMENTWISE_MODULES = {
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU,
    nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold,
}  # fmt: skip
_SPATIAL_MODULES = {
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample,
    nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d,
    nn.ReplicationPad2d, nn.CircularPad2d,
}  # fmt: skip
_ELEMENTWISE = {
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "gelu", "silu",
    "mish", "sigmoid", "sigmoid_", "tanh", "tanh_", "hardswish", "hardsigmoid", "hardtanh", "hardtanh_", "hardshrink",
    "softshrink", "softplus", "softsign", "logsigmoid", "threshold", "dropout", "dropout_", "dropout2d",
    "alpha_dropout", "feature_alpha_dropout", "clamp", "clamp_", "clamp_min", "clamp_max", "abs", "neg", "exp", "log",
    "sqrt", "rsqrt", "square", "sin", "cos", "erf", "contiguous", "clone", "detach", "float", "double", "half",
    "bfloat16", "to",
}  # fmt: skip
_ARITHMETIC = {
    "add": "added to", "sub": "added to", "mul": "multiplied with", "truediv": "divided by", "div": "divided by",
    "pow": "combined with", "maximum": "combined with", "minimum": "combined with",
}  # fmt: skip
_ARITHMETIC |= {f"{key}_": words for key, words in _ARITHMETIC.items()}
_ARITHMETIC |= {"iadd": "added to", "isub": "added to", "imul": "multiplied with", "itruediv": "divided by"}
_SPATIAL = {
    "max_pool2d", "avg_pool2d", "lp_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "pad",
}  # fmt: skip
_JOINING = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}
_REDUCTIONS = {"mean", "sum", "amax", "amin"}
_OTHERS = {"flatten", "reshape", "getitem"}
_NAMES: dict[Any, str] = {
    getattr(home, key): key
    for key in chain(_ELEMENTWISE, _ARITHMETIC, _SPATIAL, _JOINING, _REDUCTIONS, _OTHERS)
    for home in (torch, F, operator)
    if hasattr(home, key)
} | {getattr: "getattr"}

# The kinds of values in a trace: a blob (N, C, H, W); flat (N, C * block), channel by channel; a size of either; a
# number proportional to the channels; a number independent of them.
_RANK = {"blob": 4, "flat": 2}
_SIZE = {"blob": "size of a blob", "flat": "size of a flat blob"}
_COUNT, _FIXED = "count", "fixed"


class _Walk:
    """Follows the output of ``conv`` through one trace and collects the layers that depend on its channels."""

    def __init__(self, trace: _Trace, conv: nn.Conv2d, skeleton: nn.Module, names: dict[nn.Module, str]) -> None:
        self.trace = trace
        self.conv = conv
        self.skeleton = skeleton
        self.names = names
        self.state: dict[fx.Node, str] = {}
        self.same_batch: set[fx.Node] = set()

    def run(self, readers: Readers) -> None:
        for node in self.trace.graph.nodes:
            if node.op == "call_module" and self._module(node) is self.conv:
                self.state[node] = "blob"
                self.same_batch = self._sources(node)
            elif any(source in self.state for source in node.all_input_nodes):
                kind = self._kind(node, readers)
                if kind is not None:
                    self.state[node] = kind

    def _kind(self, node: fx.Node, readers: Readers) -> str | None:
        """The kind of the value of ``node``; None if it does not depend on the channels."""
        kinds = {self.state.get(source, "") for source in node.all_input_nodes}
        if kinds <= {_FIXED, ""}:
            arithmetic = getattr(node.target, "__module__", "") == "_operator"
            return _FIXED if kinds == {_FIXED} and arithmetic else None
        if node.op == "output":
            raise _BlockedError("its output is an output of the network, whose size would change")
        if node.op == "call_module":
            return self._through_module(node, readers)
        if node.op not in ("call_function", "call_method"):
            self._refuse(node)
        name = str(node.target) if node.op == "call_method" else _NAMES.get(node.target, "")
        if name in ("size", "getattr", "getitem", "dim"):
            return self._size(node, name)
        if name in _JOINING:
            raise _BlockedError(f"its output is concatenated with others at {node.name}")
        if name in _ARITHMETIC:
            return self._arithmetic(node, name)
        kind = self.state.get(node.args[0], "") if node.args and isinstance(node.args[0], fx.Node) else ""
        others = {self.state.get(source, "") for source in node.all_input_nodes if source is not node.args[0]}
        if kind not in _RANK:
            self._refuse(node)
        if name in ("view", "reshape"):
            return self._viewed(node)
        if others - {_FIXED, ""}:
            self._refuse(node)
        if name in _ELEMENTWISE and others <= {_FIXED}:
            return kind
        if name in _SPATIAL and kind == "blob" and _keeps_channels(node, name):
            return kind
        if name in _REDUCTIONS and kind == "blob":
            return self._reduced(node, name)
        if name == "flatten":
            start, end = _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
            if start == 1 and end in (-1, _RANK[kind] - 1):
                return "flat"
        return self._refuse(node)

    def _through_module(self, node: fx.Node, readers: Readers) -> str | None:
        module = self._module(node)
        source = node.args[0] if node.args else None
        kind = self.state.get(source, "") if isinstance(source, fx.Node) else ""
        name, channels = self.names[module], self.conv.out_channels
        if kind not in _RANK or len(node.all_input_nodes) > 1:
            self._refuse(node)
        if any(getattr(module, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks")):
            raise _BlockedError(f"its output passes {name}, which carries hooks of unknown effect; remove them first")
        exact = type(module)
        if exact is nn.Conv2d and kind == "blob":
            assert isinstance(module, nn.Conv2d)
            if module.groups != 1:
                raise _BlockedError(f"its output is read by {name}, a grouped convolution (groups={module.groups})")
            readers.consumers[name] = 1
            return None
        if exact is nn.Linear and kind == "flat":
            assert isinstance(module, nn.Linear)
            readers.consumers[name] = self._block(module.in_features, kind, node)
            return None
        if (exact is nn.BatchNorm2d and kind == "blob") or (exact is nn.BatchNorm1d and kind == "flat"):
            assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
            readers.followers[name] = self._block(module.num_features, kind, node)
            return kind
        if exact is ParametricActivation or exact is nn.PReLU:
            assert isinstance(module, (ParametricActivation, nn.PReLU))
            slopes = module.a if isinstance(module, ParametricActivation) else module.weight
            if isinstance(module, ParametricActivation) and module._call is not FUNCTIONS.get(module.function):
                self._refuse(node)
            if slopes.numel() > 1 or channels == 1:
                readers.followers[name] = self._block(slopes.numel(), kind, node)
            return kind
        if exact in _ELEMENTWISE_MODULES or exact is Activation:
            return kind
        if exact in _SPATIAL_MODULES and kind == "blob" and not getattr(module, "return_indices", False):
            return kind
        if exact is nn.Flatten and module.start_dim == 1 and module.end_dim in (-1, _RANK[kind] - 1):
            return "flat"
        return self._refuse(node)

    def _block(self, features: int, kind: str, node: fx.Node) -> int:
        """Features per channel, if all channels together have ``features``."""
        block, rest = divmod(features, self.conv.out_channels)
        if rest or (kind == "blob" and block != 1):
            self._refuse(node)
        return block

    def _size(self, node: fx.Node, name: str) -> str | None:
        source = node.args[0]
        kind = self.state.get(source, "") if isinstance(source, fx.Node) else ""
        if kind in _RANK:
            if name == "dim":
                return _FIXED
            if name == "size":
                axis = _argument(node, 1, "dim", None)
                return _SIZE[kind] if axis is None else self._axis(axis, _RANK[kind], node)
            if name == "getattr" and node.args[1] == "shape":
                return _SIZE[kind]
            if name == "getattr" and node.args[1] in ("dtype", "device", "ndim"):
                return _FIXED
        for of, size in _SIZE.items():
            if kind == size and name == "getitem":
                return self._axis(node.args[1], _RANK[of], node)
        return self._refuse(node)

    def _axis(self, axis: Any, rank: int, node: fx.Node) -> str:
        if isinstance(axis, int) and -rank <= axis < rank:
            return _COUNT if axis % rank == 1 else _FIXED
        if isinstance(axis, slice) and 1 not in range(rank)[axis]:
            return _FIXED
        return self._refuse(node)

    def _arithmetic(self, node: fx.Node, name: str) -> str:
        sources = node.all_input_nodes
        kinds = {self.state.get(source, "") for source in sources} - {_FIXED}
        counts = [part for part in node.args if isinstance(part, fx.Node) and self.state.get(part) == _COUNT]
        if kinds == {_COUNT} and name == "mul" and len(counts) == 1:
            return _COUNT
        if len(kinds) == 1 and kinds <= set(_RANK):
            return kinds.pop()
        other = next((source for source in sources if source not in self.state), None)
        if other is None:
            self._refuse(node)
        words = f"its output is {_ARITHMETIC[name]} {self._origin(other)} at {node.name}"
        raise _BlockedError(words + (" (a shortcut)" if _ARITHMETIC[name] == "added to" else ""))

    def _reduced(self, node: fx.Node, name: str) -> str:
        axes = _argument(node, 1, "dim", None)
        axes = (axes,) if isinstance(axes, int) else axes
        if not isinstance(axes, (tuple, list)) or not all(isinstance(axis, int) for axis in axes):
            raise _BlockedError(f"the {name} at {node.name} is taken over all of its channels")
        over = {axis % 4 for axis in axes}
        if 1 in over:
            raise _BlockedError(f"the {name} at {node.name} is taken over its channels")
        if 0 not in over and (_argument(node, 2, "keepdim", False) is True or over == {2, 3}):
            return "blob" if _argument(node, 2, "keepdim", False) is True else "flat"
        return self._refuse(node)

    def _viewed(self, node: fx.Node) -> str:
        name = str(node.target) if node.op == "call_method" else "reshape"
        shape = node.args[1:] or (node.kwargs.get("shape"),)
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = tuple(shape[0])
        if len(shape) == 2 and self._is_batch_size(shape[0]):
            features = shape[1]
            if features == -1 or (isinstance(features, fx.Node) and self.state.get(features) == _COUNT):
                return "flat"
        raise _BlockedError(
            f"its output is given another shape at {node.name}, {name}{tuple(shape)}, where its "
            "features may be counted by hand (torch.flatten(x, 1) would do)"
        )

    def _is_batch_size(self, value: Any) -> bool:
        if not isinstance(value, fx.Node) or not value.args or not isinstance(value.args[0], fx.Node):
            return False
        source = value.args[0]
        if value.op == "call_method" and value.target == "size":
            return _argument(value, 1, "dim", None) == 0 and self._of_the_batch(source)
        if value.op == "call_function" and value.target is operator.getitem and value.args[1] == 0 and source.args:
            of = source.args[0]
            shape = source.op == "call_function" and source.target is getattr and source.args[1] == "shape"
            size = source.op == "call_method" and source.target == "size" and len(source.args) == 1
            return (shape or size) and isinstance(of, fx.Node) and self._of_the_batch(of)
        return False

    def _of_the_batch(self, node: fx.Node) -> bool:
        return self.state.get(node) in _RANK or node in self.same_batch

    def _sources(self, node: fx.Node) -> set[fx.Node]:
        """The nodes before ``node`` that have the same batch size."""
        nodes = set()
        exact = _ELEMENTWISE_MODULES | _SPATIAL_MODULES | {nn.Conv2d, nn.BatchNorm2d, nn.PReLU, Activation}
        while node.args and isinstance(node.args[0], fx.Node):
            if node.op == "call_module":
                keeps = type(self._module(node)) in exact | {ParametricActivation}
            else:
                keeps = node.op == "call_function" and _NAMES.get(node.target, "") in _ELEMENTWISE | _SPATIAL
            if not keeps:
                break
            node = node.args[0]
            nodes.add(node)
        return nodes

    def _module(self, node: fx.Node) -> nn.Module:
        return self.skeleton.get_submodule(str(node.target))

    def _origin(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"that of {self.names[self._module(node)]}"
        return f"the network's input {node.name}" if node.op == "placeholder" else str(node.name)

    def _refuse(self, node: fx.Node) -> NoReturn:
        what = node.name
        if node.op == "call_module":
            module = self._module(node)
            reason = self.trace.opaque.get(module)
            words = "" if reason is None else f", which torch.fx cannot trace: {reason}"
            what = f"{self.names[module]} (a {type(module).__name__}{words})"
        raise _BlockedError(f"its output reaches {what}, which is not known to treat channels one by one")


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _keeps_channels(node: fx.Node, name: str) -> bool:
    """Whether a spatial function returns one blob and pads only height and width."""
    sides = _argument(node, 1, "pad", ()) if name == "pad" else ()
    return not node.kwargs.get("return_indices") and isinstance(sides, (tuple, list)) and len(sides) <= 4
