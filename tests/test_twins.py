"""The classes that notebooks 02 and 03 write out behave as the module's that later notebooks import."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch

from gan_tutorial.data import MnistDataset, write_csv
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def twin(notebook, name):
    """Return the class ``name`` that stands in the notebook's cell tagged ``twin``."""
    cells = [c for c in nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells if c.cell_type == "code"]
    imports = [
        c.source for c in cells if all(isinstance(s, ast.Import | ast.ImportFrom) for s in ast.parse(c.source).body)
    ]
    namespace = {}
    for source in imports + [c.source for c in cells if "twin" in c.metadata.get("tags", [])]:
        exec(source, namespace)
    return namespace[name]


@pytest.fixture
def csv(tmp_path, sample):
    file = tmp_path / "mnist.csv"
    write_csv(sample[1], file)
    return file


def test_the_written_out_network_has_equal_losses(sample, capsys):
    progress = []
    for network_class in (twin("03_baseline_ann", "ANN"), ANN):
        set_seed(4)
        network = network_class()
        for _, image, target in (sample[0][i] for i in range(2_000)):
            network.train_step(image, target)
        progress.append(network.progress)
    assert progress[0] == progress[1]
    assert len(progress[0]) == 200


def test_the_written_out_data_set_has_the_same_items(csv):
    ours, theirs = MnistDataset(csv), twin("02_mnist_dataset", "MnistDataset")(csv)
    assert len(ours) == len(theirs) == 1_000
    for i in (0, 1, 500, 999):
        for a, b in zip(ours[i], theirs[i], strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_the_written_out_data_set_is_passed_over_in_file_order(csv):
    theirs = twin("02_mnist_dataset", "MnistDataset")(csv)
    assert [int(label) for label, _, _ in theirs] == MnistDataset(csv).labels.tolist()


def test_the_written_out_data_set_draws_the_same_picture(csv):
    ours, theirs = MnistDataset(csv), twin("02_mnist_dataset", "MnistDataset")(csv)
    pictures = [d.plot_image(3).axes[0].images[0].get_array() for d in (ours, theirs)]
    assert (pictures[0] == pictures[1]).all()
