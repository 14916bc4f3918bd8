# Copyright 2026 featshare maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Inputs of fuzz tests: damaging them, and what one may cost."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import random
import resource
import struct
import time

EXTREMES = (0, 1, 0x7f, 0xff, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
"""Integers that take the place of others in damaged inputs."""


class Budget:
    """
    Limits of each input's cost: CPU time, and growth of the process's peak memory.

    :param figures: receives the limits, the number of inputs and the largest costs.
    """

    def __init__(self, figures: dict[str, float], seconds: float, mib: float) -> None:
        self._figures = figures
        figures.update({'limit (s)': seconds, 'limit (MiB)': mib, 'inputs': 0, 'most (s)': 0.0,
                        'most (MiB)': 0.0})

    @contextmanager
    def one_input(self, name: str) -> Iterator[None]:
        """Fail where what runs costs more than the limits, also if it raises an exception."""
        figures, before, start = self._figures, _peak_mib(), time.process_time()
        try:
            yield
        finally:
            spent, grown = time.process_time() - start, _peak_mib() - before
            figures['inputs'] += 1
            figures['most (s)'] = max(figures['most (s)'], round(spent, 4))
            figures['most (MiB)'] = max(figures['most (MiB)'], round(grown, 1))
            assert spent < figures['limit (s)'], f'{name} took {spent:.1f} s'
            assert grown < figures['limit (MiB)'], f'{name} took {grown:.0f} MiB'


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return content of which bytes are others, missing, repeated or zero."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        length = rng.choice((1, 2, 8, 100, 4096))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at + length] = rng.randbytes(len(data[at:at + length]))
        elif kind == 2:
            data[at:at + length] = bytes(len(data[at:at + length]))
        elif kind == 3 and len(data) > length:
            del data[at:at + length]
        elif kind == 4:
            data[at:at] = data[at:at + length]
        else:
            form = rng.choice(('<I', '<Q'))
            number = rng.choice(EXTREMES) & (2**(8 * struct.calcsize(form)) - 1)
            data[at:at + struct.calcsize(form)] = struct.pack(form, number)
    return bytes(data)


def _peak_mib() -> float:
    """Return the process's largest memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
