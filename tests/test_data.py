"""MNIST is read into the tensors it should be, from any form, and bad input is named."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mnist_server import serving

from gan_tutorial._sources import OFFICIAL
from gan_tutorial.data import (
    IDX_NAMES,
    MNIST,
    SAMPLE,
    DataError,
    MnistDataset,
    cache_folder,
    csv_file,
    fetch,
    load_mnist,
    resolve_source,
    write_csv,
)

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # as published
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


OFFLINE = partial(fetch, mirrors=["http://127.0.0.1:9/"])  # nobody is there


def never():
    """Take the place of a download that must not be asked for."""
    pytest.fail("a download was asked for")


def row(label=3, pixel=0, count=784):
    """A CSV line with one label and equal pixels."""
    return ",".join([str(label)] + [str(pixel)] * count)


def csv(tmp_path, *rows, end="\n"):
    path = tmp_path / "digits.csv"
    path.write_bytes("".join(row + end for row in rows).encode())
    return path


def idx(*shape, values):
    """The bytes of an IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return gzip.compress(header + bytes(values))


@pytest.fixture
def others_folder(sample):
    """A folder that is not ours to read, while the test runs: an administrator becomes somebody else for that time.

    (`sample` has been loaded by then, so that nothing more needs to be imported.)
    """
    if not hasattr(os, "geteuid"):
        pytest.skip("this system knows no such permissions")
    folder, user = Path(tempfile.mkdtemp()), os.geteuid()
    for names in IDX_NAMES.values():
        for name in names:
            (folder / name).write_bytes(b"secret")
            (folder / name).chmod(0)
    (folder / "digits.csv").write_text(row() + "\n")
    (folder / "digits.csv").chmod(0)
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def blocked_cache(monkeypatch, tmp_path):
    """A cache folder that cannot be made, not even by an administrator: its place is below a file."""
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path / "file" / "cache"))


# ---- the data set ------------------------------------------------------------------------------------------------


def test_a_csv_row_becomes_label_image_and_target(tmp_path):
    dataset = MnistDataset(csv(tmp_path, row(3, 51), row(9, 255)))
    label, image, target = dataset[0]
    assert (label, type(label)) == (3, int)
    torch.testing.assert_close(image, torch.full((784,), 0.2))
    assert target.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert dataset.images.max() == 1.0
    dtypes = [tensor.dtype for tensor in (dataset.labels, dataset.images, dataset.targets)]
    assert dtypes == [torch.int64, torch.float32, torch.float32]
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


def test_an_index_counts_from_the_end_if_negative_and_stops_there(tmp_path):
    dataset = MnistDataset(csv(tmp_path, row(7), row(0), row(4)))
    assert [dataset[-1][0], dataset[-3][0]] == [4, 7]
    for index in (3, -4):
        with pytest.raises(IndexError):
            dataset[index]


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
    every_pixel = ",".join(["5", *(str(i % 256) for i in range(784))])
    path = csv(tmp_path, row(1, 0), row(9, 255), every_pixel, row(0, 128))
    write_csv(MnistDataset(path), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_line_ends_of_any_system_and_blank_lines_are_read(tmp_path, end):
    assert MnistDataset(csv(tmp_path, row(4, 8), row(2, 9), end=end)).labels.tolist() == [4, 2]


def test_a_byte_order_mark_of_a_spreadsheet_is_read(tmp_path):
    assert MnistDataset(csv(tmp_path, "\ufeff" + row(4, 8))).labels.tolist() == [4]


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row(count=783)], r"row 2 has 784 columns instead of 785"),
        ([row(), row(), row(count=785)], r"row 3 has 786 columns instead of 785"),
        ([row(), row(10)], r"row 2, column 1: label '10' is not a whole number in 0..9"),
        ([row(-1)], r"row 1, column 1: label '-1' is not a whole number in 0..9"),
        ([row(3, 256)], r"row 1, column 2: pixel '256' is not a whole number in 0..255"),
        ([row(), row(3, -1)], r"row 2, column 2: pixel '-1' is not a whole number in 0..255"),
        ([row(), row(3, "x")], r"row 2, column 2: pixel 'x' is not a whole number"),
        ([row(), row(3, "0.5")], r"row 2, column 2: pixel '0.5' is not a whole number"),
        ([row(), row(3, "1.0")], r"row 2, column 2: pixel '1\.0' is not a whole number"),
        ([row(), row(3, "1e2")], r"row 2, column 2: pixel '1e2' is not a whole number"),
        ([row(), row(3, "True")], r"row 2, column 2: pixel 'True' is not a whole number"),
        ([row(), row(3, "nan")], r"row 2, column 2: pixel 'nan' is not a whole number"),
        ([row(), row(3, "")], r"row 2, column 2: pixel '' is not a whole number"),
        ([row(), row(3, "--5")], r"row 2, column 2: pixel '--5' is not a whole number"),
        ([row(), row(3, "1 2")], r"row 2, column 2: pixel '1 2' is not a whole number"),
        ([row(), row(3, "²")], r"row 2, column 2: pixel '²' is not a whole number"),
        ([row(), row(3, "9" * 5_000)], r"row 2, column 2: pixel '9{20}' is not a whole number in 0..255"),
        ([row(), row(3, 2**32)], r"row 2, column 2: pixel '4294967296' is not a whole number in 0..255"),
        ([row(), row(3, 2**64)], r"row 2, column 2: pixel '18446744073709551616' is not a whole number in 0..255"),
        ([row(3, "007"), row(), "", row(12)], r"row 4, column 1: label '12' is not a whole number in 0..9"),
        ([row().replace(",", ";")], r"row 1 has 1 column instead of 785"),
        (["\x00\x01\x7f"], r"row 1 has 1 column instead of 785"),
        ([row("label", "pixel"), row()], r"row 1, column 1: label 'label' .* no heading"),
        ([""], r"digits.csv is empty"),
        (["<html>no such page</html>"], r"digits.csv is a web page \(HTML\)"),
        (["\ufeff\n <!DOCTYPE html>"], r"digits.csv is a web page \(HTML\)"),
    ],
)
def test_a_bad_csv_is_refused_with_the_place(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        MnistDataset(csv(tmp_path, *rows))


def test_a_bad_row_far_down_a_large_csv_is_named_without_a_warning(tmp_path, recwarn):
    with pytest.raises(DataError, match=r"row 3501, column 2: pixel 'x' is not a whole number"):
        MnistDataset(csv(tmp_path, *[row(3, 100)] * 3_500, row(3, "x")))
    assert len(recwarn) == 0


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_csv_that_is_cut_inside_its_last_number_or_just_after_it_is_refused(tmp_path, packed, cut):
    content = "".join(row(3, 255) + "\n" for _ in range(2)).encode()[:-cut]
    path = tmp_path / ("digits.csv.gz" if packed else "digits.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=r"does not end with a line end, so it may be cut short.* add one"):
        MnistDataset(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_text_is_named(tmp_path, encoding):
    (tmp_path / "digits.csv").write_bytes((row() + "\n").encode(encoding))
    with pytest.raises(DataError, match=r"digits\.csv is UTF-16 text: save it as plain text"):
        MnistDataset(tmp_path / "digits.csv")


def test_a_packed_csv_with_the_name_of_a_plain_one_is_named(tmp_path):
    (tmp_path / "digits.csv").write_bytes(gzip.compress(row().encode()))
    with pytest.raises(DataError, match=r"digits\.csv is packed with gzip: name it \*\.csv\.gz"):
        MnistDataset(tmp_path / "digits.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(row().encode())[:-9], r"digits.csv.gz is cut short or damaged"),
        (b"1,2,3", r"digits.csv.gz is cut short or damaged"),
        (b"<html>", r"digits.csv.gz is a web page"),
        (gzip.compress(b"<html>"), r"digits.csv.gz is a web page"),
        (gzip.compress(b""), r"digits.csv.gz is empty"),
    ],
    ids=range(5),
)
def test_a_bad_packed_csv_is_refused(tmp_path, content, message):
    (tmp_path / "digits.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        MnistDataset(tmp_path / "digits.csv.gz")


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "digits.csv").mkdir()
    with pytest.raises(DataError, match=r"digits\.csv cannot be read"):
        MnistDataset(tmp_path / "digits.csv")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.csv cannot be read \(No such file"):
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
        (idx(1, 28, 28, values=[0] * 700), idx(1, values=[1]), r"announces sizes \(1, 28, 28\) but holds 700"),
        (idx(1, 14, 56, values=[0] * 784), idx(1, values=[1]), r"announces sizes \(1, 14, 56\)"),
        (idx(0, 28, 28, values=[]), idx(0, values=[]), r"announces sizes \(0, 28, 28\) but holds 0"),
        (idx(784, values=[0] * 784), idx(1, values=[1]), "does not begin like an IDX file"),
        (gzip.compress(b"\0"), idx(1, values=[1]), "does not begin like an IDX file"),
        (idx(1, 28, 28, values=[0] * 784), idx(2, values=[1, 2]), "has 1 images, but its labels file 2 labels"),
        (idx(1, 28, 28, values=[0] * 784), idx(1, values=[10]), "Label 10 of image 1 .* not in 0..9"),
    ],
    ids=range(10),
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


def test_a_csv_that_fails_half_way_leaves_the_old_file_and_no_half(tmp_path):
    dataset = MnistDataset(csv(tmp_path, row(), row()))
    dataset.images = dataset.images[:1]  # one image for two labels
    target = tmp_path / "out" / "digits.csv"
    target.parent.mkdir()
    target.write_text("old")
    with pytest.raises(ValueError, match="dimension"):
        write_csv(dataset, target)
    assert [path.read_text() for path in target.parent.iterdir()] == ["old"]


# ---- the sources ---------------------------------------------------------------------------------------------------


def test_the_sample_is_balanced_and_split_without_overlap(sample):
    train, test = sample
    assert (len(train), len(test)) == (4_000, 1_000)
    assert torch.bincount(train.labels).tolist() == [400] * 10
    assert torch.bincount(test.labels).tolist() == [100] * 10
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)
    assert train.name == test.name == SAMPLE == "MNIST sample"


def test_the_sample_is_shuffled_the_same_way_every_time(sample):
    assert load_mnist("sample")[0].sha256 == sample[0].sha256
    assert len(set(sample[0].labels[:50].tolist())) == 10


def test_the_sample_is_announced_in_one_line(capsys):
    load_mnist("sample")
    assert capsys.readouterr().out == "Data: the MNIST sample (4,000 training and 1,000 test images).\n"


def test_the_variable_can_ask_for_the_sample_and_the_notice_says_so(monkeypatch, capsys):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", "sample")
    assert resolve_source("auto", download=never) == "sample"
    assert load_mnist("auto", download=never)[0].name == "MNIST sample"
    expected = "Data: the MNIST sample (4,000 training and 1,000 test images), asked for by GAN_TUTORIAL_DATA.\n"
    assert capsys.readouterr().out == expected
    assert csv_file("test", "auto", download=never).parent.name == "sample"


def test_the_sample_is_no_folder_with_all_of_mnist(monkeypatch):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", "sample")
    with pytest.raises(DataError, match=r"GAN_TUTORIAL_DATA is sample: set it to a folder with the MNIST files"):
        resolve_source("folder", download=never)


def test_an_unknown_source_is_refused_with_the_choices():
    with pytest.raises(DataError, match="Choose one of auto, folder, cache, download, sample, or an existing folder"):
        load_mnist("internet")


def test_the_folder_has_to_be_named():
    with pytest.raises(DataError, match="GAN_TUTORIAL_DATA is not set"):
        load_mnist("folder")


def test_a_named_folder_that_is_missing_is_no_reason_to_take_another_source(monkeypatch, tmp_path):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"no folder .*gone, named by GAN_TUTORIAL_DATA"):
        load_mnist("auto", download=never)


def test_a_named_folder_without_the_files_says_which(monkeypatch, tmp_path):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"holds neither train-images.* nor mnist_train\.csv"):
        load_mnist("auto", download=never)


def test_an_empty_cache_is_an_error_when_asked_for():
    with pytest.raises(DataError, match="data --fetch"):
        resolve_source("cache", download=never)


def test_a_download_that_fails_is_an_error_when_asked_for():
    with pytest.raises(DataError, match="could not be downloaded"):
        load_mnist("download", download=OFFLINE)


def test_the_sample_stands_in_when_no_download_works(capsys):
    train, _ = load_mnist("auto", download=OFFLINE)
    assert train.name == "MNIST sample"
    assert capsys.readouterr().out == (
        "Data: the MNIST sample (4,000 training and 1,000 test images), because no download worked. For all of MNIST: "
        "run `gan-tutorial data --fetch` when online, or set GAN_TUTORIAL_DATA.\n"
    )


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o755])
def test_a_folder_that_may_not_be_read_is_an_error_that_names_it(monkeypatch, others_folder, mode):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(others_folder))
    chmod_as_owner(others_folder, mode)
    for use in (load_mnist, resolve_source, partial(csv_file, "train")):
        for source in ("auto", "folder", str(others_folder)):
            with pytest.raises(DataError, match=rf"{others_folder}\S* cannot be read \(Permission denied\)"):
                use(source, download=never)


def test_a_folder_inside_one_that_may_not_be_read_is_an_error_that_names_it(monkeypatch, others_folder):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(others_folder / "mnist"))
    with pytest.raises(DataError, match=r"mnist cannot be read \(Permission denied\)"):
        load_mnist("auto", download=never)


@pytest.mark.parametrize("mode", [0o000, 0o755])
def test_a_file_that_may_not_be_read_is_named(others_folder, mode):
    chmod_as_owner(others_folder, mode)
    with pytest.raises(DataError, match=r"digits\.csv cannot be read \(Permission denied\)"):
        MnistDataset(others_folder / "digits.csv")


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o755])
def test_a_cache_that_may_not_be_read_is_passed_over_only_by_auto(monkeypatch, others_folder, mode):
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(others_folder))
    chmod_as_owner(others_folder, mode)
    assert resolve_source("auto", download=OFFLINE) == "sample"
    with pytest.raises(DataError, match=rf"{others_folder}\S* cannot be read \(Permission denied\)"):
        load_mnist("cache")


def chmod_as_owner(folder, mode):
    """Change what others may do with a folder that is not ours for the moment."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    folder.chmod(mode)
    os.seteuid(user)


def test_offline_means_the_sample_within_seconds():
    with serving({}) as (address, _):
        start = time.monotonic()
        mirrors = [f"{address}silent/a/", f"{address}silent/b/"]
        assert resolve_source("auto", download=partial(fetch, mirrors=mirrors, timeout=0.5)) == "sample"
        assert resolve_source("auto", download=OFFLINE) == "sample"
    assert time.monotonic() - start < 6


def test_a_wrong_file_under_an_official_name_states_both_checksums(tmp_path):
    for names in IDX_NAMES.values():
        for name in names:
            (tmp_path / name).write_bytes(b"wrong")
    with pytest.raises(DataError) as error:
        load_mnist(str(tmp_path))
    name = IDX_NAMES["train"][0]
    assert f"expected {OFFICIAL[name]}" in str(error.value)
    assert hashlib.sha256(b"wrong").hexdigest() in str(error.value)
    assert (tmp_path / name).read_bytes() == b"wrong"


# ---- the CSV form ----------------------------------------------------------------------------------------------------


def test_the_csv_form_of_the_sample_is_the_sample(sample):
    for part, dataset in zip(("train", "test"), sample, strict=True):
        path = csv_file(part, "sample")
        assert path.name == f"mnist_{part}.csv"
        assert MnistDataset(path).sha256 == dataset.sha256


def test_a_csv_form_is_written_once(sample):
    time = csv_file("test", "sample").stat().st_mtime_ns
    assert csv_file("test", "sample").stat().st_mtime_ns == time


def test_a_changed_csv_form_is_written_again(sample):
    path = csv_file("test", "sample")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"9")
    assert csv_file("test", "sample").read_bytes() == content


def test_a_csv_form_needs_a_cache_that_can_be_written(blocked_cache):
    with pytest.raises(DataError, match=r"cannot be written .* GAN_TUTORIAL_CACHE"):
        csv_file("test", "sample")


def test_an_unknown_part_is_refused():
    with pytest.raises(DataError, match="Choose one of train, test"):
        csv_file("validation", "sample")


# ---- the official files ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def official(official_folder):
    """The official data, read from the IDX files: (training data, test data)."""
    return tuple(MnistDataset(official_folder / images) for images, _ in IDX_NAMES.values())


@pytest.fixture(scope="session")
def csv_folder(official, tmp_path_factory):
    """A folder with the CSV form of the official files."""
    folder = tmp_path_factory.mktemp("csv")
    for part, dataset in zip(("train", "test"), official, strict=True):
        write_csv(dataset, folder / f"mnist_{part}.csv")
    return folder


def loaded(capsys, source, **options):
    """Load both parts and return their sizes, and the line that was printed."""
    datasets = load_mnist(source, **options)
    assert [dataset.name for dataset in datasets] == [MNIST, MNIST]
    return [len(dataset) for dataset in datasets], capsys.readouterr().out


def line(where):
    """The notice of all of MNIST."""
    return f"Data: all of MNIST (60,000 training and 10,000 test images) from {where}.\n"


def test_the_official_files_have_the_published_counts(official):
    assert torch.bincount(official[0].labels).tolist() == TRAIN_COUNTS
    assert torch.bincount(official[1].labels).tolist() == TEST_COUNTS


def test_the_csv_form_is_the_download_of_the_original_post(csv_folder):
    for name, size in {"mnist_train.csv": 109_575_994, "mnist_test.csv": 18_289_443}.items():
        content = (csv_folder / name).read_bytes()
        assert len(content) == size
        assert hashlib.sha256(content).hexdigest() == OFFICIAL[name]


def test_a_changed_csv_form_of_the_official_files_is_written_again(official_folder, csv_folder):
    path = csv_file("test", str(official_folder))
    path.write_bytes(b"changed")
    assert csv_file("test", str(official_folder)).read_bytes() == (csv_folder / "mnist_test.csv").read_bytes()


def test_csv_and_idx_files_give_equal_tensors(official, csv_folder):
    from_csv = MnistDataset(csv_folder / "mnist_test.csv")
    for name in ("labels", "images", "targets"):
        assert torch.equal(getattr(from_csv, name), getattr(official[1], name))


def test_the_named_folder_comes_first_and_nothing_is_fetched(capsys, monkeypatch, official_folder):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(official_folder))
    assert loaded(capsys, "auto", download=never) == ([60_000, 10_000], line("the folder named by GAN_TUTORIAL_DATA"))
    assert not cache_folder().exists()


def test_the_cache_comes_second_and_nothing_is_fetched(capsys, official_folder):
    shutil.copytree(official_folder, cache_folder())
    assert loaded(capsys, "auto", download=OFFLINE) == ([60_000, 10_000], line("the cache of downloads"))


def test_a_download_comes_third(capsys, official_folder):
    files = {name: (official_folder / name).read_bytes() for names in IDX_NAMES.values() for name in names}
    with serving(files) as (address, served):
        download = partial(fetch, mirrors=[f"{address}good/"])
        assert loaded(capsys, "auto", download=download)[0] == [60_000, 10_000]
        assert loaded(capsys, "download", download=download)[1] == line("a download")
    assert served == {f"good/{name}": 1 for name in files}


def test_a_damaged_cache_is_passed_over(official_folder):
    shutil.copytree(official_folder, cache_folder(), copy_function=shutil.copyfile)
    (cache_folder() / IDX_NAMES["test"][1]).write_bytes(b"damaged")
    assert resolve_source("auto", download=OFFLINE) == "sample"


def test_a_changed_copy_in_the_cache_is_never_trained_on(official, official_folder):
    shutil.copytree(official_folder, cache_folder(), copy_function=shutil.copyfile)
    labels = cache_folder() / IDX_NAMES["train"][1]
    content = bytearray(gzip.decompress(labels.read_bytes()))
    content[8] = (content[8] + 1) % 10
    labels.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(
        DataError, match=r"train-labels.* is not the official file: its SHA-256 is .*, expected 3552534a"
    ):
        load_mnist("cache")
    assert load_mnist("auto", download=OFFLINE)[0].name == "MNIST sample"
    right = (official_folder / labels.name).read_bytes()
    with serving({labels.name: right}) as (address, served):
        download = partial(fetch, mirrors=[f"{address}good/"])
        assert load_mnist("auto", download=download)[0].sha256 == official[0].sha256
    assert (served, labels.read_bytes() == right) == ({f"good/{labels.name}": 1}, True)


def test_what_an_older_version_parsed_into_the_cache_is_not_read(official, official_folder):
    files = [official_folder / name for name in IDX_NAMES["test"]]
    name = "-".join(hashlib.sha256(file.read_bytes()).hexdigest()[:32] for file in files)
    folder = cache_folder() / "parsed" / name
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", np.roll(official[1].labels.numpy().astype(np.uint8), 1))
    np.save(folder / "images.npy", official[1].images.numpy())
    assert torch.equal(load_mnist(str(official_folder))[1].labels, official[1].labels)
    assert torch.equal(MnistDataset(files[0]).labels, official[1].labels)


OPENED = """
import collections, json, os, sys
opened = collections.Counter()
sys.addaudithook(lambda event, args: opened.update([os.path.basename(str(args[0]))]) if event == "open" else None)
from gan_tutorial.data import cache_folder, load_mnist
for source in sys.argv[1:]:
    if source == "damaged":
        (cache_folder() / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    opened.clear()
    load_mnist("auto" if source == "damaged" else source)
    print(json.dumps({name: count for name, count in opened.items() if "ubyte" in name or "mnist_" in name}))
"""


def test_no_file_is_read_twice(official_folder, csv_folder):
    shutil.copytree(official_folder, cache_folder(), copy_function=shutil.copyfile)
    sources = [str(official_folder), str(csv_folder), "sample", "auto", "damaged"]
    offline = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", OPENED, *sources], env=offline, capture_output=True, text=True)
    idx, csv, sample = (
        [name for pair in IDX_NAMES.values() for name in pair],
        ["mnist_train.csv", "mnist_test.csv"],
        ["mnist_5k.csv.gz"],
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert found == [dict.fromkeys(names, 1) for names in (idx, csv, sample, idx, idx + sample)], done.stderr


def test_a_folder_can_be_given_as_a_path(capsys, official_folder):
    assert loaded(capsys, str(official_folder)) == ([60_000, 10_000], line("the folder asked for"))


def test_a_folder_with_csv_files_works_and_is_not_written_to(capsys, monkeypatch, official, csv_folder):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(csv_folder))
    before = sorted(csv_folder.iterdir())
    assert load_mnist("auto", download=never)[0].sha256 == official[0].sha256
    assert sorted(csv_folder.iterdir()) == before


def test_the_folders_own_csv_is_taken_also_beside_idx_files(monkeypatch, official_folder, csv_folder, tmp_path):
    folder = tmp_path / "classroom"
    shutil.copytree(official_folder, folder)
    shutil.copy(csv_folder / "mnist_test.csv", folder)
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(folder))
    assert csv_file("test", "auto", download=never) == folder / "mnist_test.csv"


def test_idx_files_and_a_packed_csv_file_may_stand_side_by_side(official, official_folder, csv_folder, tmp_path):
    for name in IDX_NAMES["train"]:
        shutil.copy(official_folder / name, tmp_path)
    content = (csv_folder / "mnist_test.csv").read_bytes()
    (tmp_path / "mnist_test.csv.gz").write_bytes(gzip.compress(content, compresslevel=1))
    assert load_mnist(str(tmp_path))[1].sha256 == official[1].sha256
