"""Networks, teachers, statistics, selection and squeeze."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import nn

from prism_nb.core.errors import UsageError
from prism_nb.core.recipe import check_pool, load_recipe
from prism_nb.core.settings import Squeeze
from prism_nb.data.small import Digits
from prism_nb.models.metrics import accuracy
from prism_nb.models.teacher import PreprocessConfig, Teacher, check_bn
from prism_nb.models.train import train_network
from prism_nb.models.zoo import build_network, check_forward, count_flops, network_info, source_of
from prism_nb.synthesis.teacher_sampling import TeacherSchedule, sample_schedule
from tests.helpers.teachers import ARCHITECTURES, MEAN, STD, bn_inputs, teacher_of

GREY = PreprocessConfig(MEAN, STD, 32)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_statistics_are_the_mean_and_biased_variance_of_every_bn_input(name: str) -> None:
    teacher = teacher_of(name, double=True)
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    _, observed = teacher.forward_with_stats(images)
    inputs = bn_inputs(teacher.network, images)
    assert len(observed) == len(inputs) > 10
    for statistics, values in zip(observed, inputs, strict=True):
        for channel in range(0, values.shape[1], 7):
            flat = values[:, channel].flatten().tolist()
            mean = math.fsum(flat) / len(flat)
            var = math.fsum((v - mean) ** 2 for v in flat) / len(flat)
            assert statistics.mean[channel].item() == pytest.approx(mean, rel=1e-9, abs=1e-12)
            assert statistics.var[channel].item() == pytest.approx(var, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_running_statistics_stay_bit_identical(name: str) -> None:
    teacher = teacher_of(name)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    teacher.train()
    logits, observed = teacher.forward_with_stats(images)
    (logits.sum() + observed[-1].var.sum()).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_logits_and_statistics_come_from_one_pass() -> None:
    teacher = teacher_of("test_resnet")
    passes: list[int] = []
    teacher.network.register_forward_hook(lambda *_: passes.append(1))
    images = torch.randn(4, 3, 32, 32)
    logits, _ = teacher.forward_with_stats(images)
    assert len(passes) == 1
    assert torch.equal(logits, teacher(images))


def test_no_hook_stays_behind() -> None:
    teacher = teacher_of("test_resnet")
    teacher.forward_with_stats(torch.randn(2, 3, 32, 32))
    teacher.features_and_logits(torch.randn(2, 3, 32, 32))
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_the_same_pixel_space_is_the_identity() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert teacher_of("test_resnet").preprocess(images) is images


def test_another_pixel_space_is_converted_from_the_canonical_one() -> None:
    own = PreprocessConfig((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 32)
    network = build_network("test_resnet", classes=10, image_size=32)
    teacher = Teacher("test_resnet", network, native=own, dataset=GREY)
    pixels = torch.rand(2, 3, 32, 32)
    adapted = teacher.preprocess((pixels - 0.5) / 0.25)
    for channel in range(3):
        expected = (pixels[:, channel] - own.mean[channel]) / own.std[channel]
        assert torch.allclose(adapted[:, channel], expected, atol=1e-5)


def test_another_size_is_resized() -> None:
    own = PreprocessConfig(GREY.mean, GREY.std, 48)
    network = build_network("test_resnet", classes=10, image_size=48)
    teacher = Teacher("test_resnet", network, native=own, dataset=GREY)
    assert teacher.preprocess(torch.randn(2, 3, 32, 32)).shape == (2, 3, 48, 48)


@pytest.mark.parametrize("name", ["test_resnet", "resnet18", "test_mambaout"])
def test_the_head_turns_features_into_logits(name: str) -> None:
    teacher = teacher_of(name)
    images = torch.randn(3, 3, 32, 32)
    head = [m for m in teacher.network.modules() if isinstance(m, nn.Linear)][-1]
    assert torch.allclose(head(teacher.features_and_logits(images)[0]), teacher(images), atol=1e-5)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "alexnet"])
def test_a_network_without_bn_is_refused_as_bn_teacher(name: str) -> None:
    size = 64 if name == "alexnet" else 32
    network = build_network(name, classes=10, image_size=size)
    with pytest.raises(UsageError, match=f"{name}.*no BN layers"):
        check_bn(name, network)


def test_bn_without_running_statistics_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(UsageError, match="running statistics"):
        check_bn("mine", network)


def test_an_unknown_network_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown network 'resnet81'.*resnet18"):
        build_network("resnet81", classes=10, image_size=32)


def test_a_network_that_cannot_take_the_size_is_refused() -> None:
    network = build_network("alexnet", classes=10, image_size=32)
    with pytest.raises(UsageError, match="alexnet.*cannot take 32-pixel"):
        check_forward("alexnet", network, classes=10, image_size=32)


def test_a_network_that_gives_no_plain_logits_is_refused() -> None:
    network = build_network("test_resnet", classes=10, image_size=32)
    with pytest.raises(UsageError, match="does not give one row of 9 logits"):
        check_forward("test_resnet", network, classes=9, image_size=32)


def test_trying_a_network_out_leaves_it_and_the_global_generator_as_they_were() -> None:
    network = build_network("test_byobnet", classes=10, image_size=32)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    check_forward("test_byobnet", network, classes=10, image_size=32)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_sources() -> None:
    assert source_of("resnet18") == "torchvision"
    assert source_of("timm/resnet18") == "timm"
    assert source_of("test_resnet") == "timm"
    with pytest.raises(UsageError, match="hub"):
        source_of("hub/resnet18")


def test_an_imagenet_stem_shrinks_for_small_images_only() -> None:
    small = build_network("resnet18", classes=10, image_size=32)
    large = build_network("resnet18", classes=10, image_size=96)
    assert small.conv1.kernel_size == (3, 3)
    assert isinstance(small.maxpool, nn.Identity)
    assert large.conv1.kernel_size == (7, 7)


@pytest.mark.parametrize(
    ("name", "conv", "last"),
    [
        ("densenet121", "features.conv0", 4),
        ("shufflenet_v2_x0_5", "conv1.0", 4),
        ("mobilenet_v2", "features.0.0", 2),
        ("mobilenet_v3_small", "features.0.0", 2),
        ("efficientnet_b0", "features.0.0", 2),
        ("mnasnet0_5", "layers.0", 2),
        ("regnet_y_400mf", "stem.0", 2),
    ],
)
def test_stems_of_other_families_keep_all_pixels_of_small_images(
    name: str, conv: str, last: int
) -> None:
    small = build_network(name, classes=10, image_size=32).eval()
    sides: list[int] = []
    for layer in small.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    small(torch.randn(1, 3, 32, 32))
    assert (sides[0], sides[-1]) == (32, last)
    assert small.get_submodule(conv).kernel_size == (3, 3)
    large = build_network(name, classes=10, image_size=96)
    assert large.get_submodule(conv).stride == (2, 2)


@pytest.mark.parametrize("name", ["test_resnet", "timm/densenet121", "timm/mobilenetv2_100"])
def test_timms_stems_of_other_shapes_stay(name: str) -> None:
    small, large = (build_network(name, classes=10, image_size=size) for size in (32, 96))
    first, same = (next(m for m in n.modules() if isinstance(m, nn.Conv2d)) for n in (small, large))
    assert (first.kernel_size, first.stride) == (same.kernel_size, same.stride)
    assert first.stride == (2, 2)


def test_published_bn_counts() -> None:
    expected = {
        "resnet18": (20, 4800),
        "mobilenet_v2": (52, 17056),
        "efficientnet_b0": (49, 21008),
        "shufflenet_v2_x0_5": (56, 3976),
    }
    for name, counts in expected.items():
        network = build_network(name, classes=10, image_size=64)
        facts = network_info(name, network, image_size=64)
        assert (facts.bn_layers, facts.bn_channels) == counts


def test_flops_of_one_convolution_count_two_per_multiply_add() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False))
    assert count_flops(network, image_size=16) == 2 * 16 * 16 * 8 * 3 * 9


POOL = ("a", "b", "c", "d", "e")


def draws(*, seed: int = 0, **changes: object) -> TeacherSchedule:
    values = {"iterations": 8000, "resample_every": 1, "selection": "intra", **changes}
    recipe = load_recipe("prism", values)
    return sample_schedule(recipe, "a", POOL, torch.Generator().manual_seed(seed))


def test_draws_have_the_published_number_of_extras() -> None:
    bn_teachers = draws().bn_teachers
    extras = Counter(len(group) - 1 for group in bn_teachers)
    assert all(group[0] == "a" for group in bn_teachers)
    for number, share in {0: 0.125, 1: 0.375, 2: 0.375, 3: 0.125}.items():
        # Five standard deviations of a binomial: wrong once in a million seeds.
        assert abs(extras[number] / 8000 - share) < 5 * math.sqrt(share * (1 - share) / 8000)


def test_the_published_program_draws_once_for_a_unit_with_the_published_shares() -> None:
    recipe, generator = load_recipe("prism_reference"), torch.Generator().manual_seed(0)
    extras: Counter[int] = Counter()
    for _ in range(4000):
        drawn = sample_schedule(recipe, "a", POOL, generator)
        assert len(drawn.bn_teachers) == 1
        assert drawn.bn_teachers_at(0) is drawn.at(3999)
        assert drawn.bn_teachers_at(0)[0] == "a"
        extras[len(drawn.bn_teachers_at(0)) - 1] += 1
    assert set(extras) == {0, 1, 2, 3}
    for number, share in {0: 0.125, 1: 0.375, 2: 0.375, 3: 0.125}.items():
        assert abs(extras[number] / 4000 - share) < 5 * math.sqrt(share * (1 - share) / 4000)


def test_every_candidate_is_drawn_equally_often() -> None:
    often = Counter(name for bn_teachers in draws().bn_teachers for name in bn_teachers[1:])
    for name in POOL[1:]:
        # 1.5 extras on average over four candidates: 37.5 % each.
        assert abs(often[name] / 8000 - 0.375) < 5 * math.sqrt(0.375 * 0.625 / 8000)


def test_every_subset_of_an_exact_size_is_drawn_equally_often() -> None:
    bn_teachers = draws(bn_subset_size=2, primary_in_bn="candidate").bn_teachers
    often = Counter(frozenset(group) for group in bn_teachers)
    assert len(often) == 10
    for count in often.values():
        assert abs(count / 8000 - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 8000)


@given(
    image_indices=strategies.integers(0, 6),
    probability=strategies.floats(0.05, 1),
    primary_in_bn=strategies.sampled_from(["always", "candidate", "never"]),
    seed=strategies.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_teams_are_sets_of_the_pool(
    image_indices: int, probability: float, primary_in_bn: str, seed: int
) -> None:
    if primary_in_bn != "always" and not image_indices:
        return
    drawn = draws(
        seed=seed,
        iterations=5,
        num_bn_slots=image_indices,
        bn_slot_prob=probability,
        primary_in_bn=primary_in_bn,
    )
    assert len(drawn.bn_teachers) == 5
    for bn_teachers in drawn.bn_teachers:
        assert len(set(bn_teachers)) == len(bn_teachers) >= 1
        assert set(bn_teachers) <= set(POOL)
        assert len(bn_teachers) - (primary_in_bn == "always") <= image_indices
        if primary_in_bn != "candidate":
            assert ("a" in bn_teachers) == (primary_in_bn == "always")


def test_pre_draws_once_and_intra_again_and_again() -> None:
    once = draws(selection="pre")
    again = draws(iterations=1050, resample_every=100)
    assert len(once.bn_teachers) == 1
    assert {once.at(step) for step in (0, 1, 7999)} == {once.bn_teachers[0]}
    assert len(again.bn_teachers) == 11
    assert again.at(99) == again.bn_teachers[0]
    assert again.at(100) == again.bn_teachers[1]
    assert again.at(1049) == again.bn_teachers[10]


def test_the_other_strategies() -> None:
    assert draws(selection="all").bn_teachers == (POOL,)
    assert draws(selection="all", primary_in_bn="never").bn_teachers == (POOL[1:],)
    assert draws(selection="fixed", bn_fixed=["c"]).bn_teachers == (("a", "c"),)
    assert draws(selection="fixed", bn_fixed=["c"], primary_in_bn="never").bn_teachers == (("c",),)
    turns = draws(selection="round_robin", primary_in_bn="candidate")
    assert [turns.at(step) for step in range(6)] == [(name,) for name in (*POOL, "a")]


def test_logits_come_from_the_primary_from_all_in_turn_or_from_the_drawn() -> None:
    primary = draws(iterations=3)
    assert [primary.logit_teachers_at(step) for step in (0, 1, 2)] == [("a",)] * 3
    turns = draws(selection="all", logits="round_robin")
    assert [turns.logit_teachers_at(step) for step in range(6)] == [
        (name,) for name in (*POOL, "a")
    ]
    assert {turns.at(step) for step in range(6)} == {POOL}
    coupled = draws(logits="bn_teachers", bn_subset_size=2, primary_in_bn="candidate")
    assert len({coupled.at(step) for step in range(50)}) > 5
    assert all(coupled.logit_teachers_at(step) == coupled.at(step) for step in range(50))


def test_networks_that_take_part_are_those_of_the_logits_and_of_the_teams() -> None:
    fixed = draws(selection="fixed", bn_fixed=["c"], primary_in_bn="never")
    assert (fixed.bn_networks, fixed.networks) == (("c",), ("a", "c"))
    coupled = draws(selection="fixed", bn_fixed=["c"], primary_in_bn="never", logits="bn_teachers")
    assert coupled.networks == coupled.bn_networks == ("c",)
    turns = draws(selection="fixed", bn_fixed=["c"], primary_in_bn="never", logits="round_robin")
    assert turns.networks == POOL


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bn_subset_size": 5}, "bn_subset_size is 5, but the pool holds only 4"),
        ({"selection": "fixed", "bn_fixed": ["x"]}, "bn_fixed names 'x'"),
        ({"bn_weights": {"bb": 2.0}}, "bn_weights names 'bb'"),
        ({"primary_in_bn": "never", "num_bn_slots": 0}, "no BN teacher"),
        ({"primary_in_bn": "candidate", "bn_slot_prob": 0.0}, "no BN teacher"),
        ({"selection": "fixed", "primary_in_bn": "never"}, "no BN teacher"),
    ],
)
def test_a_recipe_that_the_pool_cannot_serve_is_refused(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        check_pool("mine", load_recipe("prism", changes), "a", POOL)


PLAN = Squeeze.model_validate({"epochs": 4, "batch": 64, "max_shift": 2})


def test_training_learns_repeats_and_leaves_the_global_generator_alone() -> None:
    digits, device = Digits(32), torch.device("cpu")
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    steps: list[int] = []
    first = train_network(
        "test_byobnet", digits, PLAN, device, lambda e: steps.append(e["step"]), seed=5
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert steps[-1] == 4 * (1257 // 64)
    assert accuracy(first, digits, "val", device) > 0.5
    second = train_network("test_byobnet", digits, PLAN, device, lambda e: None, seed=5)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
