"""Scores of DD-Ranking: the worth of a distilled set apart from its labels and augmentation.

Formulas of DD-Ranking (NUS HPC-AI Lab), with accuracies as fractions in [0, 1];
its own code puts percentages into the exponential. All accuracies are of one student architecture.
"""

from __future__ import annotations

import math


def dd_ranking_scores(
    *, full: float, hard: float, soft: float, random: float, no_aug: float, random_no_aug: float
) -> dict[str, float]:
    """Return HLR (lower is better), IOR, LRS and ARS; a score of an accuracy that is NaN is NaN.

    HLR is the loss against all real images, both with hard labels; IOR the gain over as many random
    real images. LRS combines both, ARS the IOR with and without augmentation, in [0, 1]; they are
    0.27 where both terms cancel out.

    Args:
        full: Accuracy of training on all real images, with hard labels.
        hard: On the distilled images, with hard labels.
        soft: On the distilled images, by the protocol.
        random: On random real images, by the protocol.
        no_aug: On the distilled images, by the protocol but without augmentation.
        random_no_aug: On random real images, in the same way.
    """
    recovery, gain, gain_no_aug = full - hard, soft - random, no_aug - random_no_aug
    return {
        "HLR": recovery,
        "IOR": gain,
        "LRS": _scaled(0.5 * gain - 0.5 * recovery),
        "ARS": _scaled(0.5 * gain + 0.5 * gain_no_aug),
    }


def _scaled(value: float) -> float:
    """Map [-1, 1] to [0, 1]: (e^value - e^-1) / (e - e^-1)."""
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))
