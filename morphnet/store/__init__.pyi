from .files import write_whole
from .lock import hold_or_refuse, is_held, one_at_a_time
from .saved import describe_network, load_network, network_hash, save_network, trace_back
from .source import load_source

__all__ = [
    "describe_network",
    "hold_or_refuse",
    "is_held",
    "load_network",
    "load_source",
    "network_hash",
    "one_at_a_time",
    "save_network",
    "trace_back",
    "write_whole",
]
