"""Scores of DD-Ranking: the worth of a distilled set apart from its labels and augmentation.

Formulas of DD-Ranking (NUS HPC-AI Lab), with accuracies as fractions in [0, 1];
its own code puts percentages into the exponential. All accuracies are of one student architecture.
"""

from __future__ import annotations

import math


def hard_label_recovery(full: float, synthetic_hard: float) -> float:
    """Return HLR: the loss against all real data, both with hard labels; lower is better.

    Args:
        full: Accuracy of training on all real images.
        synthetic_hard: Accuracy of training on the distilled images with their true classes.
    """
    return full - synthetic_hard


def improvement_over_random(synthetic: float, random: float) -> float:
    """Return IOR: the gain over as many random real images under the same protocol.

    Args:
        synthetic: Accuracy of training on the distilled images.
        random: Accuracy of training on the random real images.
    """
    return synthetic - random


def label_robust_score(recovery: float, improvement: float) -> float:
    """Return LRS of an HLR and an IOR, in [0, 1]; 0.27 where they cancel out."""
    return _scaled(0.5 * improvement - 0.5 * recovery)


def augmentation_robust_score(improvement: float, improvement_no_aug: float) -> float:
    """Return ARS of an IOR with and one without augmentation, in [0, 1]; 0.27 where both are 0."""
    return _scaled(0.5 * improvement + 0.5 * improvement_no_aug)


def _scaled(value: float) -> float:
    """Map [-1, 1] to [0, 1]: (e^value - e^-1) / (e - e^-1)."""
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))
