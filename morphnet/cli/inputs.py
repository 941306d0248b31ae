"""The network and the data of a command, and whether they fit each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from torch import nn

from morphnet.cli.compose import from_plain, read_yaml
from morphnet.cli.output import note
from morphnet.cli.reference import configs_dir
from morphnet.config import DataConfig, NetworkConfig
from morphnet.data import (
    Augmentation,
    ImageData,
    like_cifar,
    like_imagenet,
    load_arrays,
    load_cifar,
    load_digits,
    with_normalisation,
    with_validation,
)
from morphnet.data.files import Viewing
from morphnet.data.folder import load_folder
from morphnet.data.stream import ScaleAugmentation
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import Architecture, cifar_architecture, imagenet_architecture
from morphnet.nn.zoo import classes_of
from morphnet.store import load_source
from morphnet.store.source import trained_on

CIFAR = ("cifar10", "cifar100")


def architecture_of(network: NetworkConfig, classes: int, in_channels: int) -> Architecture:
    """The architecture of ``network`` for the images and classes of the data."""
    build = cifar_architecture if network.family == "cifar" else imagenet_architecture
    settings: dict[str, Any] = {} if network.widths is None else {"widths": network.widths}
    return build(
        network.depth,
        classes,
        in_channels=in_channels,
        shortcut=network.shortcut,
        activation=network.activation,
        **settings,
    )


def load_data(config: DataConfig, *, pretend: bool = False, evaluation_only: bool = False) -> ImageData:
    """The images, not yet normalised; a validation split is cut off here.

    Args:
        pretend: use noise where CIFAR's or ImageNet's images are missing, and download nothing.
        evaluation_only: a folder needs no training images, unless a validation split is made of them.
    """
    if config.crop is not None:
        data = _load_folder(config, config.crop, pretend, evaluation_only and not config.validation)
    elif config.path is not None:
        if not config.path:
            raise ValueError("data.path is empty: give an .npz, or null")
        data = load_arrays(config.name, Path(config.path))
    elif config.name == "digits":
        data = load_digits()
    elif config.name in CIFAR:
        data = _cifar(config, pretend)
    else:
        raise ValueError(f"data.name={config.name!r} needs data.path, an .npz; built in are digits, {', '.join(CIFAR)}")
    return with_validation(data, config.validation, config.validation_seed) if config.validation else data


def _cifar(config: DataConfig, pretend: bool) -> ImageData:
    try:
        return load_cifar(config.name, Path(config.root), config.download and not pretend)
    except FileNotFoundError:
        if not pretend:
            raise
    note(f"{config.name} is not in data.root={config.root}; noise of its shape is used to plan and measure")
    return like_cifar(config.name)


def _load_folder(config: DataConfig, crop: int, pretend: bool, evaluation_only: bool) -> ImageData:
    viewing = Viewing(crop, config.eval_shorter_side, config.views, config.exif)
    if not config.path:
        if pretend and config.name == "imagenet":
            note("data.path is not given; a JPEG of noise of ImageNet's usual size is used to plan and measure")
            return like_imagenet(viewing, _workers(config.workers))
        raise ValueError(
            f"data={config.name} needs data.path: a folder with train/<class>/ and val/ (or the environment's "
            "MORPHNET_IMAGENET for ImageNet)"
        )
    labels = None if config.labels is None else Path(config.labels)
    return load_folder(
        config.name,
        Path(config.path),
        viewing,
        labels,
        _workers(config.workers),
        evaluation_only=evaluation_only,
        note=note,
    )


def _workers(count: int | None) -> int:
    """The number of processes that decode; by default one for each core of this process's share, at most 16."""
    from morphnet.train.ranks import local_count

    if count is None:
        return max(1, min(16, len(os.sched_getaffinity(0)) // local_count()))
    return count


def augmentation_of(config: DataConfig) -> Augmentation | ScaleAugmentation:
    """How training images are augmented."""
    if config.crop is None:
        return Augmentation(config.pad, config.flip, config.policy)
    shortest, longest = config.shorter_side or [config.eval_shorter_side] * 2
    return ScaleAugmentation((shortest, longest), config.flip)


def normalised(data: ImageData, config: DataConfig, parent: nn.Module | None) -> ImageData:
    """``data`` with the mean and deviation of ``config``, else those of the parent, else its own."""
    if config.normalize is not None:
        return with_normalisation(data, config.normalize)
    known = {} if parent is None else metadata_of(parent)
    if "mean" in known and "std" in known:
        return with_normalisation(data, [known["mean"], known["std"]])
    return with_normalisation(data, "own")


def load_parent(
    source: str,
    network: NetworkConfig | None,
    data: ImageData | None,
    weights: str,
    *,
    convert: bool = True,
    new_head: bool = False,
) -> nn.Module:
    """The network of SOURCE; ``network`` and ``data`` name the architecture of a bare state dict.

    Args:
        convert: return torchvision's plain ResNets (18 to 152 layers) as ours, not as their own class.
        new_head: the network gets a new last layer later, so its classes need not be those of the data.

    Raises:
        ValueError: it does not fit the data.
    """
    if weights != "none" and not source.startswith("torchvision:"):
        raise ValueError(f"weights={weights} goes with parent=torchvision:NAME alone; got parent={source}")
    architecture = None
    if network is not None and data is not None:
        architecture = architecture_of(network, data.classes, data.input_size[0])
    classes = None if data is None or new_head else data.classes
    parent = load_source(source, architecture, weights, classes=classes, convert=convert)
    metadata_of(parent).setdefault("origin", source if source.startswith("torchvision:") else Path(source).name)
    if data is not None:
        classes, channels = takes_and_gives(parent)
        if channels != data.input_size[0] or (classes != data.classes and not new_head):
            raise ValueError(
                f"parent={source} has {classes} classes and {channels} image channels; "
                f"{data.name} has {data.classes} and {data.input_size[0]}: give the data it was trained for"
                + (", or new_head=true to morphnet train" if channels == data.input_size[0] and not new_head else "")
            )
    for line in _surprises(source, weights, parent, data):
        note(line)
    return parent


def _surprises(source: str, weights: str, parent: nn.Module, data: ImageData | None) -> Iterator[str]:
    if source.startswith("torchvision:") and weights == "none":
        yield f"weights=none: {source} has random weights; weights=default downloads trained ones, or give a file"
    size = metadata_of(parent).get("input_size")
    if data is not None and size is not None and list(size)[1:] != list(data.input_size[1:]):
        height, width = data.input_size[1:]
        yield f"{source} was made for images of {size[1]}x{size[2]}, and those of {data.name} are {height}x{width} here"


def takes_and_gives(network: nn.Module) -> tuple[int | None, int | None]:
    """Classes and image channels of a network, by its last linear layer and first convolution."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    return classes_of(network), convolutions[0].in_channels if convolutions else None


def data_of_source(source: str, config: DataConfig | None) -> DataConfig:
    """``config``, or the data that the run, morph or network in ``source`` was made with.

    Raises:
        ValueError, FileNotFoundError: ``source`` does not exist, or does not say its data.
    """
    if config is not None:
        return config
    path = Path(source)
    if not source.startswith("torchvision:") and not path.exists():
        raise FileNotFoundError(f"parent={source}: there is no such file or folder")
    for folder in (path, *path.parents[:3]):
        saved = _saved_data(folder)
        if saved is not None:
            try:
                return replace(from_plain(saved, DataConfig), download=False)  # which was asked for then, not now
            except (OmegaConfBaseException, ValueError) as error:
                raise ValueError(
                    f"{folder / 'config.yaml'} is damaged: its data is not a data set ({error})"
                ) from error
    known = trained_on(source)
    if known == "digits":  # inside the package
        return DataConfig(**read_yaml(Path(configs_dir()) / "data" / "digits.yaml"))
    what = "does not say what data it is for" if known is None else f"was trained on {known}"
    needed = {name: f"data={name}" for name in CIFAR} | {
        name: f"data={name} data.path=FOLDER" for name in ("imagenet", "folder")
    }
    otherwise = "data=cifar10, data=digits, data=imagenet data.path=FOLDER, data=arrays data.path=FILE, ..."
    raise ValueError(f"parent={source} {what}: give {needed.get(known or '', otherwise)}")


def _saved_data(folder: Path) -> Any:
    """The data in the configuration of the run, morph or collapse that wrote ``folder``; None where there is none."""
    has_run = any((folder / name).exists() for name in ("phases", "morph_report.json", "collapse_report.json"))
    path = folder / "config.yaml"
    return read_yaml(path).get("data") if has_run and path.is_file() else None
