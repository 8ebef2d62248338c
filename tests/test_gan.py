"""The steps of both players equal plain PyTorch loops, and learners' usual mistakes are named."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gan_tutorial.device import set_seed
from gan_tutorial.gan import (
    discriminator_step,
    draw_noise,
    draw_targets,
    generate,
    generator_step,
    gradient_penalty,
    rate_factor,
    shuffled,
    train_gan,
)

WIDTH, NOISE = 6, 3
sgd = partial(torch.optim.SGD, lr=0.1)
TINY = {"epochs": 1, "images_per_epoch": 20, "batch_size": 4, "noise_width": NOISE}


def make_players(labels=0, end=()):
    """A generator and a discriminator with the same first weights each time."""
    set_seed(5)
    generator = nn.Sequential(nn.Linear(NOISE + labels, 5), nn.LeakyReLU(0.2), nn.Linear(5, WIDTH), nn.Sigmoid())
    discriminator = nn.Sequential(nn.Linear(WIDTH + labels, 5), nn.LeakyReLU(0.2), nn.Linear(5, 1), *end)
    return generator, discriminator


def real_images(count=10):
    return torch.rand(count, WIDTH, generator=torch.Generator().manual_seed(9))


def plain_game(generator, discriminator, images, rounds, batch_size, seed=0, targets=None):
    """The same game written out: binary cross-entropy of probabilities, SGD by hand; return the losses."""
    order, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    losses, picks = [], []
    for _ in range(rounds):
        if not picks:
            picks = list(torch.randperm(len(images), generator=order).split(batch_size))
        chosen = picks.pop(0)
        real, z = images[chosen], torch.randn(len(chosen), NOISE, generator=noise)
        if targets is not None:
            real, z = torch.cat([real, targets[chosen]], 1), torch.cat([z, targets[chosen]], 1)
        fake = generator(z) if targets is None else torch.cat([generator(z), targets[chosen]], 1)
        p_real, p_fake = torch.sigmoid(discriminator(real)), torch.sigmoid(discriminator(fake.detach()))
        d_loss = -p_real.log().mean() - (1 - p_fake).log().mean()
        descend(discriminator, d_loss)
        g_loss = -torch.sigmoid(discriminator(fake)).log().mean()
        descend(generator, g_loss)
        losses.append((d_loss.item(), g_loss.item()))
    return losses


def descend(network, loss):
    gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient


def train_tiny(players, images, **options):
    return train_gan(*players, images, generator_optimizer=sgd, discriminator_optimizer=sgd, **TINY | options)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_game_equals_a_plain_loop(conditional):
    labels = 2 if conditional else 0
    targets = torch.eye(2)[torch.arange(10) % 2] if conditional else None
    history = train_tiny(make_players(labels), real_images(), targets=targets)
    # an epoch of 20 images is two passes over ten of them, in batches of 4, 4 and 2
    expected = plain_game(*make_players(labels), real_images(), rounds=6, batch_size=4, targets=targets)
    found = [(r.discriminator_loss, r.generator_loss) for r in history]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
    assert [r.number for r in history] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("end", "loss_function", "penalties"),
    [
        ([], nn.BCEWithLogitsLoss, (0.0, 0.0)),
        ([nn.Sigmoid()], nn.MSELoss, (0.0, 0.0)),
        ([], nn.BCEWithLogitsLoss, (2.0, 0.5)),
    ],
    ids=["logits", "MSE", "R1 and R2"],
)
def test_the_game_equals_the_usual_pytorch_loop_to_the_last_bit(end, loss_function, penalties):
    images, adam = real_images(), partial(torch.optim.Adam, lr=0.01)
    options = {"loss_function": loss_function, "generator_optimizer": adam, "discriminator_optimizer": adam}
    r1, r2 = penalties
    ours = make_players(end=end)
    history = train_gan(*ours, images, **TINY | options, penalty=r1, generated_penalty=r2, seed=3)
    theirs = make_players(end=end)
    losses = usual_loop(*theirs, images, loss_function(), r1, r2, seed=3)
    assert [(r.discriminator_loss, r.generator_loss) for r in history] == losses
    for mine, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), other.parameters(), strict=True))


def usual_loop(generator, discriminator, images, loss_function, r1, r2, seed):
    """The game as everybody writes it: six rounds, batches of 4, 4 and 2 of ten images."""
    g_optimizer, d_optimizer = (torch.optim.Adam(n.parameters(), lr=0.01) for n in (generator, discriminator))
    order, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    losses = []
    for _ in range(2):
        for chosen in torch.randperm(len(images), generator=order).split(4):
            ones, zeros = torch.ones(len(chosen), 1), torch.zeros(len(chosen), 1)
            fake = generator(torch.randn(len(chosen), NOISE, generator=noise))
            x, y = images[chosen].requires_grad_(), fake.detach().requires_grad_()
            scores_x, scores_y = discriminator(x), discriminator(y)
            d_loss = loss_function(scores_x, ones) + loss_function(scores_y, zeros)
            d_optimizer.zero_grad()
            (d_loss + r1 / 2 * squared(scores_x, x) + r2 / 2 * squared(scores_y, y)).backward()
            d_optimizer.step()
            g_optimizer.zero_grad()
            g_loss = loss_function(discriminator(fake), ones)
            g_loss.backward()
            g_optimizer.step()
            losses.append((d_loss.item(), g_loss.item()))
    return losses


@pytest.mark.parametrize(("r1", "r2"), [(0.0, 0.0), (2.0, 0.5)])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_relativistic_game_equals_a_plain_loop(conditional, r1, r2):
    labels, images, adam = 2 * conditional, real_images(), partial(torch.optim.Adam, lr=0.01)
    targets = torch.eye(2)[torch.arange(10) % 2] if conditional else torch.zeros(10, 0)
    options = {"generator_optimizer": adam, "discriminator_optimizer": adam, "penalty": r1, "generated_penalty": r2}
    options |= {"targets": targets if conditional else None, "relativistic": True, "seed": 3}
    ours, theirs = make_players(labels), make_players(labels)
    history = train_gan(*ours, images, **TINY | options)
    losses = relativistic_loop(*theirs, images, targets, r1, r2, seed=3)
    found = torch.tensor([(r.discriminator_loss, r.generator_loss) for r in history])
    torch.testing.assert_close(found, torch.tensor(losses), rtol=1e-6, atol=1e-6)
    for mine, other in zip(ours, theirs, strict=True):
        pairs = zip(mine.parameters(), other.parameters(), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in pairs)


def relativistic_loop(generator, discriminator, images, targets, r1, r2, seed):
    """`usual_loop` with softplus of the differences as loss; ``targets`` (n, 0) where there are no labels."""
    g_optimizer, d_optimizer = (torch.optim.Adam(n.parameters(), lr=0.01) for n in (generator, discriminator))
    order, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    losses = []
    for _ in range(2):
        for chosen in torch.randperm(len(images), generator=order).split(4):
            labels, z = targets[chosen], torch.randn(len(chosen), NOISE, generator=noise)
            fake = generator(torch.cat([z, labels], 1))
            x, y = images[chosen].requires_grad_(), fake.detach().requires_grad_()
            scores_x, scores_y = (discriminator(torch.cat([data, labels], 1)) for data in (x, y))
            d_loss = softplus(scores_y - scores_x).mean()
            d_optimizer.zero_grad()
            (d_loss + r1 / 2 * squared(scores_x, x) + r2 / 2 * squared(scores_y, y)).backward()
            d_optimizer.step()
            g_optimizer.zero_grad()
            scores_x, scores_y = (discriminator(torch.cat([data, labels], 1)) for data in (images[chosen], fake))
            g_loss = softplus(scores_x - scores_y).mean()
            g_loss.backward()
            g_optimizer.step()
            losses.append((d_loss.item(), g_loss.item()))
    return losses


def squared(scores, data):
    """The mean squared length of the gradient."""
    gradient = torch.autograd.grad(scores.sum(), data, create_graph=True)[0]
    return (gradient**2).sum(dim=1).mean()


def test_a_discriminator_that_knows_nothing_loses_two_ln_2_and_the_generator_ln_2():
    generator, discriminator = make_players()
    for parameter in discriminator.parameters():
        nn.init.zeros_(parameter)
    (first, *_) = train_tiny((generator, discriminator), real_images())
    assert first.discriminator_loss == pytest.approx(2 * math.log(2))
    assert first.real_score == first.generated_score == 0.5


def test_mse_scores_are_taken_as_they_are():
    generator, discriminator = make_players(end=[nn.Sigmoid()])
    x = real_images(4)
    z = draw_noise(4, NOISE, torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = discriminator(x).mean().item()
        loss = ((discriminator(x) - 1) ** 2).mean() + (discriminator(generator(z)) ** 2).mean()
    history = train_tiny((generator, discriminator), x, loss_function=nn.MSELoss, images_per_epoch=4)
    assert history[0].real_score == pytest.approx(expected)
    assert history[0].discriminator_loss == pytest.approx(loss.item())


def test_each_step_changes_one_player_only():
    generator, discriminator = make_players()
    before = [p.clone() for p in (*generator.parameters(), *discriminator.parameters())]
    generated = generator(torch.ones(4, NOISE))
    discriminator_step(
        discriminator, sgd(discriminator.parameters()), nn.BCEWithLogitsLoss(), real_images(4), generated
    )
    same = [
        torch.equal(a, b) for a, b in zip(before, (*generator.parameters(), *discriminator.parameters()), strict=True)
    ]
    assert same == [True] * 4 + [False] * 4
    middle = [p.clone() for p in discriminator.parameters()]
    generator_step(discriminator, sgd(generator.parameters()), nn.BCEWithLogitsLoss(), generated)
    assert all(torch.equal(a, b) for a, b in zip(middle, discriminator.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, generator.parameters(), strict=False))


def test_each_relativistic_step_changes_one_player_only():
    generator, discriminator = make_players()
    before = [[p.clone() for p in network.parameters()] for network in (generator, discriminator)]
    real, generated, loss = real_images(4), generator(torch.ones(4, NOISE)), nn.BCEWithLogitsLoss()
    discriminator_step(discriminator, sgd(discriminator.parameters()), loss, real, generated, relativistic=True)
    assert all(p.grad is None and torch.equal(p, a) for p, a in zip(generator.parameters(), before[0], strict=True))
    # The last bias adds the same to both scores: their difference does not depend on it.
    moved = [not torch.equal(p, a) for p, a in zip(discriminator.parameters(), before[1], strict=True)]
    assert moved == [True, True, True, False]
    middle = [(p.clone(), p.grad.clone()) for p in discriminator.parameters()]
    generator_step(discriminator, sgd(generator.parameters()), loss, generated, real=real)
    for p, (value, gradient) in zip(discriminator.parameters(), middle, strict=True):
        assert torch.equal(p, value)
        assert torch.equal(p.grad, gradient)
    assert not any(torch.equal(p, a) for p, a in zip(generator.parameters(), before[0], strict=True))


def test_the_generators_relativistic_loss_is_ln_2_where_its_data_are_the_real_ones():
    generator, discriminator = make_players()
    generated = generator(torch.ones(4, NOISE))
    optimizer, loss = sgd(generator.parameters()), nn.BCEWithLogitsLoss()
    found = generator_step(discriminator, optimizer, loss, generated, real=generated.detach().clone())
    assert found == pytest.approx(math.log(2))


def test_real_data_beside_the_generated_ones_have_their_shape_and_no_gradient():
    generator, discriminator = make_players()
    step = partial(generator_step, discriminator, sgd(generator.parameters()), nn.BCEWithLogitsLoss())
    with pytest.raises(ValueError, match=r"Real data are \(1, 6\), generated data \(4, 6\)"):
        step(generator(torch.ones(4, NOISE)), real=real_images(1))  # broadcasting would hide it
    with pytest.raises(ValueError, match="Are real and generated swapped"):
        step(generator(torch.ones(4, NOISE)), real=generator(torch.ones(4, NOISE)))


def test_without_real_data_the_generators_loss_is_that_of_its_own_scores():
    generator, discriminator = make_players()
    generated = generator(torch.ones(4, NOISE))
    expected = (1 + (-discriminator(generated)).exp()).log().mean().item()  # -log sigmoid(score)
    found = generator_step(discriminator, sgd(generator.parameters()), nn.BCEWithLogitsLoss(), generated)
    assert found == pytest.approx(expected)


def test_the_penalty_of_a_linear_discriminator_is_its_squared_weight():
    weight, data = torch.tensor([[3.0, 4.0]]), torch.rand(7, 2).requires_grad_()
    assert gradient_penalty(data @ weight.T, data).item() == pytest.approx(25.0)


def test_the_penalty_of_a_quadratic_is_the_mean_squared_length_over_pictures():
    pictures = torch.rand(3, 1, 2, 2).requires_grad_()
    scores = pictures.square().flatten(1).sum(dim=1, keepdim=True)  # its gradient is 2 x
    expected = 4 * pictures.square().sum() / 3
    assert gradient_penalty(scores, pictures).item() == pytest.approx(expected.item())


def test_the_penalty_leaves_the_callers_tensors_and_the_labels_alone():
    discriminator, x = nn.Linear(WIDTH + 2, 1), real_images(4)
    weight, labels = discriminator.weight.detach().clone(), torch.eye(2)[[0, 1, 0, 1]]
    flat = lambda scores, answers: 0 * scores.sum()  # noqa: E731  nothing but the penalty is left
    discriminator_step(discriminator, sgd(discriminator.parameters()), flat, x, x, labels, penalty=2.0)
    change = weight - discriminator.weight.detach()
    torch.testing.assert_close(change[:, :WIDTH], 0.1 * 2 * weight[:, :WIDTH])
    assert (change[:, WIDTH:] == 0).all()
    assert not x.requires_grad


def test_the_penalty_on_generated_data_is_r2():
    discriminator, x = nn.Linear(WIDTH, 1), real_images(4)
    weight = discriminator.weight.detach().clone()
    flat = lambda scores, answers: 0 * scores.sum()  # noqa: E731
    discriminator_step(discriminator, sgd(discriminator.parameters()), flat, x, x, generated_penalty=3.0)
    torch.testing.assert_close(discriminator.weight.detach(), weight - 0.1 * 3 * weight)


def test_the_penalty_adds_its_own_gradient_to_the_step():
    discriminator = nn.Linear(WIDTH, 1)
    weight, x = discriminator.weight.detach().clone(), torch.full((4, WIDTH), 0.5)
    score = discriminator(x)[0].item()
    discriminator_step(discriminator, sgd(discriminator.parameters()), nn.MSELoss(), x, x, penalty=3.0)
    # loss (s - 1)^2 + s^2 with ds/dw = 0.5, penalty 3/2 |w|^2 with gradient 3 w
    gradient = 0.5 * (2 * (score - 1) + 2 * score) + 3 * weight
    torch.testing.assert_close(discriminator.weight.detach(), weight - 0.1 * gradient)


def test_noise_is_the_same_for_the_same_seed_and_normal():
    draw = [draw_noise(20_000, 5, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draw)
    assert draw[0].mean().abs() < 0.02
    assert abs(draw[0].std().item() - 1) < 0.02


def test_each_pass_shows_every_image_once_in_another_order():
    stream = shuffled(10, batch_size=4, order=torch.Generator().manual_seed(0))
    passes = [torch.cat([next(stream) for _ in range(3)]) for _ in range(2)]
    assert [sorted(p.tolist()) for p in passes] == [list(range(10))] * 2
    assert not torch.equal(*passes)


def test_weights_noise_and_order_have_random_numbers_of_their_own():
    players, images = make_players(), real_images()
    torch.rand(100)  # somebody else draws in between
    first = train_tiny(players, images)
    assert first == train_tiny(make_players(), images)
    assert first != train_tiny(make_players(), images, seed=1)


def test_after_each_epoch_the_number_is_told():
    numbers = []
    train_tiny(make_players(), real_images(), epochs=3, after_epoch=numbers.append)
    assert numbers == [1, 2, 3]


def test_after_each_round_the_round_is_told_before_the_epoch_ends():
    told = []
    options = {"epochs": 2, "after_round": told.append, "after_epoch": told.append}
    history = train_tiny(make_players(), real_images(), **options)
    assert told == [*history[:6], 1, *history[6:], 2]  # batches of 4, 4, 2, 4, 4, 2 of the 20 images of an epoch


def test_weights_averaged_after_each_round_are_the_exponential_average():
    generator, discriminator = make_players()
    averaged = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    snapshots = []

    def after_round(_):
        averaged.update_parameters(generator)
        snapshots.append([p.detach().clone() for p in generator.parameters()])

    train_tiny((generator, discriminator), real_images(), after_round=after_round)
    assert len(snapshots) == 6
    expected = snapshots[0]
    for snapshot in snapshots[1:]:
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, snapshot, strict=True)]
    for found, value, last in zip(averaged.module.parameters(), expected, snapshots[-1], strict=True):
        torch.testing.assert_close(found.detach(), value)
        assert not torch.allclose(found, last, rtol=1e-6, atol=1e-6)


def test_a_generator_left_in_evaluation_mode_between_epochs_is_named():
    generator, discriminator = make_players()
    with pytest.raises(ValueError, match="The generator is in evaluation mode"):
        train_tiny((generator, discriminator), real_images(), epochs=2, after_epoch=lambda _: generator.eval())


def squeezing(discriminator):
    return nn.Sequential(discriminator, nn.Flatten(0))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda g, d, x: (g.eval(), d, x), "The generator is in evaluation mode"),
        (lambda g, d, x: (g, d.eval(), x), "The discriminator is in evaluation mode"),
        (lambda g, d, x: (g, nn.Sequential(d, nn.Sigmoid()), x), "contains the sigmoid"),
        (lambda g, d, x: (g, nn.Sequential(d, nn.Sigmoid(), nn.Flatten()), x), "contains the sigmoid"),
        (lambda g, d, x: (nn.Sequential(g, nn.Tanh()), d, x), "ends in Tanh"),
        (lambda g, d, x: (nn.Sequential(g, nn.Tanh(), nn.Flatten()), d, x), "ends in Tanh"),
        (lambda g, d, x: (nn.Sequential(g, nn.Unflatten(1, (2, 3)), nn.Flatten()), d, -x), "values are negative"),
        (lambda g, d, x: (g, squeezing(d), x), r"scores are \(4,\), expected \(4, 1\)"),
        (lambda g, d, x: (nn.Linear(8, WIDTH), d, x), r"fails on seeds of shape \(4, 3\)"),
        (lambda g, d, x: (nn.Linear(NOISE, 5), d, x), r"Real data are \(4, 6\), generated data \(4, 5\)"),
        (lambda g, d, x: (g, d, x[:0]), "no images"),
        (lambda g, d, x: (nn.Sequential(g, nn.Tanh()), d, x[:0]), "no images"),
        (lambda g, d, x: (g, d, 2 * x - 1), "some real values are negative"),
        (lambda g, d, x: (g, d.to("meta"), x), "The discriminator is on meta, the images on cpu"),
    ],
)
def test_a_usual_mistake_is_named(mistake, message):
    generator, discriminator, images = mistake(*make_players(), real_images())
    with pytest.raises(ValueError, match=message):
        train_tiny((generator, discriminator), images)


def test_a_detached_generator_is_named():
    generator, discriminator = make_players()
    generated = generate(generator, torch.ones(4, NOISE)).detach()
    with pytest.raises(ValueError, match="detached from the generator"):
        generator_step(discriminator, sgd(generator.parameters()), nn.BCEWithLogitsLoss(), generated)


@pytest.mark.parametrize("name", ["epochs", "images_per_epoch", "batch_size", "noise_width"])
def test_a_count_below_one_is_named(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        train_tiny(make_players(), real_images(), **{name: 0})


TWO_HALVES = torch.full((10, 2), 0.5)  # each row adds up to 1
ONE_AND_MORE = torch.tensor([[1.0, 0.5]] * 10)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.arange(10) % 2, r"targets are \(10,\), expected a row for each of 10 images"),
        (torch.eye(2)[[0, 1]], r"targets are \(2, 2\), expected a row for each of 10 images"),
        (torch.zeros(10, 2), "not one-hot"),
        (torch.ones(10, 2), "not one-hot"),
        (TWO_HALVES, "not one-hot"),
        (ONE_AND_MORE, "not one-hot"),
    ],
)
def test_targets_that_are_not_one_hot_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        train_tiny(make_players(2), real_images(), targets=targets)


def test_random_targets_are_one_hot_and_reach_every_digit():
    targets = draw_targets(1_000, 10, torch.Generator().manual_seed(0))
    assert targets.shape == (1_000, 10)
    assert (targets.sum(dim=1) == 1).all()
    assert (targets.sum(dim=0) > 50).all()


def step_of(player, networks, optimizer_of, generated, real=None):
    """One step of ``player`` with the optimizer of ``optimizer_of``."""
    optimizer, loss = sgd(optimizer_of.parameters()), nn.BCEWithLogitsLoss()
    if player == "generator":
        return generator_step(networks[1], optimizer, loss, generated)
    return discriminator_step(networks[1], optimizer, loss, real_images(4) if real is None else real, generated)


def test_swapped_data_are_named():
    players = make_players()
    with pytest.raises(ValueError, match="real and generated swapped"):
        step_of("discriminator", players, players[1], real_images(4), real=players[0](torch.ones(4, NOISE)))


def test_swapped_optimizers_are_named():
    players = make_players()
    generated = players[0](torch.ones(4, NOISE))
    with pytest.raises(ValueError, match="This is the discriminator's optimizer"):
        step_of("generator", players, players[1], generated)
    with pytest.raises(ValueError, match="does not depend on any parameter"):
        step_of("discriminator", players, players[0], generated)


def test_an_optimizer_of_an_earlier_generator_is_named():
    players, earlier = make_players(), make_players()
    with pytest.raises(ValueError, match="build it anew whenever the network is built anew"):
        step_of("generator", players, earlier[0], players[0](torch.ones(4, NOISE)))


def test_generated_data_that_are_used_twice_are_named():
    players = make_players()
    generated = players[0](torch.ones(4, NOISE))
    step_of("generator", players, players[0], generated)
    with pytest.raises(ValueError, match="Generate anew in each round"):
        step_of("generator", players, players[0], generated)


def test_generated_data_of_an_earlier_generator_are_named():
    players = make_players()
    first, second = (players[0](torch.full((4, NOISE), value)) for value in (0.0, 1.0))
    step_of("generator", players, players[0], first)
    with pytest.raises(ValueError, match="A network has learned since"):
        step_of("generator", players, players[0], second)


def test_a_generators_step_leaves_no_gradient_in_the_discriminator():
    players = make_players()
    step_of("generator", players, players[0], players[0](torch.ones(4, NOISE)))
    assert all(parameter.grad is None for parameter in players[1].parameters())


def test_scores_of_shape_b_are_named_in_the_generators_step():
    generator, discriminator = make_players()
    with pytest.raises(ValueError, match=r"scores are \(4,\)"):
        step_of("generator", (generator, squeezing(discriminator)), generator, generator(torch.ones(4, NOISE)))


def test_rates_fall_to_zero_over_the_calm_end():
    factors = [rate_factor(played, rounds=10, calm=0.4) for played in range(12)]
    assert factors == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0])
    assert {rate_factor(played, rounds=10, calm=0.0) for played in range(12)} == {1.0}


def test_both_players_learn_more_slowly_in_the_calm_end():
    optimizers, rates = [], []

    def make(parameters):
        optimizers.append(torch.optim.SGD(parameters, lr=0.1))
        return optimizers[-1]

    def note(_):
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])

    options = {"generator_optimizer": make, "discriminator_optimizer": make, "after_round": note, "quiet": True}
    train_gan(*make_players(), real_images(), calm=0.4, **TINY | {"images_per_epoch": 20, "batch_size": 2} | options)
    assert rates == [[pytest.approx(rate)] * 2 for rate in [0.1] * 6 + [0.075, 0.05, 0.025, 0.0]]


@pytest.mark.parametrize("calm", [-0.1, 1.5, math.nan])
def test_a_calm_end_is_a_share_of_the_rounds(calm):
    with pytest.raises(ValueError, match=r"calm is .*; it is a share of the rounds, 0 to 1."):
        train_gan(*make_players(), real_images(), calm=calm, **TINY)
