"""Settings of the random variation of samples; no PyTorch, so that they are read quickly."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """
    Random variation of the frames, the same for both frames of a pair.

    :param rotation: largest rotation either way, in degrees.
    :param scale: smallest and largest factor, drawn uniformly in its logarithm.
    :param flip: mirror half of the samples, drawn at random.
    :param colour: vary saturation, brightness, colour cast, gamma and noise.
    :param passing: paste things that move into pairs, cut out of the stills, see ``passing``.
    """

    rotation: float = 10.0
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    colour: bool = False
    passing: bool = False
