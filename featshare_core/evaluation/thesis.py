"""The thesis's results (ch. 5): Cityscapes val, latency at 512x512 on its GPU, 500 frames."""
from __future__ import annotations

BASELINE_MS = 14.6
TRUNCATED_MS = 6.8
INTERVAL_MS = {1: {2: 12.6, 5: 11.6, 10: 11.5, 15: 11.4},
               2: {2: 9.38, 5: 7.0, 10: 6.93, 15: 6.91}}
"""Average of a frame by shared levels and interval."""

MIOU: dict[str, tuple[float, float]] = {
    'per-frame baseline': (66.3, 66.3),
    'truncated (-2 levels)': (58.5, 58.5),
    '1 shared level, L1, alpha(d), exponential learning rate': (65.7, 65.25),
    '2 shared levels, L1, alpha(d), exponential learning rate': (65.0, 58.6),
    '1 shared level, L2, alpha 0.3, constant learning rate': (60.2, 58.0),
    '2 shared levels, L2, alpha 0.3, constant learning rate': (60.0, 55.0),
    '2 shared levels, L1, alpha 0.3, constant learning rate': (63.0, 56.0)}
"""Percent on key and on current frames."""
