"""Published label files: what torch.save made of FKD's list is read; nothing is ever executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prism_nb.errors import PrismError
from prism_nb.exchange.published_labels import read_published_batch

N, CLASSES = 6, 10


def batch(**changes: Any) -> list[Any]:
    """Return a batch as SRe2L's relabel program saves it."""
    generator = torch.Generator().manual_seed(0)
    values = {
        "crops": torch.rand(N, 4, generator=generator),
        "flips": torch.tensor([True, False, False, True, True, False]),
        "index": torch.randperm(N, generator=generator),
        "lam": 1 - np.float64(0.25),
        "box": [np.int64(3), np.int64(0), np.int64(32), np.int64(17)],
        "logits": torch.randn(N, CLASSES, generator=generator).half(),
        **changes,
    }
    return list(values.values())


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(PrismError) as caught:
        read_published_batch(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_batch_is_read_field_by_field(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "batch_0.tar", batch(), _use_new_zipfile_serialization=zipped)
    found = read_published_batch(path)
    crops, flips, index, lam, _, logits = batch()
    assert torch.equal(found.crops, crops)
    assert torch.equal(found.flips, flips)
    assert found.mix_index is not None
    assert torch.equal(found.mix_index, index)
    assert found.mix_lam == lam == 0.75
    assert type(found.mix_lam) is float
    assert found.mix_box == (3, 0, 32, 17)
    assert all(type(edge) is int for edge in found.mix_box)
    assert torch.equal(found.logits, logits)
    assert found.logits.dtype == torch.float16


def test_a_batch_without_mixing_has_none(tmp_path: Path) -> None:
    found = read_published_batch(saved(tmp_path / "b.tar", batch(index=None, lam=None, box=None)))
    assert (found.mix_index, found.mix_lam, found.mix_box) == (None, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"lam": 0.75, "box": [3, 0, 32, 17]},
        {"lam": np.float32(0.75), "box": tuple(np.int32(v) for v in (3, 0, 32, 17))},
        {"lam": torch.tensor(0.75), "box": list(torch.tensor([3, 0, 32, 17], dtype=torch.uint8))},
        {"crops": batch()[0].double(), "flips": batch()[1].to(torch.uint8)},
        {"index": batch()[2].to(torch.uint8)},
    ],
)
def test_other_kinds_of_numbers_mean_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    plain = read_published_batch(saved(tmp_path / "a.tar", batch()))
    other = read_published_batch(saved(tmp_path / "b.tar", batch(**changes)))
    for name, value in vars(plain).items():
        found = getattr(other, name)
        same = torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
        assert same, name


def test_scalars_under_the_name_that_numpy_1_gave_them_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "new.tar", batch())
    old = tmp_path / "old.tar"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            target.writestr(info, content)
    assert read_published_batch(old).mix_box == (3, 0, 32, 17)


class Evil:
    """Something that leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_the_trap_works_where_pickles_are_executed(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("field", ["crops", "flips", "index", "lam", "box", "logits"])
def test_a_malicious_file_executes_nothing(tmp_path: Path, field: str, zipped: bool) -> None:
    mark = tmp_path / "mark"
    value = batch(**{field: Evil(mark)})
    path = saved(tmp_path / "b.tar", value, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    assert "nothing of them was executed" in message
    assert "system" in message
    assert not mark.exists()


def test_a_bare_pickle_executes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    assert "nothing of them was executed" in refused(path)
    assert not (tmp_path / "mark").exists()


def test_no_more_than_scalars_of_numpy_are_let_in(tmp_path: Path) -> None:
    for value in (np.arange(3), np.array([object()]), np.str_("text")):
        assert "nothing of them was executed" in refused(
            saved(tmp_path / "b.tar", batch(lam=value))
        )


def test_what_was_let_in_is_let_in_nowhere_else(tmp_path: Path) -> None:
    path = saved(tmp_path / "b.tar", batch())
    read_published_batch(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, zipped: bool) -> None:
    whole = saved(tmp_path / "a.tar", batch(), _use_new_zipfile_serialization=zipped).read_bytes()
    path = tmp_path / "b.tar"
    for end in [0, 1, 7, *range(40, len(whole) - 1, 97), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refused(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("words", "a list of 6 entries is needed"),
        (batch()[:4], "holds 4 entries"),
        ([*batch(), torch.arange(3)], "holds 7 entries"),
        (batch(crops=torch.rand(N, 3)), "crops must be 6 x 4, and is [6, 3]"),
        (batch(crops=torch.full((N, 4), 2.0)), "crops must lie in 0..1"),
        (batch(crops=torch.full((N, 4), float("nan"))), "crops must lie in 0..1"),
        (batch(flips=torch.ones(N - 1)), "flips must be 6, and is [5]"),
        (batch(flips=[True] * N), "flips must be a tensor, and is list"),
        (batch(index=torch.full((N,), N)), "mix index must lie in 0..5"),
        (batch(index=torch.full((N,), -1)), "mix index must lie in 0..5"),
        (batch(index=torch.rand(N)), "mix index must be whole numbers"),
        (batch(lam=1.5), "mix share must lie in 0..1, and is 1.5"),
        (batch(lam=float("nan")), "mix share must lie in 0..1"),
        (batch(lam="half"), "mix share must be a number, and is str"),
        (batch(box=[1, 2, 3]), "mix box must be 4 numbers"),
        (batch(box=[1, 2, 3, -4]), "whole numbers of pixels"),
        (batch(box=[1, 2, 3, 4.5]), "whole numbers of pixels"),
        (batch(logits=torch.randn(2, N, CLASSES)), "logits must be any x any"),
        (batch(logits=torch.randn(0, CLASSES)), "logits must be any x any"),
        (batch(logits=torch.full((N, CLASSES), float("nan"))), "logits must be finite"),
        (batch(logits=torch.ones(N, CLASSES, dtype=torch.int64)), "logits must be finite"),
        (batch(logits=torch.ones(1).expand(N, 10**12)), "claims to be larger than the file"),
        (batch(logits=torch.eye(N).to_sparse()), "logits must be a tensor"),
    ],
)
def test_what_is_no_such_batch_is_refused_by_field(
    tmp_path: Path, value: Any, message: str
) -> None:
    assert message in refused(saved(tmp_path / "b.tar", value))


def test_a_packed_file_is_refused_unread(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tar", batch(logits=torch.zeros(N, 100_000)))
    packed = tmp_path / "b.tar"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info), zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size * 100 < path.stat().st_size
    assert "its parts are packed" in refused(packed)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "b.tar")


def test_damaged_bytes_are_never_more_than_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.tar", batch()).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "b.tar"
    for _ in range(60):
        content = io.BytesIO(whole)
        content.seek(int(random.integers(len(whole))))
        content.write(random.bytes(4))
        path.write_bytes(content.getvalue())
        try:
            found = read_published_batch(path)
        except PrismError:
            continue
        assert found.logits.shape == (N, CLASSES)
