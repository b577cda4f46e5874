"""The catalogue: its data is what the libraries have, its filter does what it says."""

from dataclasses import replace

import pytest

from prism_nb.models.architectures import resolve_architecture
from prism_nb.models.catalog import SORTS, Entry, family_of, filtered, read_catalogue, suggest_pool
from prism_nb.models.weights import resolve_weights
from prism_nb.models.zoo import build_network, network_info

ENTRIES = read_catalogue()
BY_NAME = {entry.name: entry for entry in ENTRIES}


def test_every_entry_is_a_network_with_batch_norm_and_listed_once() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert all(
        resolve_architecture(name)[0] == entry.library
        for name, entry in zip(names, ENTRIES, strict=True)
    )
    assert all(entry.bn_layers and entry.bn_channels and entry.flops for entry in ENTRIES)
    assert not {"alexnet", "vit_b_16", "test_convnext"} & set(names)


# As published with the networks (torchvision's table of models, the papers).
@pytest.mark.parametrize(
    ("name", "bn_layers", "bn_channels", "parameters"),
    [
        ("resnet18", 20, 4_800, 11_689_512),
        ("mobilenet_v2", 52, 17_056, 3_504_872),
        ("efficientnet_b0", 49, 21_008, 5_288_548),
        ("shufflenet_v2_x0_5", 56, 3_976, 1_366_792),
        ("densenet121", 121, 41_824, 7_978_856),
        ("resnet50", 53, 26_560, 25_557_032),
    ],
)
def test_known_networks_have_their_known_numbers(
    name: str, bn_layers: int, bn_channels: int, parameters: int
) -> None:
    built = network_info(name, build_network(name, classes=1000, image_size=224), image_size=224)
    for found in (BY_NAME[name], built):
        numbers = (found.bn_layers, found.bn_channels, found.parameters)
        assert numbers == (bn_layers, bn_channels, parameters)


def test_weights_have_names_that_the_kit_takes() -> None:
    published, theirs = BY_NAME["resnet18"], BY_NAME["timm/resnet18"]
    assert published.accuracy == 69.758
    name = published.with_weights("IMAGENET1K_V1")
    assert name == "resnet18@IMAGENET1K_V1"
    assert resolve_weights(name).accuracy == pytest.approx(published.accuracy / 100)
    assert resolve_weights(theirs.with_weights(next(iter(theirs.weights)))).library == "timm"


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet18", "resnet"),
        ("wide_resnet50_2", "resnet"),
        ("timm/resnet18", "resnet"),
        ("resnetv2_50", "resnet"),
        ("resnet50.a1_in1k", "resnet"),
        ("resnet18@IMAGENET1K_V1", "resnet"),
        ("mobilenet_v2", "mobilenet"),
        ("mobilenetv2_100", "mobilenet"),
        ("mobilenetv3_small_050", "mobilenet"),
        ("shufflenet_v2_x0_5", "shufflenet"),
        ("vgg11_bn", "vgg"),
        ("densenet121", "densenet"),
        ("test_efficientnet", "efficientnet"),
    ],
)
def test_families_join_what_shares_its_making(name: str, family: str) -> None:
    assert family_of(name) == family


def test_every_condition_of_the_filter_must_hold() -> None:
    found = filtered(ENTRIES, words="RESNET 18", library="torchvision")
    assert [entry.name for entry in found] == ["resnet18"]
    cheap = filtered(ENTRIES, family="resnet", gflop=4)
    assert cheap
    assert all(entry.family == "resnet" and entry.flops <= 4e9 for entry in cheap)
    assert filtered(ENTRIES, words="no such network") == []
    assert filtered(ENTRIES) == list(ENTRIES)


@pytest.mark.parametrize("sort", SORTS)
def test_sorting_orders_and_loses_nothing(sort: str) -> None:
    found = filtered(ENTRIES, sort=sort)
    assert sorted(entry.name for entry in found) == sorted(entry.name for entry in ENTRIES)
    keys = [SORTS[sort](entry) for entry in found]
    assert keys == sorted(keys)
    if sort == "best accuracy":
        assert found[-1].accuracy is None


def test_a_suggested_pool_goes_by_family_accuracy_and_likeness() -> None:
    names = ("resnet18", "resnet50", "densenet121", "densenet161", "mobilenet_v2", "vgg11_bn")
    entries = [BY_NAME[name] for name in names]  # densenet161 is the most accurate, then
    assert suggest_pool(entries, "resnet18", 3) == ["resnet18", "densenet161", "mobilenet_v2"]

    def fitting(entry: Entry) -> str | None:
        return None if entry.name == "densenet161" else entry.names[0]

    first, second, third = suggest_pool(entries, "resnet18", 9, name_of=fitting)[1:]
    assert first == "densenet121@IMAGENET1K_V1"
    assert (second, third) == ("mobilenet_v2@IMAGENET1K_V2", "vgg11_bn@IMAGENET1K_V1")
    likeness = {
        frozenset(("resnet18", "mobilenet_v2")): 0.9,
        frozenset(("resnet18", "vgg11_bn")): 0.2,
        frozenset(("mobilenet_v2", "vgg11_bn")): 0.1,
    }
    by_likeness = ["resnet18", "vgg11_bn", "mobilenet_v2", "densenet161"]
    assert suggest_pool(entries, "resnet18", 9, likeness=likeness) == by_likeness
    with_weights = {frozenset(f"{n}@IMAGENET1K_V1" for n in p): v for p, v in likeness.items()}
    assert suggest_pool(entries, "resnet18", 9, likeness=with_weights) == by_likeness
    trained = replace(BY_NAME["densenet121"], library="this run")
    assert suggest_pool([*entries, trained], "resnet18", 2)[1] == "densenet121"
