"""A network for use elsewhere: ONNX, ``torch.export``, or weights with a model file that needs no morphnet."""

from morphnet.export.formats import FORMATS, ExportReport, export_network

__all__ = ["FORMATS", "ExportReport", "export_network"]
