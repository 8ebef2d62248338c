"""MNIST is read into the tensors it should be, from any form, and bad input is named."""

import gzip
import hashlib

import numpy as np
import pytest
import torch

from gan_tutorial.data import (
    IDX_NAMES,
    OFFICIAL,
    DataError,
    MnistDataset,
    cache_folder,
    csv_file,
    load_mnist,
    read_file,
    resolve_source,
    sha256_of,
    write_csv,
)

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # as published
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def row(label=3, pixel=0, count=784):
    """A CSV line with one label and equal pixels."""
    return ",".join([str(label)] + [str(pixel)] * count)


def csv(tmp_path, *rows, name="digits.csv"):
    path = tmp_path / name
    path.write_text("\n".join(rows) + "\n")
    return path


def idx(*shape, values):
    """The bytes of an IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return gzip.compress(header + bytes(values))


# ---- the data set ------------------------------------------------------------------------------------------------


def test_a_csv_row_becomes_label_image_and_target(tmp_path):
    dataset = MnistDataset(csv(tmp_path, row(3, 51), row(9, 255)))
    label, image, target = dataset[0]
    assert (label, type(label)) == (3, int)
    torch.testing.assert_close(image, torch.full((784,), 0.2))
    assert target.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert dataset.images.max() == 1.0
    assert (dataset.labels.dtype, dataset.images.dtype, dataset.targets.dtype) == (
        torch.int64,
        torch.float32,
        torch.float32,
    )
    assert dataset.name == "digits.csv"


def test_an_image_lies_in_one_piece_of_memory(tmp_path, sample):
    assert MnistDataset(csv(tmp_path, row(3), row(9))).images.is_contiguous()
    assert sample[0].images.is_contiguous()


def test_pixels_keep_their_places(tmp_path):
    values = [str(i % 256) for i in range(784)]
    dataset = MnistDataset(csv(tmp_path, ",".join(["5", *values])))
    assert (dataset.images[0] * 255).round().int().tolist() == [i % 256 for i in range(784)]


def test_a_slice_or_index_tensor_gives_a_batch(sample):
    labels, images, targets = sample[1][10:14]
    assert (labels.shape, images.shape, targets.shape) == ((4,), (4, 784), (4, 10))
    picked = sample[1][torch.tensor([13, 10])]
    assert torch.equal(picked[1], images[[3, 0]])


def test_it_is_passed_over_in_file_order(tmp_path):
    dataset = MnistDataset(csv(tmp_path, row(7), row(0), row(4)))
    assert [label for label, _, _ in dataset] == [7, 0, 4]
    assert len(dataset) == 3
    assert dataset[-1][0] == 4


def test_the_picture_of_an_item_has_its_label(sample):
    figure = sample[1].plot_image(5)
    assert figure.axes[0].get_title() == str(sample[1][5][0])


def test_an_idx_file_is_read_with_its_labels(tmp_path):
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(idx(2, 28, 28, values=[0] * 784 + [255] * 784))
    (tmp_path / "a-labels-idx1-ubyte.gz").write_bytes(idx(2, values=[4, 8]))
    dataset = MnistDataset(tmp_path / "a-images-idx3-ubyte.gz")
    assert dataset.labels.tolist() == [4, 8]
    assert dataset.images.sum(dim=1).tolist() == [0, 784]


def test_a_packed_csv_is_the_same_as_a_plain_one(tmp_path):
    plain = csv(tmp_path, row(1, 2), row(3, 4))
    packed = tmp_path / "digits.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert MnistDataset(packed).sha256 == MnistDataset(plain).sha256


def test_the_checksum_is_of_labels_and_then_pixels(tmp_path):
    dataset = MnistDataset(csv(tmp_path, row(1, 2), row(3, 4)))
    assert dataset.sha256 == hashlib.sha256(bytes([1, 3]) + bytes([2] * 784) + bytes([4] * 784)).hexdigest()


def test_writing_and_reading_a_csv_gives_the_same_bytes(tmp_path):
    path = csv(tmp_path, row(1, 0), row(9, 255), row(0, 128))
    write_csv(MnistDataset(path), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row(count=783)], r"row 2 has 784 columns instead of 785"),
        ([row(), row(), row(count=785)], r"row 3 has 786 columns instead of 785"),
        ([row(), row(10)], r"row 2, column 1: label 10 is not in 0..9"),
        ([row(-1)], r"row 1, column 1: label -1 is not in 0..9"),
        ([row(3, 256)], r"row 1, column 2: pixel 256 is not in 0..255"),
        ([row(), row(3, -1)], r"row 2, column 2: pixel -1 is not in 0..255"),
        ([row(), row(3, "x")], r"row 2, column 2: 'x' is not a whole number"),
        ([row(), row(3, "0.5")], r"row 2, column 2: '0.5' is not a whole number"),
        ([row(), row(3, "")], r"row 2, column 2: '' is not a whole number"),
        (["label," + ",".join(f"pixel{i}" for i in range(784)), row()], r"row 1: 'label' .* is it a heading\?"),
        ([""], r"digits.csv is empty"),
        (["<html>no such page</html>"], r"digits.csv is a web page \(HTML\)"),
    ],
)
def test_a_bad_csv_is_refused_with_the_place(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        MnistDataset(csv(tmp_path, *rows))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*nothing\.csv"):
        MnistDataset(tmp_path / "nothing.csv")


def test_an_unknown_form_is_refused(tmp_path):
    (tmp_path / "digits.txt").write_text("1,2")
    with pytest.raises(DataError, match="no other form is read"):
        MnistDataset(tmp_path / "digits.txt")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(1, 28, 28, values=[0] * 784)[:-9], idx(1, values=[1]), "cut short or damaged"),
        (b"no gzip at all", idx(1, values=[1]), "cut short or damaged"),
        (b"<html>", idx(1, values=[1]), "web page"),
        (idx(1, 28, 28, values=[0] * 700), idx(1, values=[1]), r"announces shape \(1, 28, 28\) but holds 700"),
        (idx(1, 14, 56, values=[0] * 784), idx(1, values=[1]), r"announces shape \(1, 14, 56\)"),
        (idx(784, values=[0] * 784), idx(1, values=[1]), "does not begin like an IDX file"),
        (gzip.compress(b"\0"), idx(1, values=[1]), "does not begin like an IDX file"),
        (idx(1, 28, 28, values=[0] * 784), idx(2, values=[1, 2]), "has 1 images, but its labels file 2 labels"),
        (idx(1, 28, 28, values=[0] * 784), idx(1, values=[10]), "label 10 at 1; labels are 0 to 9"),
    ],
    ids=range(9),
)
def test_a_bad_idx_file_is_refused(tmp_path, images, labels, message):
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(images)
    (tmp_path / "a-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(DataError, match=message):
        MnistDataset(tmp_path / "a-images-idx3-ubyte.gz")


def test_a_missing_labels_file_is_named(tmp_path):
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(idx(1, 28, 28, values=[0] * 784))
    with pytest.raises(DataError, match=r"a-labels-idx1-ubyte\.gz"):
        MnistDataset(tmp_path / "a-images-idx3-ubyte.gz")


def test_a_csv_that_cannot_be_written_leaves_no_half_of_it(tmp_path):
    class Broken(MnistDataset):
        sha256 = ""

    dataset = Broken(csv(tmp_path, row(), row()))
    dataset.images = dataset.images[:1]  # one image for two labels
    target = tmp_path / "out" / "digits.csv"
    with pytest.raises(ValueError, match="shorter"):
        write_csv(dataset, target)
    assert list(target.parent.iterdir()) == []


# ---- the sources ---------------------------------------------------------------------------------------------------


def test_the_sample_is_balanced_and_split_without_overlap(sample):
    train, test = sample
    assert (len(train), len(test)) == (4_000, 1_000)
    assert torch.bincount(train.labels).tolist() == [400] * 10
    assert torch.bincount(test.labels).tolist() == [100] * 10
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)
    assert train.name == test.name == "MNIST sample"


def test_the_sample_is_shuffled_the_same_way_every_time(sample):
    assert load_mnist("sample")[0].sha256 == sample[0].sha256
    assert len(set(sample[0].labels[:50].tolist())) == 10


def test_the_sample_is_announced_in_one_line(capsys):
    load_mnist("sample")
    assert capsys.readouterr().out == "Data: the MNIST sample (4,000 training and 1,000 test images).\n"


def test_an_unknown_source_is_refused_with_the_choices():
    with pytest.raises(DataError, match="Choose one of auto, folder, cache, download, sample, or an existing folder"):
        load_mnist("internet")


def test_the_folder_has_to_be_named():
    with pytest.raises(DataError, match="GAN_TUTORIAL_DATA is not set"):
        load_mnist("folder")


def test_a_named_folder_that_is_missing_is_no_reason_to_take_the_sample(monkeypatch, tmp_path):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="There is no folder"):
        load_mnist("auto")


def test_an_empty_cache_is_an_error_when_asked_for():
    with pytest.raises(DataError, match="no folder"):
        resolve_source("cache")


def test_a_wrong_file_under_an_official_name_states_both_checksums(tmp_path):
    for names in IDX_NAMES.values():
        for name in names:
            (tmp_path / name).write_bytes(b"wrong")
    with pytest.raises(DataError) as error:
        load_mnist(str(tmp_path))
    name = IDX_NAMES["train"][0]
    assert OFFICIAL[name] in str(error.value)
    assert hashlib.sha256(b"wrong").hexdigest() in str(error.value)
    assert (tmp_path / name).read_bytes() == b"wrong"


# ---- the official files ----------------------------------------------------------------------------------------------


@pytest.fixture
def official(monkeypatch, official_folder):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(official_folder))
    return load_mnist("auto")


def test_the_official_files_have_the_published_counts(official):
    assert torch.bincount(official[0].labels).tolist() == TRAIN_COUNTS
    assert torch.bincount(official[1].labels).tolist() == TEST_COUNTS
    assert official[0].name == official[1].name == "MNIST"


def test_the_named_folder_comes_first_and_nothing_is_fetched(official, capsys):
    assert not cache_folder().exists()


def test_the_csv_form_is_the_download_of_the_original_post(official, capsys):
    sizes = {"train": 109_575_994, "test": 18_289_443}
    for part, size in sizes.items():
        path = csv_file(part)
        assert path.stat().st_size == size
        assert sha256_of(path) == OFFICIAL[f"mnist_{part}.csv"]


def test_csv_and_idx_give_equal_tensors_and_the_second_reading_takes_the_cache(official, capsys):
    path = csv_file("test")
    labels, pixels = read_file(path)
    assert np.array_equal(labels, official[1].labels.numpy())
    assert torch.equal(torch.tensor(pixels).float() / 255, official[1].images)
    parsed = list((cache_folder() / "parsed").glob("*.npz"))
    assert len(parsed) == 1
    np.savez(parsed[0], labels=labels[:1], pixels=pixels[:1])  # a mark, to see that it is read
    assert len(read_file(path)[0]) == 1


def test_a_folder_with_csv_files_works_and_is_not_written_to(official, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "classroom"
    folder.mkdir()
    for part in ("train", "test"):
        csv_file(part).rename(folder / f"mnist_{part}.csv")
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(folder))
    train, _ = load_mnist("auto")
    assert train.sha256 == official[0].sha256
    assert csv_file("train") == folder / "mnist_train.csv"
    assert len(list(folder.iterdir())) == 2
