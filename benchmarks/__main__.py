"""Every benchmark of the synthesis, with `python -m benchmarks` (`make bench`).

Networks have random weights; a step costs the same. Each loop runs in a process of its own, in
turn with the others; seconds are medians.

`published`: a loop that works as the published program does (benchmarks/loops.py).
`bare`: one that can do nothing but PRISM's plain step, without the kit's switches.
`kit`: the kit's own `recover`, eager or compiled, by precision and micro-batch.

`python -m benchmarks roofline student` runs some of the benchmarks only.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from benchmarks.common import Case, measure, write
from benchmarks.compiled_vs_eager import agreement_rows
from benchmarks.forecast_error import forecast_rows
from benchmarks.images import image_rows
from benchmarks.labels import label_rows
from benchmarks.memory import memory_rows
from benchmarks.roofline import roofline
from benchmarks.student import student_rows
from benchmarks.workers import worker_rows

DIGITS = ("test_resnet", "test_efficientnet", "test_byobnet")
DRAWN = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "alexnet")
POOL = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet")
LARGE = Case("kit", DRAWN, size=224, count=16, steps=7)
SMALL = Case("kit", DIGITS, size=32, count=50, steps=42)


def main() -> None:
    """Run the benchmarks named on the command line, or all; print and save the results."""
    names = sys.argv[1:] or list(_BENCHMARKS)
    for name in names:
        print(f"\n{name}")
        write(name, _BENCHMARKS[name]())


def _engines() -> list[dict[str, Any]]:
    rows = []
    for title, case in (("224 px, a draw of 4", LARGE), ("digits, 3 networks", SMALL)):
        cases = {
            "published": replace(case, loop="published"),
            "bare": replace(case, loop="bare"),
            "kit eager": case,
            "kit eager bf16": replace(case, precision="bf16"),
            "kit compiled": replace(case, compiled=True),
            "kit compiled bf16": replace(case, compiled=True, precision="bf16"),
        }
        if case is SMALL:
            cases["kit micro-batches of 10"] = replace(case, micro_batch_size=10)
        rows += _rows(title, cases, rounds=2)
    return rows


def _pool() -> list[dict[str, Any]]:
    case = replace(LARGE, networks=POOL)
    cases = {"published": replace(case, loop="published"), "kit eager": case}
    return _rows("224 px, the published pool of 5", cases, rounds=2)


def _scaling() -> list[dict[str, Any]]:
    kinds = {
        "batch size": [replace(LARGE, count=count) for count in (4, 8, 16, 32)],
        "networks drawn": [replace(LARGE, networks=DRAWN[:count]) for count in (1, 2, 3)],
        "image size": [replace(LARGE, size=size) for size in (96, 160, 224)],
    }
    rows = []
    for title, cases in kinds.items():
        named = {f"{c.count} images, {len(c.networks)} networks, {c.size} px": c for c in cases}
        rows += _rows(title, named, rounds=1, compare=False)
    return rows


def _roofline() -> list[dict[str, Any]]:
    found = roofline(LARGE)
    measured = measure({"kit eager": LARGE}, rounds=1)["kit eager"]["seconds"]
    row = {"case": "224 px, a draw of 4", **found, "kit_eager_seconds": measured}
    print(
        f"floor {found['seconds']:.2f} s ({found['flops'] / 1e9:.0f} GFLOP at "
        f"{found['flops_per_second'] / 1e9:.0f} GFLOP/s, {found['bytes'] / 1e9:.1f} GB at "
        f"{found['bytes_per_second'] / 1e9:.0f} GB/s); kit eager {measured:.2f} s, "
        f"{measured / found['seconds']:.1f} times the floor"
    )
    return [row]


def _rows(
    title: str, cases: dict[str, Case], *, rounds: int, compare: bool = True
) -> list[dict[str, Any]]:
    found = measure(cases, rounds=rounds)
    reference = next(iter(found.values()))
    rows = []
    for name, values in found.items():
        ratio = reference["seconds"] / values["seconds"]
        print(
            f"{title:<26}{name:<36}{values['seconds']:8.3f} s/step {values['images']:8.1f} images/s"
            f" {values['first']:8.1f} s first {values['memory'] / 1e9:6.2f} GB"
            + (f" {ratio:6.2f} x" if compare else ""),
            flush=True,
        )
        row = {"case": title, "loop": name, **values}
        rows.append({**row, "speed": ratio} if compare else row)
    return rows


_BENCHMARKS = {
    "synthesis_step": _engines,
    "published_pool": _pool,
    "scaling": _scaling,
    "roofline": _roofline,
    "student": student_rows,
    "labels": label_rows,
    "forecast_error": forecast_rows,
    "compiled_vs_eager": agreement_rows,
    "images": image_rows,
    "memory": memory_rows,
    "workers": worker_rows,
}

if __name__ == "__main__":
    main()
