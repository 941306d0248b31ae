import pytest
import torch

from morphnet.config import OptimConfig
from morphnet.data import Augmentation, TrainBatches, evaluation_batches, load_digits, with_normalisation
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.train import Engine, choose_engine, evaluate, evaluate_data
from morphnet.train.engine import compiler_found
from morphnet.train.optimizer import make_optimizer
from morphnet.train.step import Learner

CPU = Engine(torch.device("cpu"))


def _digits():
    return with_normalisation(load_digits(), "own")


def _network(**settings):
    return ResNet(cifar_architecture(8, 10, widths=(4, 8, 16), in_channels=1, **settings))


def test_slopes_are_not_decayed_and_everything_else_is():
    network = _network(activation="prelu")
    optimizer = make_optimizer(network, 0.1)
    decayed, slopes = optimizer.param_groups
    assert decayed["weight_decay"] == 1e-4
    assert slopes["weight_decay"] == 0
    assert len(slopes["params"]) == 7
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def test_a_step_lowers_the_loss_on_its_batch_and_moves_every_parameter():
    torch.manual_seed(0)
    network = _network(activation="prelu").train()
    optimizer = make_optimizer(network, 0.05, OptimConfig(momentum=0.0, weight_decay=0.0))
    learner = Learner(network, optimizer, CPU)
    images, labels = next(TrainBatches(_digits(), 50, Augmentation(), (0,)).epoch(0))
    before = [p.clone() for p in network.parameters()]
    first, logits = learner.update(images, labels)
    assert logits.shape == (50, 10)
    assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    second, _ = learner.update(images, labels)
    assert second < first


def test_evaluation_counts_errors_and_keeps_the_mode():
    data = _digits()
    network = _network().train()
    found = evaluate(network, evaluation_batches(data), CPU)
    assert network.training
    assert found.images == 1497
    network.eval()
    with torch.no_grad():
        errors = sum(int((network(x).argmax(1) != y).sum()) for x, y in evaluation_batches(data))
    assert found.errors == errors
    assert found.error == errors / 1497


def test_an_evaluation_keeps_the_class_of_every_image_in_order():
    data = _digits()
    network = _network().eval()
    found = evaluate_data(network, data, CPU)
    with torch.no_grad():
        expected = torch.cat([network(x).argmax(1) for x, _ in evaluation_batches(data)])
    assert found.predictions.dtype == torch.int32
    assert found.predictions.tolist() == expected.tolist()
    assert int((found.predictions != data.test.labels).sum()) == found.errors
    assert found.figures() == {"loss": found.loss, "errors": found.errors, "images": 1497}
    assert evaluate(network, evaluation_batches(data), CPU) == found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "gpu"}, "device='gpu'"),
        ({"device": "cuda:99"}, "try device=cpu"),
        ({"precision": "float12"}, "precision='float12'; expected auto, float32, bfloat16, float16, float64"),
        ({"compile": "maybe"}, "trainer.compile='maybe'"),
    ],
)
def test_an_engine_that_is_not_there_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        choose_engine(**settings)


def test_short_phases_are_not_compiled():
    assert not CPU.compiles(10, 100)
    assert not Engine(torch.device("cuda")).compiles(29_999, 128)
    assert Engine(torch.device("cpu"), compile="true").compiles(1, 1)
    assert not Engine(torch.device("cpu"), compile="false").compiles(10**9, 128)


@pytest.mark.skipif(not compiler_found(), reason="torch.compile needs a C++ compiler and Python's headers")
def test_long_phases_are_compiled():
    assert Engine(torch.device("cpu")).compiles(3_000, 100)
    assert Engine(torch.device("cuda")).compiles(30_000, 1)
