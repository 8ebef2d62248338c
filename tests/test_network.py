"""The network takes exactly the steps of a plain PyTorch loop, and every choice reaches its place."""

from functools import partial

import pytest
import torch
from torch import nn

from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.training import train

leaky = partial(nn.LeakyReLU, 0.02)


def losses_of_plain_loop(dataset, steps):
    """The original post's training, written out without any of our code: the loss of every 10th step."""
    model = nn.Sequential(nn.Linear(784, 200), nn.Sigmoid(), nn.Linear(200, 10), nn.Sigmoid())
    loss_function = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for step in range(1, steps + 1):
        _, image, target = dataset[(step - 1) % len(dataset)]
        loss = loss_function(model(image), target)
        if step % 10 == 0:
            losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def test_losses_equal_the_plain_loop_to_the_last_bit(sample):
    train_data, _ = sample
    set_seed(3)
    expected = losses_of_plain_loop(train_data, 5_000)
    set_seed(3)
    network = ANN()
    train(network, train_data, epochs=1, images_per_epoch=5_000)
    assert network.progress == expected
    assert network.counter == 5_000


def test_first_step_agrees_with_the_gradient_worked_out_by_hand():
    set_seed(0)
    network = ANN()
    image, target = torch.rand(784), torch.eye(10)[7]
    last_bias = network.model[2].bias.detach().clone()
    scores = network(image).detach()
    network.train_step(image, target)
    # mean of ten squares: 2 (score - target) / 10, times the sigmoid's slope
    gradient = 2 * (scores - target) / 10 * scores * (1 - scores)
    torch.testing.assert_close(network.model[2].bias.detach(), last_bias - 0.01 * gradient)


def test_layers_stand_in_the_documented_order():
    network = ANN(activation=leaky, normalization=nn.LayerNorm)
    kinds = [type(layer) for layer in network.model]
    assert kinds == [nn.Linear, nn.LeakyReLU, nn.LayerNorm, nn.Linear, nn.Sigmoid]
    assert network.model[2].normalized_shape == (200,)
    assert network.model[1].negative_slope == 0.02


@pytest.mark.parametrize(
    ("network", "parameters"),
    [(ANN, 784 * 200 + 200 + 200 * 10 + 10), (partial(ANN, normalization=nn.LayerNorm), 159_010 + 400)],
)
def test_parameter_count_is_the_one_counted_by_hand(network, parameters):
    assert sum(parameter.numel() for parameter in network().parameters()) == parameters


def test_eval_mode_works_because_the_step_is_not_called_train():
    network = ANN().eval()
    assert not network.training
    assert network.train().training


def test_a_batch_step_averages_over_the_batch():
    set_seed(0)
    network, reference = ANN(), None
    set_seed(0)
    reference = ANN()
    images, targets = torch.rand(8, 784), torch.eye(10)[torch.arange(8)]
    network.train_step(images, targets)
    loss = ((reference(images) - targets) ** 2).mean()
    loss.backward()
    expected = reference.model[0].weight - 0.01 * reference.model[0].weight.grad
    torch.testing.assert_close(network.model[0].weight, expected)


def test_progress_keeps_every_tenth_loss():
    set_seed(0)
    network = ANN()
    for _ in range(29):
        network.train_step(torch.rand(784), torch.eye(10)[0])
    assert (network.counter, len(network.progress)) == (29, 2)
