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
"""What the worker's thread does with one image: decode, segment, publish and count."""
from __future__ import annotations

from collections.abc import Callable, Mapping
import threading
import time
import traceback
from typing import Any

from featshare_core.inference.engine import Frame
from featshare_core.text import printable
from featshare_ros.camera import Arrival, Camera
from featshare_ros.diagnostics import (
    BAD_IMAGES,
    CameraStatistics,
    ENGINE,
    EngineStatistics,
    LONGEST_TEXT,
    PUBLISHING,
)
from featshare_ros.image_sizes import ImageSizes
from featshare_ros.images import (
    decode_compressed,
    decode_image,
    has_wide_samples,
    ImageError,
    stamp_seconds,
)
from featshare_ros.outputs import Answer, OutputError, Publishers
from featshare_ros.parameters import Values
from featshare_ros.recovery import EngineError, GIVEN_UP, SupervisedSegmenter

MAX_AGE_S = 60.0
"""Largest mask age that is reported, in seconds; beyond it, stamp and clock are unrelated."""


class Processor:
    """
    Segments images, publishes the answers and counts them, during one activation of the node.

    :param node: gives the logger, and whether its context still runs.
    :param publishers: by camera name.
    :param values: the node's parameters.
    :param apply: applies the live parameters to a segmenter that was rebuilt.
    :param sizes: keeps the image sizes that the engine is prepared for.

    ``decoding`` is the topic whose image is being decoded, and since when (monotonic seconds).
    """

    def __init__(self, node: Any, segmenter: SupervisedSegmenter,
                 publishers: Mapping[str, Publishers], statistics: EngineStatistics,
                 values: Values, apply: Callable[[], None], sizes: ImageSizes) -> None:
        self._node = node
        self._segmenter = segmenter
        self._publishers = publishers
        self._statistics = statistics
        self._values = values
        self._apply = apply
        self._sizes = sizes
        self._publishing = threading.Lock()
        self.decoding: tuple[str, float] | None = None
        self._discards = False
        self.ending = threading.Event()

    def process(self, camera: Camera, arrival: Arrival) -> None:
        """Segment one image and publish its answer; on the worker's thread. Never raises."""
        self._answer(camera, arrival)
        # Not in _answer: there a failure's traceback still references the engine's memory.
        if self._segmenter.failing and not self._discards:
            self._segmenter.recover(self.ending)
            self._apply()

    def discard(self) -> None:
        """Publish nothing from now on, not even the result of the image being processed."""
        with self._publishing:
            self._discards = True

    def _answer(self, camera: Camera, arrival: Arrival) -> None:
        statistics, header = camera.statistics, arrival.message.header
        values = self._values.current
        try:
            frame = self._decode(camera, arrival.message, values)
            result = self._segmenter.segment(frame, camera.name, arrival.stamp,
                                             values['publish_confidence'], header.frame_id)
            answer = Answer(header, self._segmenter.labels, camera.name, frame, result,
                            info=camera.info, opacity=values['overlay_opacity'],
                            legend=values['overlay_legend'])
            # Held while publishing: after ``discard`` has returned, nothing is published.
            with self._publishing:
                if self._discards:
                    raise EngineError(GIVEN_UP)
                published = self._publishers[camera.name].publish(answer)
        except ImageError as error:
            statistics.failed(str(error), BAD_IMAGES, arrival.time)
            if statistics.log_due:
                self._node.get_logger().warning(
                    f'{statistics.topic}: image left out: {printable(error, LONGEST_TEXT)}')
            return
        except Exception as error:
            # A signal may end the context while an image is being processed.
            if self._node.context.ok():
                statistics.failed(str(error), ENGINE, arrival.time)
                self._log(statistics, 'image left out', error)
            return
        if published.failures and not self._node.context.ok():
            return
        problem = '; '.join(
            str(cause) if isinstance(cause, OutputError) else
            f'{name} is not published: {type(cause).__name__}: {cause}'
            for name, cause in published.failures)
        if published.time is None:
            statistics.failed(problem, PUBLISHING, arrival.time)
        else:
            statistics.processed(result, 1e3 * (published.time - arrival.time),
                                 age_ms(header, published.clock), arrival.time, problem)
            self._statistics.processed(result)
            if not result.stand_in:
                self._sizes.met((frame.shape[0], frame.shape[1]))
        for name, cause in published.failures:
            if not isinstance(cause, OutputError):
                self._log(statistics, f'{name} is not published', cause)

    def _decode(self, camera: Camera, message: Any, values: Mapping[str, Any]) -> Frame:
        """Return a message's picture, HxWx3 uint8 RGB, and note its kind and the time it took."""
        statistics = camera.statistics
        kind = message.format if camera.compressed else message.encoding
        start = time.monotonic()
        self.decoding = statistics.topic, start
        try:
            if camera.compressed:
                frame = decode_compressed(message, values['max_compressed_pixels'],
                                          values['sensor_bits'])
            else:
                frame = decode_image(message, values['sensor_bits'])
        except ImageError:
            raise
        except Exception as error:  # of any type, such as MemoryError: not the engine's fault
            raise ImageError(f'the decoder failed: {type(error).__name__}: '
                             f'{printable(error, 200)}') from error
        finally:
            self.decoding = None
            statistics.decoded(time.monotonic() - start)
        statistics.image = f'{frame.shape[1]}x{frame.shape[0]} {printable(kind, 60)}'
        if statistics.may_be_dark and has_wide_samples(kind):
            statistics.brightest(int(frame.max()))
        return frame

    def _log(self, statistics: CameraStatistics, what: str, error: Exception) -> None:
        if statistics.log_due:
            self._node.get_logger().error(
                f'{statistics.topic}: {what}:\n{"".join(traceback.format_exception(error))}')


def age_ms(header: Any, clock: int) -> float | None:
    """
    Return the milliseconds since a header's stamp.

    :param clock: the node's, in nanoseconds; 0 before a simulated clock has started.
    :returns: None where the stamp or the clock is not set, or where the stamp is later than the
        clock or more than ``MAX_AGE_S`` earlier.
    """
    stamp = stamp_seconds(header.stamp.sec, header.stamp.nanosec)
    if stamp is None or clock == 0 or not 0 <= clock * 1e-9 - stamp <= MAX_AGE_S:
        return None
    return 1e3 * (clock * 1e-9 - stamp)
