"""The closed-form step equals autograd's for every variant, and declines what it does not know."""

from functools import partial

import pytest
import torch
from torch import nn

from gan_tutorial.backprop import ClosedForm, closed_form_step, layer_norm_backward
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.recipes import PARTS, SEEDED, VARIANTS
from gan_tutorial.training import train

relu = partial(nn.LeakyReLU, 0.02)


# Not all of the factorial: "LeakyReLU + Adam + LayerNorm" is chaotic. There the plain step differs from itself by 0.01
# after 1,000 images when one layer's biases start 1e-8 higher.
@pytest.mark.parametrize("variant", SEEDED)
def test_losses_equal_the_plain_step_over_1000_steps(variant, sample):
    train_data, _ = sample
    losses = []
    for fast in (False, True):
        set_seed(1)
        network = VARIANTS[variant]()
        train(network, train_data, epochs=1, images_per_epoch=1_000, fast=fast)
        losses.append(torch.tensor(network.progress))
    assert (losses[0] - losses[1]).abs().max() < 1e-5
    assert losses[0][-20:].mean() < losses[0][:20].mean()  # and it does learn


@pytest.mark.parametrize("loss", [nn.MSELoss, nn.BCELoss])
@pytest.mark.parametrize("activation", [nn.Sigmoid, relu])
@pytest.mark.parametrize("normalization", [None, nn.LayerNorm])
@pytest.mark.parametrize("shape", [(), (5,)], ids=["image", "batch"])
def test_every_gradient_equals_autograd(loss, activation, normalization, shape):
    set_seed(2)
    network = ANN(loss, activation=activation, normalization=normalization, optimizer=torch.optim.Adam)
    image, target = torch.rand(*shape, 784), torch.eye(10)[torch.randint(10, shape)]
    formulas = ClosedForm(network)
    signals = formulas.signals(image)
    ours = [gradient.clone() for gradient in formulas.multiply(formulas.factors(image, target, signals))]
    network.loss_function(network(image), target).backward()
    for gradient, parameter in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-7)


def test_layer_norm_backward_equals_autograd():
    set_seed(0)
    values = torch.randn(200, requires_grad=True)
    gradient = torch.randn(200)
    nn.functional.layer_norm(values, (200,)).backward(gradient)
    variance, mean = torch.var_mean(values.detach(), correction=0, dim=-1, keepdim=True)
    inverse = (variance + 1e-5).rsqrt()
    ours = layer_norm_backward(gradient, (values.detach() - mean) * inverse, inverse)
    torch.testing.assert_close(ours, values.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "network",
    [
        partial(ANN, activation=nn.ReLU),
        partial(ANN, loss_function=nn.L1Loss),
        partial(ANN, loss_function=partial(nn.MSELoss, reduction="sum")),
        partial(ANN, normalization=partial(nn.LayerNorm, elementwise_affine=False)),
        partial(ANN, normalization=nn.Identity),
    ],
)
def test_an_unknown_network_is_left_to_the_plain_step(network):
    assert closed_form_step(network()) is None


def test_momentum_takes_the_optimizers_own_step(sample):
    losses = []
    for fast in (False, True):
        set_seed(1)
        network = ANN(optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9))
        train(network, sample[0], epochs=1, images_per_epoch=500, fast=fast)
        losses.append(torch.tensor(network.progress))
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", PARTS)
def test_batches_give_the_losses_of_the_plain_step_too(variant, sample):
    data, losses = sample[0], []
    for fast in (False, True):
        set_seed(1)
        network = VARIANTS[variant]()
        step = closed_form_step(network) if fast else network.train_step
        for i in range(0, 4_000, 20):
            step(data.images[i : i + 20], data.targets[i : i + 20])
        losses.append(torch.tensor(network.progress))
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, partial(torch.optim.Adam, fused=True, lr=0.002, betas=(0.8, 0.9))]
)
def test_adams_moments_stay_in_the_optimizer(optimizer, sample):
    """Plain and fast steps in turn equal plain steps alone, so neither loses what the other learned."""
    data, losses = sample[0], []
    for parts in ((False, False, False), (True, False, True), (False, True, False)):
        set_seed(3)
        network = ANN(optimizer=optimizer)
        for number, fast in enumerate(parts):
            step = closed_form_step(network) if fast else network.train_step
            for i in range(100 * number, 100 * number + 100):
                step(data.images[i], data.targets[i])
        losses.append(torch.tensor(network.progress))
        assert {float(state["step"]) for state in network.optimizer.state.values()} == {300.0}
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(losses[2], losses[0], rtol=0, atol=1e-5)


def two_groups(parameters):
    first, *others = parameters
    return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": others}], lr=0.01)


def last_layer_only(parameters):
    return torch.optim.SGD(list(parameters)[2:], lr=0.5)


@pytest.mark.parametrize(
    "optimizer",
    [
        two_groups,
        last_layer_only,
        partial(torch.optim.SGD, lr=0.01, weight_decay=0.1),
        partial(torch.optim.Adam, weight_decay=0.1),
        partial(torch.optim.Adam, amsgrad=True),
        torch.optim.AdamW,
    ],
)
def test_any_other_optimizer_takes_its_own_step(optimizer, sample):
    networks = []
    for fast in (False, True):
        set_seed(1)
        networks.append(ANN(optimizer=optimizer))
        train(networks[-1], sample[0], epochs=1, images_per_epoch=200, fast=fast)
    for plain, fast in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(plain, fast, rtol=0, atol=1e-5)


def test_a_network_with_another_forward_or_frozen_weights_is_left_to_the_plain_step():
    class Doubled(ANN):
        def forward(self, images):
            return self.model(2 * images)

    frozen = ANN()
    next(frozen.parameters()).requires_grad_(False)
    assert closed_form_step(Doubled()) is None
    assert closed_form_step(frozen) is None
