"""MNIST is read into the tensors it should be, from any form, and bad input is named."""

import gzip
import hashlib
import json
import os
import re
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
NO_IDX = "is not an IDX file whose header fits its values"
ALL = "Data: all of MNIST (60,000 training and 10,000 test images) from {}.\n"
SAMPLED = "Data: the MNIST sample (4,000 training and 1,000 test images){}.\n"

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
    for name in (*IDX_NAMES["train"], *IDX_NAMES["test"], "digits.csv"):
        (folder / name).write_bytes(b"secret")
        (folder / name).chmod(0)
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)
    shutil.rmtree(folder)


# ---- the data set ------------------------------------------------------------------------------------------------


def test_a_csv_row_becomes_label_image_and_target(tmp_path):
    every_pixel = [i % 256 for i in range(784)]
    dataset = MnistDataset(csv(tmp_path, row(3, 51), ",".join(map(str, [9, *every_pixel]))))
    label, image, target = dataset[0]
    assert (label, type(label)) == (3, int)
    torch.testing.assert_close(image, torch.full((784,), 0.2))
    assert target.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert (dataset.images[1] * 255).round().int().tolist() == every_pixel
    dtypes = [tensor.dtype for tensor in (dataset.labels, dataset.images, dataset.targets)]
    assert dtypes == [torch.int64, torch.float32, torch.float32]
    assert (dataset.name, dataset.images.max(), dataset.images.is_contiguous()) == ("digits.csv", 1, True)


def test_a_slice_or_index_tensor_gives_a_batch(sample):
    labels, images, targets = sample[1][10:14]
    assert (labels.shape, images.shape, targets.shape) == ((4,), (4, 784), (4, 10))
    picked = sample[1][torch.tensor([13, 10])]
    assert torch.equal(picked[1], images[[3, 0]])


def test_the_picture_of_an_item_has_its_label(sample):
    assert sample[1].plot_image(5).axes[0].get_title() == str(sample[1][5][0])


def test_it_is_passed_over_in_file_order_and_counts_from_the_end_if_negative(tmp_path):
    dataset = MnistDataset(csv(tmp_path, row(7), row(0), row(4)))
    assert [label for label, _, _ in dataset] == [7, 0, 4]
    assert [len(dataset), dataset[-1][0], dataset[-3][0]] == [3, 4, 7]
    for index in (3, -4):
        with pytest.raises(IndexError):
            dataset[index]


def test_an_idx_file_is_read_with_its_labels(tmp_path):
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(idx(2, 28, 28, values=[0] * 784 + [255] * 784))
    (tmp_path / "a-labels-idx1-ubyte.gz").write_bytes(idx(2, values=[4, 8]))
    dataset = MnistDataset(tmp_path / "a-images-idx3-ubyte.gz")
    assert dataset.labels.tolist() == [4, 8]
    assert dataset.images.sum(dim=1).tolist() == [0, 784]


@pytest.mark.parametrize("name", ["digits.csv", "digits.csv.gz"])
def test_a_packed_csv_is_read_as_a_plain_one_and_the_checksum_is_of_labels_and_then_pixels(tmp_path, name):
    content = csv(tmp_path, row(1, 2), row(3, 4)).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content))
    expected = hashlib.sha256(bytes([1, 3]) + bytes([2] * 784) + bytes([4] * 784)).hexdigest()
    assert MnistDataset(tmp_path / name).sha256 == expected


def test_writing_and_reading_a_csv_gives_the_same_bytes(tmp_path):
    every_pixel = ",".join(["5", *(str(i % 256) for i in range(784))])
    path = csv(tmp_path, row(1, 0), row(9, 255), every_pixel, row(0, 128))
    write_csv(MnistDataset(path), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("mark", "end"), [("", "\n"), ("", "\r\n"), ("", "\n\n"), ("\ufeff", "\n")])
def test_line_ends_of_any_system_blank_lines_and_a_byte_order_mark_are_read(tmp_path, mark, end):
    assert MnistDataset(csv(tmp_path, mark + row(4, 8), row(2, " 009 "), end=end)).labels.tolist() == [4, 2]


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row(count=783)], r"row 2 has 784 columns instead of 785"),
        ([row(), row(), row(count=785)], r"row 3 has 786 columns instead of 785"),
        ([row(), row(10)], r"row 2, column 1: label '10' is not a whole number in 0..9"),
        ([row(-1)], r"row 1, column 1: label '-1' is not a whole number in 0..9"),
        ([row(3, 256)], r"row 1, column 2: pixel '256' is not a whole number in 0..255"),
        ([row(3, "007"), row(), "", row(12)], r"row 4, column 1: label '12' is not a whole number in 0..9"),
        ([row().replace(",", ";")], r"row 1 has 1 column instead of 785"),
        (["\x00\x01\x7f"], r"digits.csv is binary or UTF-16"),
        ([row("label", "pixel"), row()], r"row 1, column 1: label 'label' .* no heading"),
        ([""], r"digits.csv is empty"),
        (["<html>no such page</html>"], r"digits.csv is a web page \(HTML\)"),
        (["\ufeff\n <!DOCTYPE html>"], r"digits.csv is a web page \(HTML\)"),
    ],
)
def test_a_bad_csv_is_refused_with_the_place(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        MnistDataset(csv(tmp_path, *rows))


CELLS = [
    *["-1", "x", "0.5", "1.0", "1e2", "True", "nan", "--", "²", "256", "4294967296", "18446744073709551616"],
    "",
    " ",
    "1 2",
    "1\t",
    "9" * 5_000,
]


@pytest.mark.parametrize("cell", CELLS, ids=range(len(CELLS)))
def test_a_cell_that_is_no_pixel_is_refused_with_its_place(tmp_path, cell):
    named = re.escape(repr(cell[:20]))
    with pytest.raises(DataError, match=rf"row 2, column 2: pixel {named} is not a whole number in 0..255\. Each line"):
        MnistDataset(csv(tmp_path, row(), row(3, cell)))


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("digits.csv.gz", gzip.compress(row().encode())[:-9], r"digits.csv.gz is cut short or damaged"),
        ("digits.csv.gz", b"1,2,3\n", r"digits.csv.gz, row 1 has 3 columns instead of 785"),
        ("digits.csv.gz", b"<html>", r"digits.csv.gz is a web page"),
        ("digits.csv.gz", gzip.compress(b"<html>"), r"digits.csv.gz is a web page"),
        ("digits.csv.gz", gzip.compress(b""), r"digits.csv.gz is empty"),
        *(
            ("digits.csv", f"{row()}\n".encode(f"utf-16{e}"), "is binary or UTF-16: save it")
            for e in ("", "-le", "-be")
        ),
    ],
    ids=range(8),
)
def test_bad_bytes_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        MnistDataset(tmp_path / name)


def test_what_is_no_file_or_of_another_form_is_named(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(idx(1, 28, 28, values=[0] * 784))
    for name, message in {
        "folder.csv": r"folder\.csv cannot be read \(Is a directory",
        "nothing.csv": r"nothing\.csv cannot be read \(No such file",
        "a-images-idx3-ubyte.gz": r"a-labels-idx1-ubyte\.gz cannot be read",
        "digits.txt": "no other form is read",
    }.items():
        with pytest.raises(DataError, match=message):
            MnistDataset(tmp_path / name)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(1, 28, 28, values=[0] * 784)[:-9], idx(1, values=[1]), "cut short or damaged"),
        (b"no gzip at all", idx(1, values=[1]), NO_IDX),
        (b"<html>", idx(1, values=[1]), "web page"),
        (idx(1, 28, 28, values=[0] * 700), idx(1, values=[1]), NO_IDX),
        (idx(1, 14, 56, values=[0] * 784), idx(1, values=[1]), NO_IDX),
        (idx(0, 28, 28, values=[]), idx(0, values=[]), NO_IDX),
        (idx(784, values=[0] * 784), idx(1, values=[1]), NO_IDX),
        (idx(1, 28, 28, values=[0] * 785), idx(1, values=[1]), NO_IDX),
        (b"", idx(1, values=[1]), "a-images-idx3-ubyte.gz is empty"),
        (gzip.compress(b"\0"), idx(1, values=[1]), NO_IDX),
        (idx(1, 28, 28, values=[0] * 784), idx(2, values=[1, 2]), "has 1 images, but its labels file 2 labels"),
        (idx(1, 28, 28, values=[0] * 784), idx(1, values=[10]), "Label 10 of image 1 .* not in 0..9"),
    ],
    ids=range(12),
)
def test_a_bad_idx_file_is_refused(tmp_path, images, labels, message):
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(images)
    (tmp_path / "a-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(DataError, match=message):
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


def test_the_sample_is_balanced_split_without_overlap_and_shuffled_the_same_way_every_time(sample):
    train, test = sample
    assert (len(train), len(test)) == (4_000, 1_000)
    assert torch.bincount(train.labels).tolist() == [400] * 10
    assert torch.bincount(test.labels).tolist() == [100] * 10
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)
    assert train.name == test.name == SAMPLE == "MNIST sample"
    assert len(set(train.labels[:50].tolist())) == 10
    assert load_mnist("sample")[0].sha256 == train.sha256


def test_the_sample_that_was_asked_for_is_announced_in_one_line(monkeypatch, capsys):
    load_mnist("sample")
    assert capsys.readouterr().out == SAMPLED.format("")
    monkeypatch.setenv("GAN_TUTORIAL_DATA", "sample")
    assert load_mnist("auto", download=never)[0].name == "MNIST sample"
    assert capsys.readouterr().out == SAMPLED.format(", asked for by GAN_TUTORIAL_DATA")
    assert csv_file("test", "auto", download=never).parent.name == "sample"


@pytest.mark.parametrize(
    ("named", "source", "message"),
    [
        (
            "",
            "internet",
            "There is no folder internet .*Choose auto, folder .*, cache .*, download, sample, or a folder's",
        ),
        ("", "folder", "GAN_TUTORIAL_DATA is not set"),
        ("sample", "folder", "There is no folder sample .*named by GAN_TUTORIAL_DATA"),
        ("", "cache", "There is no folder .*cache .*filled by `gan-tutorial data --fetch`"),
        ("", "download", "could not be downloaded"),
    ],
)
def test_a_source_that_is_not_there_is_an_error_when_asked_for(monkeypatch, named, source, message):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", named)
    with pytest.raises(DataError, match=message):
        load_mnist(source, download=OFFLINE)


def test_a_named_folder_without_the_files_is_no_reason_to_take_another_source(monkeypatch, tmp_path):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"no folder .*gone .*named by GAN_TUTORIAL_DATA"):
        load_mnist("auto", download=never)
    (tmp_path / "gone").mkdir()
    with pytest.raises(DataError, match=r"gone/train-images-idx3-ubyte\.gz cannot be read \(No such file"):
        load_mnist("auto", download=never)


def test_the_sample_stands_in_when_no_download_works(capsys):
    train, _ = load_mnist("auto", download=OFFLINE)
    assert train.name == "MNIST sample"
    advice = "run `gan-tutorial data --fetch` when online, or set GAN_TUTORIAL_DATA"
    assert capsys.readouterr().out == SAMPLED.format(f", because no download worked. For all of MNIST: {advice}")


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o755])
def test_a_folder_or_file_that_may_not_be_read_is_an_error_that_names_it(monkeypatch, others_folder, mode):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(others_folder))
    chmod_as_owner(others_folder, mode)
    for use in (load_mnist, resolve_source, partial(csv_file, "train")):
        for source in ("auto", "folder", str(others_folder)):
            with pytest.raises(DataError, match=rf"{others_folder}\S* cannot be read \(Permission denied\)"):
                use(source, download=never)
    with pytest.raises(DataError, match=r"digits\.csv cannot be read \(Permission denied\)"):
        MnistDataset(others_folder / "digits.csv")
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(others_folder / "mnist"))
    with pytest.raises(DataError, match=r"There is no folder \S*mnist that can be read"):
        load_mnist("auto", download=never)


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o755])
def test_a_cache_that_may_not_be_read_is_passed_over_only_by_auto(monkeypatch, others_folder, mode):
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(others_folder))
    chmod_as_owner(others_folder, mode)
    assert resolve_source("auto", download=OFFLINE) == "sample"
    with pytest.raises(DataError, match=rf"{others_folder}\S* cannot be read \(Permission denied\)"):
        load_mnist("cache")


def test_a_complete_cache_that_cannot_be_written_is_used(monkeypatch, others_folder):
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(others_folder))
    chmod_as_owner(others_folder, 0o755, 0o644)
    checksums = dict.fromkeys(OFFICIAL, hashlib.sha256(b"secret").hexdigest())
    assert list(fetch([], checksums).values()) == [b"secret"] * 4


def chmod_as_owner(folder, mode, of_files=0):
    """Change what others may do with a folder that is not ours for the moment."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    for file in folder.iterdir():
        file.chmod(of_files)
    folder.chmod(mode)
    os.seteuid(user)


def test_offline_means_the_sample_within_seconds():
    with serving({}) as (address, _):
        start = time.monotonic()
        mirrors = [f"{address}silent/a/", f"{address}silent/b/"]
        assert resolve_source("auto", download=partial(fetch, mirrors=mirrors, timeout=(0.5, 0.5))) == "sample"
        assert resolve_source("auto", download=OFFLINE) == "sample"
    assert time.monotonic() - start < 6


# ---- the CSV form ----------------------------------------------------------------------------------------------------


def test_the_csv_form_of_the_sample_is_the_sample_and_is_written_once_or_when_changed(sample):
    for part, dataset in zip(("train", "test"), sample, strict=True):
        path = csv_file(part, "sample")
        assert path.name == f"mnist_{part}.csv"
        assert MnistDataset(path).sha256 == dataset.sha256
    time, content = path.stat().st_mtime_ns, path.read_bytes()
    assert csv_file("test", "sample").stat().st_mtime_ns == time
    path.write_bytes(content[:-2] + b"9\n")
    assert csv_file("test", "sample").read_bytes() == content


def test_a_csv_form_needs_a_part_and_a_cache_that_can_be_written(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="Choose one of train, test"):
        csv_file("validation", "sample")
    (tmp_path / "file").write_text("not a folder")  # not even an administrator makes a folder below it
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot be written .* GAN_TUTORIAL_CACHE"):
        csv_file("test", "sample")


# ---- the official files ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def official(official_folder):
    """The official data, read from the IDX files: (training data, test data)."""
    return tuple(MnistDataset(official_folder / images) for images, _ in IDX_NAMES.values())


@pytest.fixture(scope="session")
def mixed_folder(official, official_folder, tmp_path_factory):
    """A folder with the IDX files of the training data, and the test data as CSV."""
    folder = tmp_path_factory.mktemp("mixed")
    for name in IDX_NAMES["train"]:
        shutil.copyfile(official_folder / name, folder / name)
    write_csv(official[1], folder / "mnist_test.csv")
    return folder


def loaded(capsys, source, **options):
    """Load both parts and return their checksums, and the line that was printed."""
    datasets = load_mnist(source, **options)
    assert [dataset.name for dataset in datasets] == [MNIST, MNIST]
    return [dataset.sha256 for dataset in datasets], capsys.readouterr().out


def test_the_official_files_have_the_published_counts(official):
    assert torch.bincount(official[0].labels).tolist() == TRAIN_COUNTS
    assert torch.bincount(official[1].labels).tolist() == TEST_COUNTS


def test_the_csv_form_is_the_download_of_the_original_post_and_is_written_again_when_changed(official_folder):
    for part, size in {"train": 109_575_994, "test": 18_289_443}.items():
        path = csv_file(part, str(official_folder))
        assert path.stat().st_size == size
        assert hashlib.sha256(path.read_bytes()).hexdigest() == OFFICIAL[path.name]
    path.write_bytes(b"changed")
    assert csv_file("test", str(official_folder)).stat().st_size == size


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_may_mix_idx_and_csv_files_and_is_not_written_to(
    capsys, monkeypatch, official, mixed_folder, tmp_path, packed
):
    folder = mixed_folder
    if packed:
        folder = shutil.copytree(mixed_folder, tmp_path / "packed")
        content = (folder / "mnist_test.csv").read_bytes()
        (folder / "mnist_test.csv").unlink()
        (folder / "mnist_test.csv.gz").write_bytes(gzip.compress(content, compresslevel=1))
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(folder))
    before = sorted(folder.iterdir())
    sums, notice = loaded(capsys, "auto", download=never)
    assert (sums, notice) == ([d.sha256 for d in official], ALL.format("the folder named by GAN_TUTORIAL_DATA"))
    assert (sorted(folder.iterdir()), cache_folder().exists()) == (before, False)


def test_the_cache_comes_second_and_a_download_third(capsys, official, official_folder):
    files = {name: (official_folder / name).read_bytes() for names in IDX_NAMES.values() for name in names}
    expected = [dataset.sha256 for dataset in official]
    with serving(files) as (address, served):
        download = partial(fetch, mirrors=[f"{address}good/"])
        assert loaded(capsys, "auto", download=download)[0] == expected
        assert loaded(capsys, "download", download=download)[1] == ALL.format("a download")
    assert served == {f"good/{name}": 1 for name in files}
    assert loaded(capsys, "auto", download=OFFLINE) == (expected, ALL.format("the cache of downloads"))
    assert loaded(capsys, str(official_folder))[1] == ALL.format("the folder asked for")


def test_a_changed_copy_in_the_cache_is_never_trained_on(official, official_folder):
    shutil.copytree(official_folder, cache_folder(), copy_function=shutil.copyfile)
    labels = cache_folder() / IDX_NAMES["train"][1]
    content = bytearray(gzip.decompress(labels.read_bytes()))
    content[8] = (content[8] + 1) % 10
    labels.write_bytes(changed := gzip.compress(bytes(content)))
    found = hashlib.sha256(changed).hexdigest()
    for source in ("cache", str(cache_folder())):
        with pytest.raises(DataError, match=rf"{labels} is not the official .* SHA-256 is {found}, expected 3552534a"):
            load_mnist(source)
    assert labels.read_bytes() == changed
    assert resolve_source("auto", download=OFFLINE) == "sample"
    right = (official_folder / labels.name).read_bytes()
    with serving({labels.name: right}) as (address, served):
        download = partial(fetch, mirrors=[f"{address}good/"])
        assert load_mnist("auto", download=download)[0].sha256 == official[0].sha256
    assert (served, labels.read_bytes() == right) == ({f"good/{labels.name}": 1}, True)


def test_what_an_older_version_parsed_into_the_cache_is_not_read(official, official_folder):
    files = [official_folder / name for name in IDX_NAMES["test"]]
    name = "-".join(hashlib.sha256(file.read_bytes()).hexdigest()[:32] for file in files)
    (cache_folder() / "parsed" / name).mkdir(parents=True)
    np.save(cache_folder() / "parsed" / name / "labels.npy", np.roll(official[1].labels.numpy().astype(np.uint8), 1))
    np.save(cache_folder() / "parsed" / name / "images.npy", official[1].images.numpy())
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


def test_no_file_is_read_twice(official_folder, mixed_folder):
    shutil.copytree(official_folder, cache_folder(), copy_function=shutil.copyfile)
    sources = [str(official_folder), str(mixed_folder), "sample", "auto", "damaged"]
    offline = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", OPENED, *sources], env=offline, capture_output=True, text=True)
    idx, sample = [name for pair in IDX_NAMES.values() for name in pair], ["mnist_5k.csv.gz"]
    mixed = [*IDX_NAMES["train"], "mnist_test.csv"]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert found == [dict.fromkeys(names, 1) for names in (idx, mixed, sample, idx, idx + sample)], done.stderr
