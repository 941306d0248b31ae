"""Networks on disk: our own files, weights trained elsewhere, and how a command line names them."""

from morphnet.store.files import write_whole
from morphnet.store.saved import describe_network, load_network, network_hash, save_network
from morphnet.store.source import load_source

__all__ = ["describe_network", "load_network", "load_source", "network_hash", "save_network", "write_whole"]
