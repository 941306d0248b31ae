"""Speed of the input pipeline of ImageNet: against torchvision v2 on Pillow's images, alone, and with a training step.

    python benchmarks/imagenet.py FOLDER [--rounds 5] [--images 200] [--workers 2] [--network resnet18] [--batch 32]
                                  [--steps 12] [--device auto] [--threads 2] [--price 4.0] [--output results/imagenet]

FOLDER holds images in subfolders, one for each class, such as ImageNet's ``val``. They are read repeatedly from the
system's cache, so the benchmark measures work and not a disk.

1. **Pipeline**, one process and one thread, variants in turn, medians over rounds: random shorter side in [256, 480],
   random window of 224 pixels, mirrored or not, normalised. The reference is Pillow's decoder and torchvision's
   transforms v2 on Pillow images, as in its own training script. All variants use the same random numbers, so the mean
   absolute difference of their outputs, before normalisation and in [0, 1], compares the same crop.
2. **Reading**: the bytes of a file by itself, and of its range in one large file, as in a sharded format.
3. **Together**: images/s of the loader alone, of the training step alone on one fixed batch, and of both.

4. **Estimate** of ImageNet's 70 epochs, one phase, on 1 and 8 GPUs with 16 cores each: the time of the slower of loader
   and step, each measured here on one core and one GPU and scaled linearly with their number. The loader also decodes
   for an evaluation after every epoch; the step's time has no evaluations. The cost is GPU hours times ``--price``,
   the price of one. Without a GPU the step's time, and so the estimate, stays empty.
5. **The same from steps that others measured** (``PUBLISHED``): training images/s of ResNet-50 on one and on eight
   A100, for other networks divided by their FLOP over ResNet-50's. It shows the GPU's speed, not this program's.

Writes ``imagenet.json`` and ``imagenet.md`` to the output folder; ``--redraw`` makes the second again from the first,
with another ``--price`` if one is given.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from solvers import markdown
from throughput import captured, clocked, machine, spread
from torch import Tensor
from torchvision.transforms import v2

from morphnet.data import ImageData, with_normalisation
from morphnet.data.decoding import decode
from morphnet.data.files import FileSplit, Unreadable, Viewing
from morphnet.data.pixels import IMAGENET, Normaliser
from morphnet.data.stream import ScaleAugmentation, StreamBatches
from morphnet.data.views import random_view, resized
from morphnet.nn.resnet import ResNet, imagenet_architecture
from morphnet.train import choose_engine, keep_freed_memory
from morphnet.train.optimizer import make_optimizer
from morphnet.train.step import Learner, TrainStep

CROP, SIDES = 224, (256, 480)
#: ImageNet, and the paper's schedule (Sec. 4.4).
TRAIN_IMAGES, VAL_IMAGES, EPOCHS = 1_281_167, 50_000, 70
CORES_PER_GPU = 16
#: Training images/s by number of GPUs: ResNet-50 v1.5, mixed precision, batch 256 on each A100 (80 GB) of a DGX A100,
#: which has 16 cores for each. NVIDIA/DeepLearningExamples, 291f0d0, PyTorch/Classification/ConvNets/resnet50v1.5.
PUBLISHED = {1: 2470, 8: 16621}
#: Multiply-accumulates of the networks of the presets (``tests/cli/test_configs.py`` asserts them).
RESNET50 = 4_089_184_256
NETWORKS = {
    "resnet18": 1_814_073_344,
    "morph18_1c1": 1_916_833_792,
    "resnet50": RESNET50,
    "morph50_side_1c1": 4_294_705_152,
    "morph50_1c1_few": 4_500_226_048,
}
#: Number of images that are normalised together, as in a batch.
TOGETHER = 32

Draw = tuple[int, tuple[float, float], bool]


def sample(folder: Path, workers: int) -> FileSplit:
    """Every image in the subfolders of ``folder``."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    _, classes = find_classes(str(folder))
    found = make_dataset(str(folder), classes, IMG_EXTENSIONS, allow_empty=True)
    names = np.array([os.fsencode(os.path.relpath(path, folder)) for path, _ in found])
    return FileSplit(folder, names, torch.tensor([label for _, label in found]), Viewing(), workers)


# --- one process, one thread ---


def reference(content: bytes, draw: Draw) -> Tensor:
    """The reference crop, float32 of shape (3, 224, 224), normalised."""
    return NORMALISE(reference_crop(content, draw))


NORMALISE = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)])


def reference_crop(content: bytes, draw: Draw) -> Image.Image:
    shorter, (down, right), mirrored = draw
    image = v2.functional.resize(Image.open(io.BytesIO(content)).convert("RGB"), [shorter])
    top, left = int(down * (image.height - CROP + 1)), int(right * (image.width - CROP + 1))
    image = v2.functional.crop(image, top, left, CROP, CROP)
    return v2.functional.horizontal_flip(image) if mirrored else image


def tensor_crop(content: bytes, draw: Draw) -> Tensor:
    """The crop of torchvision's decoder and of v2 on tensors, which resizes the whole image."""
    from torchvision.io import ImageReadMode, decode_jpeg

    shorter, (down, right), mirrored = draw
    image = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    height, width = resized((image.shape[1], image.shape[2]), shorter)
    image = v2.functional.resize(image, [height, width], antialias=True)
    top, left = int(down * (height - CROP + 1)), int(right * (width - CROP + 1))
    found = v2.functional.crop(image, top, left, CROP, CROP)
    return v2.functional.horizontal_flip(found) if mirrored else found


def our_crop(content: bytes, draw: Draw) -> Tensor:
    return random_view(decode(content), *draw, CROP)


CROPS: dict[str, Callable[[bytes, Draw], Tensor]] = {"v2 on tensors": tensor_crop, "morphnet": our_crop}


def pipeline(contents: list[bytes], draws: list[Draw], rounds: int) -> list[dict[str, Any]]:
    """Images per second of every variant, and the difference of its crops from the reference's."""
    torch.set_num_threads(1)
    normaliser = Normaliser(*IMAGENET, torch.device("cpu"))

    def in_batches(crop: Callable[[bytes, Draw], Tensor]) -> None:
        for start in range(0, len(contents), TOGETHER):
            pairs = list(zip(contents, draws, strict=True))[start : start + TOGETHER]
            images = torch.empty(len(pairs), CROP, CROP, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
            for place, pair in zip(images, pairs, strict=True):
                place[:] = crop(*pair)
            normaliser(images)

    def by_reference() -> None:
        for pair in zip(contents, draws, strict=True):
            reference(*pair)

    variants: dict[str, Callable[[], None]] = {"v2 on Pillow images": by_reference}
    variants |= {name: (lambda crop=crop: in_batches(crop)) for name, crop in CROPS.items()}  # type: ignore[misc]
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            speeds[name].append(len(contents) / (time.perf_counter() - started))
    expected = [v2.functional.to_image(reference_crop(*pair)).int() for pair in zip(contents, draws, strict=True)]
    found = []
    for name, values in speeds.items():
        row: dict[str, Any] = {"variant": name, "images_per_second": values}
        if name in CROPS:
            crops = [CROPS[name](*pair) for pair in zip(contents, draws, strict=True)]
            each = [float((c.int() - e).abs().float().mean()) / 255 for c, e in zip(crops, expected, strict=True)]
            row |= {"difference": statistics.fmean(each), "largest_difference": max(each)}
        found.append(row)
    return found


def reading(split: FileSplit, rounds: int) -> dict[str, float]:
    """Microseconds to read an image's bytes from its own file, and from its range in a large file."""
    paths = [split.root / split.name(i) for i in range(len(split))]
    sizes = [path.stat().st_size for path in paths]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    order = random.Random(0).sample(range(len(paths)), len(paths))
    alone, together = [], []
    with tempfile.TemporaryFile() as shard:
        for path in paths:
            shard.write(path.read_bytes())
        shard.flush()
        for _ in range(rounds):
            started = time.perf_counter()
            for i in order:
                paths[i].read_bytes()
            alone.append(time.perf_counter() - started)
            started = time.perf_counter()
            for i in order:
                os.pread(shard.fileno(), sizes[i], starts[i])
            together.append(time.perf_counter() - started)
    scale = 1e6 / len(paths)
    return {"file": scale * statistics.median(alone), "shard": scale * statistics.median(together)}


# --- loader and step ---


def together(split: FileSplit, arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second of the loader alone, of the step alone, and of both, after two uncounted batches."""
    torch.set_num_threads(arguments.threads)
    engine = choose_engine(arguments.device, "auto", "false")
    warm_up, steps, batch = 2, arguments.steps, arguments.batch
    copies = -(-(warm_up + steps) * batch // len(split))
    split = replace(split, names=np.tile(split.names, copies), labels=split.labels.repeat(copies)).to(engine.device)
    classes = tuple(str(k) for k in range(1000))
    data = ImageData("imagenet", split, split, classes, (0.0,) * 3, (1.0,) * 3, unreadable=Unreadable())
    batches = StreamBatches(with_normalisation(data, "imagenet"), batch, ScaleAugmentation(SIDES), (0, 0))
    network = ResNet(imagenet_architecture(int(arguments.network.removeprefix("resnet"))))
    engine = engine.place(network.train())
    learner = Learner(network, make_optimizer(network, 0.1), engine)

    def speed(step: Callable[[], object]) -> float:
        return steps * batch / clocked(step, steps, warm_up, engine)

    feed = batches.feed()
    feed.load(0, 0)
    loader = speed(feed.advance)
    images, labels = feed.batch(torch.zeros(1))
    feed.close()

    def one() -> object:
        return learner.update(images, labels)

    step = speed(captured(one) if engine.captures() else one)
    whole = TrainStep(learner, batches)
    if engine.captures():
        whole.capture()
    whole.load(0)
    both = speed(lambda: whole.run(0, 0.1))
    whole.feed.close()
    precision = str(engine.precision).removeprefix("torch.")
    return {"loader": loader, "step": step, "both": both, "precision": precision, "graph": engine.captures()}


# --- tables ---


def tables(result: dict[str, Any]) -> str:
    found = result["pipeline"]
    base = found[0]["images_per_second"]
    rows = []
    for row in found:
        ratios = [a / b for a, b in zip(row["images_per_second"], base, strict=True)]
        differences = [f"{255 * row[key]:.3f}" for key in ("difference", "largest_difference") if key in row]
        rows.append(
            [
                row["variant"],
                f"{statistics.median(row['images_per_second']):.0f}",
                spread(row["images_per_second"]),
                f"{statistics.median(ratios):.2f}",
                *(differences or ["", ""]),
            ]
        )
    header = ["pipeline, one core", "images/s", "lowest - highest", "over v2 on Pillow images"]
    header += ["mean difference (1/255)", "of the worst image (1/255)"]
    parts = [markdown(header, rows)]
    each = 1e6 / statistics.median(found[-1]["images_per_second"])
    read = [
        [what, f"{result['reading'][key]:.0f}", f"{100 * result['reading'][key] / each:.1f}"]
        for key, what in (("file", "its own file"), ("shard", "its place in one large file"))
    ]
    parts.append(markdown(["an image's bytes from", "microseconds", "% of its time in the pipeline"], read))
    rows = [
        [
            run["network"],
            run["precision"],
            str(run["batch"]),
            str(run["workers"]),
            *(f"{run[key]:.0f}" for key in ("loader", "step", "both")),
        ]
        for run in result["together"]
    ]
    header = ["network", "precision", "batch", "workers", "loader alone", "step alone", "both (images/s)"]
    parts.append(markdown(header, rows))
    header = [
        "GPUs",
        "cores",
        "hours to decode 70 epochs",
        "hours to train them",
        "estimate for a phase (hours)",
        "cost",
    ]
    parts.append(markdown(header, estimates(result)))
    header = ["network", "FLOP (million)", *header[:-1], "GPU hours", "cost"]
    parts.append(markdown(header, published_estimates(result)))
    return "\n".join(parts)


def hours_to_decode(result: dict[str, Any], cores: int) -> float:
    """Decoding hours of one phase, with an evaluation after every epoch."""
    per_core = statistics.median(result["pipeline"][-1]["images_per_second"])
    return EPOCHS * (TRAIN_IMAGES + VAL_IMAGES) / (per_core * cores) / 3600


def published_estimates(result: dict[str, Any]) -> list[list[str]]:
    """The table of :func:`estimates` for the networks of the presets, from steps measured elsewhere."""
    rows, price = [], result.get("price")
    for network, macs in NETWORKS.items():
        for gpus, speed in PUBLISHED.items():
            loading = hours_to_decode(result, CORES_PER_GPU * gpus)
            training = EPOCHS * TRAIN_IMAGES / (speed * RESNET50 / macs) / 3600
            whole = max(training, loading)
            cost = "" if price is None else f"{whole * gpus * price:,.0f}"
            times = [f"{hours:.1f}" for hours in (loading, training, whole)]
            cores = str(CORES_PER_GPU * gpus)
            rows.append([network, f"{macs / 1e6:,.0f}", str(gpus), cores, *times, f"{whole * gpus:.1f}", cost])
    return rows


def estimates(result: dict[str, Any]) -> list[list[str]]:
    """Hours of one phase on 1 and 8 GPUs: of the loader, of the step, and the larger of both."""
    rows = []
    for gpus in (1, 8):
        cores = CORES_PER_GPU * gpus
        loading = hours_to_decode(result, cores)
        steps = [run["step"] for run in result["together"] if run["graph"]]
        training = [EPOCHS * TRAIN_IMAGES / (speed * gpus) / 3600 for speed in steps[:1]]
        whole = [max(hours, loading) for hours in training]
        cells = [f"{hours:.1f}" for hours in (*training, *whole)] or ["", ""]
        price = result.get("price")
        cost = "" if price is None or not whole else f"{whole[0] * gpus * price:,.0f}"
        rows.append([str(gpus), str(cores), f"{loading:.1f}", *cells, cost])
    run = result["together"][0]
    loading = EPOCHS * (TRAIN_IMAGES + VAL_IMAGES) / run["loader"] / 3600
    hours = [EPOCHS * TRAIN_IMAGES / run[key] / 3600 for key in ("step", "both")]
    return [["this machine", str(run["workers"]), *(f"{h:.0f}" for h in (loading, *hours)), ""], *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--redraw", action="store_true")
    for name, kind, default in (
        ("rounds", int, 5), ("images", int, 200), ("workers", int, 2), ("batch", int, 32), ("steps", int, 12),
        ("threads", int, 2), ("price", float, None), ("network", str, "resnet18"), ("device", str, "auto"),
        ("output", Path, Path("results/imagenet")),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    arguments = parser.parse_args()
    if arguments.price is not None and not 0 < arguments.price < math.inf:
        parser.error(f"--price {arguments.price}: what an hour of one GPU costs is needed, such as --price 4.0")
    if arguments.redraw:
        path = arguments.output / "imagenet.json"
        try:
            result = json.loads(path.read_text())
            write({**result, "price": arguments.price or result.get("price")}, arguments.output)
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"{path} is not what this program wrote ({error}); measure first, without --redraw")
        return
    for name in ("rounds", "images", "workers", "batch", "steps", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: a number from 1 is needed")
    folder = arguments.folder
    if folder is None or not folder.is_dir() or not any(folder.glob("*/*.*")):
        parser.error(f"a folder of images is needed, in subfolders, one for each class (or --redraw); got {folder}")
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        parser.error(f"{folder} has train and val in it: give one of them, such as {folder / 'val'}")
    keep_freed_memory()
    split = sample(arguments.folder, arguments.workers)
    rng = random.Random(0)
    chosen = [rng.randrange(len(split)) for _ in range(arguments.images)]
    contents = [(split.root / split.name(i)).read_bytes() for i in chosen]
    draws = [(rng.randint(*SIDES), (rng.random(), rng.random()), rng.random() < 0.5) for _ in chosen]
    result = {
        **machine(arguments.device, arguments.threads),
        "images": len(split),
        "price": arguments.price,
        "reading": reading(split, arguments.rounds),
        "pipeline": pipeline(contents, draws, arguments.rounds),
    }
    settings = {"network": arguments.network, "batch": arguments.batch, "workers": arguments.workers}
    result["together"] = [{**settings, **together(split, arguments)}]
    write(result, arguments.output)


def write(result: dict[str, Any], output: Path) -> None:
    """Prints the tables, and writes them with their data."""
    print(tables(result))
    output.mkdir(parents=True, exist_ok=True)
    (output / "imagenet.json").write_text(json.dumps(result, indent=1) + "\n")
    (output / "imagenet.md").write_text(tables(result))


if __name__ == "__main__":
    main()
