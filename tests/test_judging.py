"""The rulers agree with independent ones, with cases known in closed form, and say what is wrong with bad input."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from gan_tutorial import judging
from gan_tutorial.judging import (
    Judge,
    Ruler,
    accuracy,
    digit_shares,
    digits_covered,
    frechet_distance,
    histogram_kl,
    load_judge,
    mnist_score,
    nearest,
    neighborhoods,
    radii,
    save_judge,
    spread,
    train_judge,
)

PINNED = "7ad9ca142e4818b92c6ae22ced6b464ce4c0f30299cc2498cbbf35622630b004"


@pytest.fixture(scope="module")
def judge():
    """The course's judge."""
    return load_judge()


@pytest.fixture(scope="module")
def ruler(judge, sample):
    """A ruler of the sample: 1,000 test images to compare with, 4,000 to look for copies of."""
    train_data, test_data = sample
    return Ruler(judge, test_data.images, train_data.images)


def cloud(count, seed, features=6, shift=0.0):
    """Return random features (count, features), correlated and of unequal spread."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator, dtype=torch.float64)
    return torch.randn(count, features, generator=generator, dtype=torch.float64) @ mixing + shift


def exact_gaussian(mean, covariance, count=50):
    """Return a cloud whose mean and (sample) covariance are exactly these."""
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    points -= points.mean(dim=0)
    white = points @ torch.linalg.inv(torch.linalg.cholesky(torch.atleast_2d(points.T.cov())).T)
    root = torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64))
    return white @ root.T + torch.tensor(mean, dtype=torch.float64)


# ---- the judge -------------------------------------------------------------------------------------------------


def test_the_shipped_judge_is_right_on_98_5_percent_of_the_official_test_images(judge, official_folder, capsys):
    train_data, test_data = judging.load_mnist(str(official_folder))
    assert accuracy(judge, test_data.images, test_data.labels) >= 0.985
    assert float(judge.recipe["test_accuracy"]) == pytest.approx(
        accuracy(judge, test_data.images, test_data.labels), abs=2e-4
    )
    assert judge.recipe["data_sha256"] == train_data.sha256


def test_the_shipped_judge_is_small_and_tells_its_recipe(judge):
    assert sum(parameter.numel() for parameter in judge.parameters()) == 114_314
    assert judging.JUDGE_FILE.stat().st_size < 500_000
    assert {"recipe", "seed", "data", "data_sha256", "torch", "python", "test_accuracy"} <= set(judge.recipe)
    assert not judge.training


def test_a_judge_learns_from_the_sample_and_equal_seeds_give_equal_judges(sample):
    train_data, test_data = sample
    judges = [train_judge(train_data, seed, epochs=1, images_per_epoch=12_000) for seed in (0, 0, 1)]
    assert accuracy(judges[0], test_data.images, test_data.labels) > 0.85
    weights = [judge.decide.weight for judge in judges]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_accuracy_needs_one_label_for_each_image(judge):
    images = torch.zeros(4, 784)
    assert accuracy(judge, images, judge.digits(images)) == 1
    for labels in (torch.tensor([3]), torch.zeros(4, 1, dtype=torch.int64), torch.zeros(4, 10)):
        with pytest.raises(ValueError, match=r"The labels are .*expected \(4,\): one for each image"):
            accuracy(judge, images, labels)


def test_a_saved_judge_comes_back_with_its_recipe(tmp_path, sample):
    first = train_judge(sample[0], seed=2, epochs=1, images_per_epoch=200)
    save_judge(first, tmp_path / "new" / "judge.safetensors")
    again = load_judge(tmp_path / "new" / "judge.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert again.recipe == first.recipe
    assert again.recipe["data_sha256"] == sample[0].sha256


def test_the_command_writes_a_judge(tmp_path, monkeypatch, capsys):
    options = ["--data", "sample", "--seed", "7", "--epochs", "1", "--output", str(tmp_path / "j.safetensors")]
    monkeypatch.setattr("sys.argv", ["judging", *options])
    judging.main()
    made = load_judge(tmp_path / "j.safetensors")
    assert made.recipe["seed"] == "7"
    output = capsys.readouterr().out
    assert f"{made.recipe['test_accuracy']} of 1,000 test images right" in output
    assert hashlib.sha256((tmp_path / "j.safetensors").read_bytes()).hexdigest() in output
    assert float(made.recipe["test_accuracy"]) > 0.9


def test_a_missing_or_damaged_file_says_how_to_make_it_again(tmp_path, judge):
    with pytest.raises(ValueError, match=r"no judge in .*python -m gan_tutorial\.judging"):
        load_judge(tmp_path / "judge.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(judging.JUDGE_FILE.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.safetensors does not hold a judge"):
        load_judge(cut)
    other = Judge()
    other.decide = torch.nn.Linear(judging.FEATURES, 3)
    save_judge(other, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not hold a judge"):
        load_judge(tmp_path / "other.safetensors")


def test_a_changed_copy_of_the_shipped_judge_is_refused(tmp_path, monkeypatch):
    content = bytearray(judging.JUDGE_FILE.read_bytes())
    content[-40_000:] = bytes(40_000)  # still a judge for safetensors, and for torch
    changed = tmp_path / "judge.safetensors"
    changed.write_bytes(content)
    assert load_judge(changed).recipe["seed"] == "0"  # a file of one's own is not pinned
    found = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(judging, "JUDGE_FILE", changed)
    with pytest.raises(ValueError, match=f"is not the course's judge: its SHA-256 is {found}, expected {PINNED}. Take"):
        load_judge(changed)


def test_the_shipped_judge_is_the_pinned_one():
    assert hashlib.sha256(judging.JUDGE_FILE.read_bytes()).hexdigest() == PINNED == judging.JUDGE_SHA256


def test_the_command_does_not_write_into_an_installed_package(monkeypatch, capsys):
    monkeypatch.setattr(judging, "__file__", "/usr/lib/python3/site-packages/gan_tutorial/judging.py")
    monkeypatch.setattr("sys.argv", ["judging", "--data", "sample", "--epochs", "1"])
    with pytest.raises(SystemExit, match="1"):
        judging.main()
    error = capsys.readouterr().err
    assert error.startswith("python -m gan_tutorial.judging: error: ")
    assert "belongs to the installed package and is read only" in error
    assert error.count("\n") == 1


def test_features_are_what_the_decision_is_made_of(judge, sample):
    images = sample[0].images[:1500]
    features = judge.features(images)
    assert features.shape == (1500, 64)
    assert features.dtype == torch.float64
    assert features.min() >= 0
    expected = judge(images).softmax(dim=1).detach()
    torch.testing.assert_close(judge.probabilities(features).float(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(judge.digits(images), expected.argmax(dim=1))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 28, 28), r"shape \(3, 28, 28\); expected \(n, 784\)"),
        (torch.zeros(0, 784), "n of 1 or more"),
        (torch.linspace(-1, 1, 784)[None], r"from -1 to 1; expected 0\.\.1\. After a tanh"),
        (torch.full((2, 784), 255.0), r"from 255 to 255"),
        (torch.full((2, 784), torch.nan), "training diverged"),
    ],
)
def test_wrong_images_are_refused_in_plain_words(judge, images, message):
    with pytest.raises(ValueError, match=message):
        judge.features(images)


# ---- Frechet distance ------------------------------------------------------------------------------------------


def test_frechet_of_gaussians_known_in_closed_form():
    """Of commuting covariances it is the squared distance of means plus that of the roots of the eigenvalues."""
    one, other = exact_gaussian([0, 0], [[4, 0], [0, 9]]), exact_gaussian([3, 4], [[1, 0], [0, 16]])
    assert frechet_distance(one, other) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 4) ** 2)
    line, flat = exact_gaussian([0], [[4]]), exact_gaussian([3], [[1]])
    assert frechet_distance(line, flat) == pytest.approx(9 + 1)


def test_frechet_of_covariances_that_do_not_commute():
    """2 x 2: trace of the root of M is sqrt(trace M + 2 sqrt(det M))."""
    a, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, 0.0], [0.0, 1.0]])
    product = a @ b
    root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    expected = np.trace(a) + np.trace(b) - 2 * root
    found = frechet_distance(exact_gaussian([0, 0], a.tolist()), exact_gaussian([0, 0], b.tolist()))
    assert found == pytest.approx(expected)


def test_frechet_equals_scipys_matrix_square_root():
    one, other = cloud(200, 0).numpy(), cloud(300, 1, shift=0.5).numpy()
    a, b = np.cov(one.T), np.cov(other.T)
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(torch.tensor(one), torch.tensor(other)) == pytest.approx(expected, rel=1e-9)


def test_frechet_equals_torchmetrics_on_the_judges_features(judge, sample):
    metrics = pytest.importorskip("torchmetrics.image.fid")
    identity = torch.nn.Identity()
    identity.num_features = judging.FEATURES
    one, other = judge.features(sample[0].images[:800]), judge.features(sample[1].images[:700])
    metric = metrics.FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    metric.update(one, real=True)
    metric.update(other, real=False)
    assert frechet_distance(one, other) == pytest.approx(metric.compute().item(), rel=1e-6)


def test_frechet_is_zero_for_equal_and_symmetric_and_bears_flat_clouds():
    one, other = cloud(100, 0), cloud(90, 1)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))
    collapsed = torch.full((100, 6), 2.0, dtype=torch.float64)
    expected = (one.mean(dim=0) - 2).square().sum() + one.T.cov().trace()
    assert frechet_distance(one, collapsed) == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="2 or more"):
        frechet_distance(one, one[:1])


# ---- digits ----------------------------------------------------------------------------------------------------


def test_the_score_of_cases_known_by_hand():
    clear = torch.eye(10, dtype=torch.float64)
    assert mnist_score(clear) == pytest.approx(10)
    assert mnist_score(clear[:5].repeat(3, 1)) == pytest.approx(5)
    assert mnist_score(clear[:1].repeat(7, 1)) == pytest.approx(1)
    assert mnist_score(torch.full((9, 10), 0.1, dtype=torch.float64)) == pytest.approx(1)
    halves = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)  # mean row: 3/4, 1/4
    by_hand = (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25) + math.log(1 / 0.75)) / 2
    assert mnist_score(halves) == pytest.approx(math.exp(by_hand))


def test_the_score_equals_torchmetrics(judge, sample):
    metrics = pytest.importorskip("torchmetrics.image.inception")
    metric = metrics.InceptionScore(feature=torch.nn.Identity(), splits=1).set_dtype(torch.float64)
    features = judge.features(sample[1].images)
    metric.update(judge.decide(features.float()).double().detach())
    assert mnist_score(judge.probabilities(features)) == pytest.approx(metric.compute()[0].item(), rel=1e-5)


def test_digits_are_covered_from_one_percent_on():
    digits = torch.tensor([0] * 90 + [1] * 9 + [2])
    shares = digit_shares(digits)
    assert shares.tolist() == [0.9, 0.09, 0.01] + [0.0] * 7
    assert digits_covered(shares) == 3
    assert digits_covered(digit_shares(torch.tensor([0] * 195 + [1] * 4 + [2]))) == 2


def test_kl_of_histograms_known_by_hand():
    assert histogram_kl(torch.full((10,), 0.1, dtype=torch.float64)) == pytest.approx(0)
    assert histogram_kl(digit_shares(torch.zeros(5, dtype=torch.int64))) == pytest.approx(math.log(10))
    five = digit_shares(torch.arange(5))
    assert histogram_kl(five) == pytest.approx(math.log(2))


# ---- neighbours ------------------------------------------------------------------------------------------------


def brute_force(real, generated, k):
    """Return precision, recall, density, coverage by the papers' formulas, one pair of points at a time."""

    def radius(points, i):
        return sorted(math.dist(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

    real, generated = real.tolist(), generated.tolist()
    real_radii = [radius(real, i) for i in range(len(real))]
    own_radii = [radius(generated, j) for j in range(len(generated))]
    inside = [[math.dist(x, y) <= r for y, r in zip(real, real_radii, strict=True)] for x in generated]
    precision = sum(any(row) for row in inside) / len(generated)
    density = sum(sum(row) for row in inside) / (k * len(generated))
    coverage = sum(any(row[i] for row in inside) for i in range(len(real))) / len(real)
    recall = sum(any(math.dist(x, y) <= r for x, r in zip(generated, own_radii, strict=True)) for y in real) / len(real)
    return precision, recall, density, coverage


def values(near):
    return near.precision, near.recall, near.density, near.coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighborhoods_equal_brute_force(k):
    real, generated = cloud(60, 0, features=3), 0.7 * cloud(45, 1, features=3) + 0.5
    found = values(neighborhoods(real, generated, k))
    assert found == pytest.approx(brute_force(real, generated, k))
    assert all(0 < value < 1 for value in found)


def test_neighborhoods_equal_the_package_prdc():
    prdc = pytest.importorskip("prdc")
    real, generated = cloud(700, 0), 0.7 * cloud(500, 0) + 0.5
    expected = prdc.compute_prdc(real.numpy(), generated.numpy(), nearest_k=5)
    found = values(neighborhoods(real, generated))
    assert found == pytest.approx([expected[name] for name in ("precision", "recall", "density", "coverage")])


def test_neighborhoods_do_not_depend_on_the_chunks(monkeypatch):
    real, generated = cloud(90, 0), cloud(70, 0) + 0.1
    whole = neighborhoods(real, generated)
    monkeypatch.setattr(judging, "CHUNK", 1000)
    assert neighborhoods(real, generated) == whole
    assert neighborhoods(real, generated, real_radii=radii(real)) == whole


def test_radii_need_enough_images():
    with pytest.raises(ValueError, match="4 images have no 5 neighbours"):
        radii(cloud(4, 0))


def test_nearest_finds_copies_at_distance_zero_and_others_as_brute_force(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    others = torch.rand(50, 784, generator=generator)
    images = torch.cat([torch.rand(20, 784, generator=generator), others[[7, 3]]])
    table = np.linalg.norm(images.numpy()[:, None] - others.numpy()[None], axis=2)
    for chunk in (judging.CHUNK, 200):
        monkeypatch.setattr(judging, "CHUNK", chunk)
        distances, found = nearest(images, others)
        assert found.tolist() == table.argmin(axis=1).tolist()
        assert distances.numpy() == pytest.approx(table.min(axis=1), rel=1e-5)
        assert distances[-2:].tolist() == [0, 0]


def test_spread_takes_images_from_the_first_to_the_last():
    rows = torch.arange(2500.0)[:, None]
    assert spread(rows, 3).flatten().tolist() == [0, 1250, 2499]
    assert torch.equal(spread(rows[:9]), rows[:9])


# ---- the whole ruler on known cases ----------------------------------------------------------------------------


def test_a_ruler_holds_real_images_for_good(ruler, sample):
    verdict = ruler.measure(sample[1].images)
    assert verdict.frechet == pytest.approx(0, abs=1e-6)
    assert (verdict.precision, verdict.recall, verdict.coverage, verdict.digits) == (1, 1, 1, 10)
    assert verdict.score > 9.5
    assert verdict.kl < 0.01
    assert verdict.nearness == pytest.approx(1, abs=0.05)
    assert verdict.copies < 0.01


def test_copies_of_training_images_are_found(ruler, sample):
    verdict = ruler.measure(sample[0].images[:500])
    assert verdict.nearness == 0
    assert verdict.copies == 1
    half = torch.cat([sample[0].images[:250], sample[1].images[:250]])
    assert ruler.measure(half).copies == pytest.approx(0.5, abs=0.02)


def test_missing_digits_are_found(ruler, sample):
    train_data, _ = sample
    kept = train_data.images[train_data.labels < 5]
    verdict = ruler.measure(kept)
    assert verdict.digits == 5
    assert verdict.score == pytest.approx(5, abs=0.2)
    assert verdict.kl == pytest.approx(math.log(2), abs=0.05)
    assert verdict.recall < 0.7


def test_noise_is_far_and_recalls_nothing(ruler):
    noise = torch.rand(500, 784, generator=torch.Generator().manual_seed(0))
    verdict = ruler.measure(noise)
    assert verdict.frechet > 500
    assert verdict.recall < 0.02
    assert verdict.nearness > 1.5


def test_one_picture_repeated_is_a_collapse(ruler, sample):
    verdict = ruler.measure(sample[1].images[:1].repeat(200, 1))
    assert (verdict.digits, verdict.score) == (1, pytest.approx(1))
    assert verdict.kl == pytest.approx(math.log(10))
    assert verdict.coverage < 0.05


def test_without_training_images_copies_are_not_judged(judge, sample):
    verdict = Ruler(judge, sample[1].images[:200]).measure(sample[1].images[200:300])
    assert math.isnan(verdict.nearness)
    assert math.isnan(verdict.copies)
    assert verdict.frechet > 0


def test_the_same_verdict_on_every_device(judge, sample):
    """Features and distances are worked out on the CPU in float64; only the judge and the pixels are elsewhere."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        pytest.skip("this machine has no accelerator")
    train_data, test_data = sample
    here = Ruler(judge, test_data.images, train_data.images).measure(test_data.images[:300])
    there = Ruler(load_judge(device=device), test_data.images.to(device), train_data.images.to(device))
    verdict = there.measure(test_data.images[:300].to(device))
    assert verdict.score == pytest.approx(here.score, rel=1e-3)
    assert verdict.nearness == pytest.approx(here.nearness, rel=1e-3)
    assert verdict.frechet == pytest.approx(here.frechet, rel=1e-2)
