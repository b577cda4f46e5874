"""How logits are stored: in full, as bytes, or the largest of each row alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Fields = dict[str, Tensor]
_FLOATS = {"fp32": torch.float32, "fp16": torch.float16}
_LEVELS = 254  # of int8, symmetric


def encode(logits: Tensor, kind: str, *, top_k: int) -> Fields:
    """Return named tensors to store in place of logits.

    Args:
        logits: [N, C].
        kind: `fp32`, `fp16`, `int8` (each row between its smallest and its largest value, in 255
            levels) or `top_k` (a row's largest in fp16 with their classes; the probability that
            they leave is spread evenly over the other classes).
        top_k: Logits that `top_k` keeps; all, if there are fewer classes.
    """
    if kind in _FLOATS:
        return {"logits": logits.to(_FLOATS[kind])}
    return _as_bytes(logits.float()) if kind == "int8" else _largest(logits.float(), top_k)


def decode(fields: Fields, classes: int) -> Tensor:
    """Undo `encode`, to rounding or to what was kept.

    Args:
        fields: What `encode` returned.
        classes: Number of classes, C.

    Returns:
        Logits [N, C], float32, or float16 where they were stored so.

    Raises:
        KeyError: Fields are missing.
        ValueError: They are of another number of classes.
    """
    if "levels" in fields:
        logits = fields["middle"][:, None] + fields["levels"].float() * fields["step"][:, None]
    elif "top" in fields:
        highest = int(fields["classes"].max())
        if highest >= classes:
            raise ValueError(f"labels are of class {highest}, but there are {classes} classes")
        logits = fields["rest"].float()[:, None].repeat(1, classes)
        logits.scatter_(1, fields["classes"].long(), fields["top"].float())
    else:
        logits = fields["logits"]
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ValueError(f"labels are of {logits.shape[-1]} classes, not {classes}")
    return logits


def row_bytes(kind: str, classes: int, *, top_k: int) -> int:
    """Return the bytes that one view's logits take."""
    kept = min(top_k, classes)
    return {
        "fp32": 4 * classes,
        "fp16": 2 * classes,
        "int8": classes + 8,
        "top_k": (2 + _id_type(classes).itemsize) * kept + 2,
    }[kind]


def _as_bytes(logits: Tensor) -> Fields:
    low, high = logits.aminmax(dim=1)
    middle, step = (low + high) / 2, (high - low) / _LEVELS
    levels = ((logits - middle[:, None]) / step.clamp_min(1e-30)[:, None]).round()
    return {"levels": levels.to(torch.int8), "step": step, "middle": middle}


def _largest(logits: Tensor, count: int) -> Fields:
    """Keep the largest, and of the others the one logit that has their total probability."""
    classes = logits.shape[1]
    top, places = logits.topk(min(count, classes), dim=1)
    others = logits.scatter(1, places, -math.inf)
    spread = math.log(max(classes - top.shape[1], 1))
    rest = torch.logsumexp(others, dim=1) - spread  # minus infinity where nothing is left
    return {
        "top": top.to(torch.float16),
        "classes": places.to(_id_type(classes)),
        "rest": rest.to(torch.float16),
    }


def _id_type(classes: int) -> torch.dtype:
    return torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32
