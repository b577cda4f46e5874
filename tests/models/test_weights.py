"""Weights kept as plain tensors: whatever network they are of, it takes them back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prism_nb.core.presets import pool_names, read_pool
from prism_nb.data.registry import DatasetSizes, ShapeOnlyDataset
from prism_nb.models.checkpoint import TrainerState
from prism_nb.models.pretrained import open_pretrained
from prism_nb.models.teacher import dataset_preprocess
from prism_nb.models.weights import to_safetensors, weights_metadata
from prism_nb.models.zoo import architecture_of, build_network, check_forward, load_weights

CPU = torch.device("cpu")
SIZE = 64
NETWORKS = sorted(
    {architecture_of(network) for pool in pool_names() for network in read_pool(pool).networks}
)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_a_pool_is_tried_out_kept_and_taken(name: str, tmp_path: Path) -> None:
    few = ShapeOnlyDataset("few", DatasetSizes(3, 6, 6), SIZE)
    torch.manual_seed(0)
    network = build_network(name, classes=3, image_size=SIZE)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    check_forward(name, network, classes=3, image_size=SIZE)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    file = tmp_path / "w.safetensors"
    file.write_bytes(
        to_safetensors(network.state_dict(), weights_metadata(few, dataset_preprocess(few)))
    )
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        again = open_pretrained(f"{name}@{file}", few).network(images)
        assert torch.equal(again, network.eval()(images))


def test_a_training_goes_on_with_a_network_that_asks_for_its_version() -> None:
    one, other = (build_network("mnasnet0_5", classes=3, image_size=32) for _ in "ab")
    states = [
        TrainerState({"student": network}, torch.optim.SGD(network.parameters()), CPU)
        for network in (one, other)
    ]
    states[1].restore(states[0].tensors())
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_is_missing_or_strange_is_refused() -> None:
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(layer, {"weight": torch.zeros(2, 2)})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_weights(layer, {**layer.state_dict(), "more": torch.zeros(2)})
