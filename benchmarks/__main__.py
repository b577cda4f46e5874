"""Every benchmark of the synthesis step, with `python -m benchmarks` (`make bench`).

Networks have random weights; a step costs the same. Loops take turns, step by step; medians.
`generality`: the kit's loop beside a bare one that can do nothing but PRISM's plain step.
`published`: beside a loop that works as the published program does (benchmarks/loops.py).
`parts`: the whole batch beside the same gradient from parts of it (micro_batch).
"""

from __future__ import annotations

from benchmarks.common import measure, write
from benchmarks.loops import bare, published

DIGITS = ("test_resnet", "test_efficientnet", "test_byobnet")
IMAGENET = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet")


def main() -> None:
    """Measure, print and keep everything."""
    small = {"size": 32, "count": 50, "steps": 42}
    large = {"size": 224, "count": 16, "steps": 7}
    rows = [
        _row("generality", "digits, 3 networks", measure(DIGITS, {"bare": bare}, **small), "bare"),
        _row(
            "generality",
            "224 px, 2 networks",
            measure(IMAGENET[:2], {"bare": bare}, **large),
            "bare",
        ),
        _row(
            "published",
            "digits, 3 networks",
            measure(DIGITS, {"published": published}, **small),
            "published",
        ),
        _row(
            "published",
            "224 px, published pool of 5",
            measure(IMAGENET, {"published": published}, **large),
            "published",
        ),
        _row(
            "parts",
            "digits, 5 parts of 10",
            measure(DIGITS, {"bare": bare}, parts=10, **small),
            "bare",
        ),
    ]
    write("synthesis_step", rows)


def _row(question: str, case: str, found: dict[str, float], other: str) -> dict[str, object]:
    ratio = found["kit"] / found[other]
    print(
        f"{question:<12}{case:<30}{other} {found[other]:9.1f} ms   kit {found['kit']:9.1f} ms   "
        f"kit/{other} {ratio:.3f}",
        flush=True,
    )
    return {"question": question, "case": case, **found, "ratio": ratio}


if __name__ == "__main__":
    main()
