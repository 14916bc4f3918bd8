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
"""Every parameter of the node: its default, range, description, and when it may be set."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
import math
from typing import Any

from featshare_core.inference.engines import ENGINE_NAMES
from featshare_core.inference.moving import MOST_MOVED
from featshare_core.inference.segmenter import KEY_MODES, loads_undivided
from featshare_ros.images import FULL_RANGE
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

RECONFIGURE = ('first call `ros2 lifecycle set NODE` with deactivate, if it is active, and '
               'cleanup')
"""What to do before a parameter that is read when the node is configured can be set."""


@dataclass(frozen=True)
class Spec:
    """
    One parameter.

    :param live: may be set at any time and takes effect with the next frame; otherwise takes
        effect when the node is configured, and can be set until then.
    :param at_start: takes effect once, when the node starts, and is read-only.
    :param limits: (smallest, largest) of a number.
    :param choices: allowed values of a string.
    """

    name: str
    default: Any
    description: str
    live: bool = False
    at_start: bool = False
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """Return what `ros2 param describe` shows."""
        when = 'Live: takes effect with the next frame.' if self.live else \
            'Takes effect at start: restart the node to change it.' if self.at_start else \
            'Takes effect when the node is configured: clean the node up to change it.'
        descriptor = ParameterDescriptor(description=f'{self.description} {when}',
                                         read_only=self.at_start)
        if self.choices:
            descriptor.additional_constraints = 'one of: ' + ', '.join(self.choices)
        if self.limits is not None:
            low, high = self.limits
            if isinstance(self.default, float):
                descriptor.floating_point_range = [FloatingPointRange(
                    from_value=float(low), to_value=float(high), step=0.0)]
            else:
                descriptor.integer_range = [IntegerRange(
                    from_value=int(low), to_value=int(high), step=1)]
        return descriptor


PARAMETERS = (
    Spec('weights', 'default', 'The network: the name of a shipped checkpoint, the path of a '
         '.safetensors file, a folder that `featshare export` or save_pretrained wrote, or '
         'org/name of a model hub, after `featshare pull`.'),
    Spec('device', 'auto', 'Where the network runs: auto (CUDA where there is one, else the CPU), '
         'cpu, cuda or cuda:N. A device that is named and missing is an error.'),
    Spec('precision', 'auto', 'Arithmetic of the network; auto is bf16 where the device has it, '
         'else fp16 on CUDA and fp32 on the CPU.', choices=('auto', 'fp32', 'bf16', 'fp16')),
    Spec('engine', 'auto', 'What runs the network: auto is the fastest that is installed.',
         choices=ENGINE_NAMES),
    Spec('shared_levels', 0, 'Pyramid levels, counted from the deepest, that current frames '
         'take from the key frame; 0: as in the checkpoint. More than the network has is an '
         'error.', limits=(0, 4)),
    Spec('key_interval', 5, 'Processed frames of a camera from one key frame to the next; 1 runs '
         'the whole network on every frame. If no frame reused features when the node was '
         'configured, larger values are refused until cleanup.', live=True, limits=(1, 1000)),
    # The loss of accuracy depends on time rather than on frames; docs/models/models.md has
    # figures. At camera rates above 13 Hz an interval of 5 takes effect first.
    Spec('max_key_age', 0.3, 'Seconds (of image stamps) after which a key frame is due whatever '
         'the interval; 0 for no limit.', live=True, limits=(0.0, 3600.0)),
    Spec('key_policy', 'fixed', 'fixed: key frames by the interval and the age alone; change: '
         'also whenever the image has changed by more than change_threshold since the last one.',
         live=True, choices=('fixed', 'change')),
    Spec('change_threshold', 0.05, 'Change since the last key frame above which key_policy change '
         'makes a new one: mean absolute difference of grey thumbnails of the two frames, 0 to '
         '1.', live=True, limits=(0.0, 1.0)),
    Spec('key_mode', 'blocking', 'blocking: a key frame is answered with its own deep features, '
         'later than others; deferred: no frame waits for the deep half, which runs beside the '
         'frames that follow.', live=True, choices=KEY_MODES),
    Spec('moved_frames', 0, 'Frames in a row, after each frame that the network ran on, on which '
         'it does not run: their mask is the last one, moved along optical flow; 0: none.',
         live=True, limits=(0, MOST_MOVED)),
    Spec('input_size', [0, 0], 'Width and height in pixels at which the network runs, multiples '
         'of 32; [0, 0] for as many pixels as the checkpoint was trained on, in the aspect ratio '
         'of the image.'),
    Spec('cameras', [''], 'Names of several cameras; each prefixes its topics. One empty name '
         'is a single camera without prefix.'),
    Spec('image_transport', 'raw', 'Which image topic is subscribed to: raw (image) or '
         'compressed (image/compressed).', choices=('raw', 'compressed')),
    Spec('max_compressed_pixels', 16_000_000, 'Largest compressed image that is decoded, in '
         'pixels; larger ones fail. A small message can claim a large image.', live=True,
         limits=(1, 1 << 30)),
    Spec('sensor_bits', FULL_RANGE, 'Bits of a 16-bit sample that the sensor uses, counted '
         'from the lowest: 12 for a 12-bit sensor whose driver does not scale samples.', live=True,
         limits=(8, FULL_RANGE)),
    Spec('mask_size', 'image', 'Size of masks, confidences and overlays: that of the image, or '
         'of the network input, which is faster.', choices=('image', 'network')),
    Spec('publish_confidence', False, "Publish the probability of each pixel's class, times 255.",
         live=True),
    Spec('overlay_opacity', 0.5, "Opacity of the classes' colours in the overlay, 0 to 1; 1 shows "
         'the colours alone.', live=True, limits=(0.0, 1.0)),
    Spec('overlay_legend', False, "Draw the classes' names and colours into the overlay's corner.",
         live=True),
    Spec('label_colors_file', '', 'Colours of the classes in the overlay: a YAML file with a list '
         '"classes" of {name: NAME, color: [R, G, B]}, 0 to 255, with the names of the network. '
         'Empty: the colours of the checkpoint.'),
    Spec('lazy', False, 'Subscribe to the images of a camera only while somebody subscribes to '
         'its mask, confidence, overlay or camera_info.'),
    Spec('publish_diagnostics', True, 'Publish /diagnostics once a second.', at_start=True),
    Spec('autostart', True, 'Configure and activate at start, without a lifecycle manager.',
         at_start=True),
)


class Values:
    """
    The most recent values of the node's parameters.

    ``problems`` holds the reason, by parameter, for each value given at start that was refused;
    configuring must fail on them. The node sets ``configured`` while it is configured, and
    ``undivided`` while its network is loaded undivided; see the function of that name.

    :param apply: called when values have changed; on Humble, which has no callback after setting,
        on the thread that reads ``current``.
    """

    def __init__(self, node: Node, apply: Callable[[], None]) -> None:
        self._node = node
        self._apply = apply
        self.configured = self.undivided = False
        self.problems = declare(node)
        self._newest = values(node)
        node.add_on_set_parameters_callback(self._validate)
        self._compares = not hasattr(node, 'add_post_set_parameters_callback')
        if not self._compares:
            node.add_post_set_parameters_callback(self._on_set)

    @property
    def current(self) -> Mapping[str, Any]:
        """Return the values by name."""
        if self._compares:
            self._take_over()
        return self._newest

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        # Nothing is applied here: another callback may still refuse the same set.
        return validate(parameters, self._newest if self.configured else None,
                        self._newest if self.undivided else None)

    def _on_set(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            self.problems.pop(parameter.name, None)
        self._take_over()

    def _take_over(self) -> None:
        before, newest = self._newest, values(self._node)
        if newest == before:
            return
        self._newest = newest
        for name, value in newest.items():
            if value != before[name]:
                self.problems.pop(name, None)
        self._apply()


def declare(node: Node) -> dict[str, str]:
    """
    Declare all parameters on a node.

    :returns: the reason, by parameter, for each value given at start that is refused. The
        parameter has its default instead, so that the node stays up and can report the reason.
    """
    problems = {}
    for spec in PARAMETERS:
        try:
            _declare(node, spec)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            problems[spec.name] = f'parameter {spec.name}: {error}'
            node.declare_parameter(spec.name, spec.default, spec.descriptor(),
                                   ignore_override=True)
    for spec in PARAMETERS:
        result = validate([node.get_parameter(spec.name)])
        if not result.successful:
            problems[spec.name] = result.reason
    for line in misspelled(node):
        node.get_logger().warning(line)
    return problems


def misspelled(node: Node) -> list[str]:
    """
    Return a line for each parameter given at start that is not known and similar to a known one.

    Others may be meant for another node: files with ``/**`` are for all nodes.
    """
    # rclpy does not publish what was given at start, except for parameters that are declared.
    given = getattr(node, '_parameter_overrides', {})
    known = [spec.name for spec in PARAMETERS]
    return [f'parameter {name}, given at start, is not known and has no effect: did you mean '
            f'{near[0]}?' for name in given if not node.has_parameter(name)
            and (near := get_close_matches(name, known, 1, 0.8))]


def _declare(node: Node, spec: Spec) -> None:
    """
    Declare one parameter; an integer given at start for a float parameter is converted.

    :raises InvalidParameterTypeException: where the value given at start is of another type.
    :raises InvalidParameterValueException: where it is out of range, or empty.
    """
    # rclpy refuses an integer for a float and takes an empty list for no value at all, and shows
    # what was given only in a declaration.
    given: Parameter = node.declare_parameter(
        spec.name, spec.default, ParameterDescriptor(dynamic_typing=True))
    node.undeclare_parameter(spec.name)
    if given.type_ == Parameter.Type.NOT_SET:
        raise InvalidParameterValueException(spec.name, given.value, 'it must have a value')
    if given.type_ == Parameter.Type.INTEGER and isinstance(spec.default, float):
        node.declare_parameter(spec.name, float(given.value), spec.descriptor(),
                               ignore_override=True)
        return
    node.declare_parameter(spec.name, spec.default, spec.descriptor())


def with_floats(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return parameters to be set, with integers for float parameters converted to floats."""
    floats = {spec.name for spec in PARAMETERS if isinstance(spec.default, float)}
    return [Parameter(parameter.name, Parameter.Type.DOUBLE, float(parameter.value))
            if parameter.type_ == Parameter.Type.INTEGER and parameter.name in floats
            else parameter for parameter in parameters]


def values(node: Node) -> dict[str, Any]:
    """Return the present value of every parameter by name."""
    return {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS}


def schedule(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of ``KeyFrameSchedule`` that the parameters set."""
    return {'key_interval': values['key_interval'],
            'max_key_age': values['max_key_age'] or None,
            'change_threshold': values['change_threshold']
            if values['key_policy'] == 'change' else None}


def undivided(values: Mapping[str, Any]) -> bool:
    """Return whether no frame shares features, so that the network need not be divided."""
    return loads_undivided(values['weights'], values['shared_levels'] or None,
                           values['key_interval'], values['moved_frames'], values['key_mode'])


def validate(parameters: Sequence[Parameter], configured: Mapping[str, Any] | None = None,
             undivided_with: Mapping[str, Any] | None = None) -> SetParametersResult:
    """
    Accept or refuse a set of parameters as a whole; rclpy has checked types and ranges.

    :param configured: the values with which the node is configured; None where it is not.
    :param undivided_with: the present values where its network is loaded undivided; else None.
    """
    specs = {spec.name: spec for spec in PARAMETERS}
    for parameter in parameters:
        spec = specs.get(parameter.name)
        if spec is None:
            continue
        value = parameter.value
        if value is None:
            return _refused(f'parameter {spec.name} must have a value')
        if isinstance(value, float) and not math.isfinite(value):
            return _refused(f'parameter {spec.name} is {value}; it must be a finite number')
        if spec.choices and value not in spec.choices:
            return _refused(f'parameter {spec.name} is {value!r}; it must be one of '
                            f'{", ".join(spec.choices)}')
        if configured is not None and not spec.live and not _same(value, configured[spec.name]):
            return _refused(f'parameter {spec.name} takes effect when the node is configured, and '
                            f'it is: {RECONFIGURE}')
        if spec.name == 'cameras':
            reason = _cameras_problem(value)
            if reason:
                return _refused(reason)
        if spec.name == 'input_size' and (
                len(value) != 2 or min(value) < 0 or (value[0] == 0) != (value[1] == 0)):
            return _refused(f'parameter input_size is {list(value)}; it must be [width, height] '
                            f'in pixels, or [0, 0]')
    if undivided_with is not None and not undivided({
            **undivided_with, **{parameter.name: parameter.value for parameter in parameters}}):
        return _refused('the network was loaded undivided, since no frame reused features with '
                        'the key_interval, moved_frames and key_mode that the node was configured '
                        f'with: {RECONFIGURE}')
    return SetParametersResult(successful=True)


def _cameras_problem(names: Sequence[str]) -> str:
    """Return what is wrong with the cameras' names, or an empty string."""
    if list(names) == ['']:
        return ''
    if not names:
        return "parameter cameras is empty; give names, or [''] for one camera without prefix"
    if len(set(names)) != len(names):
        return f'parameter cameras names a camera twice: {list(names)}'
    for name in names:
        if not (name.isascii() and name.replace('_', 'a').isalnum() and not name[0].isdigit()):
            return (f'parameter cameras: {name!r} cannot be part of a topic name; use letters, '
                    f'digits and underscores, not a digit first')
    return ''


def _same(value: Any, other: Any) -> bool:
    """Return whether two parameter values are equal; arrays come as different sequences."""
    if isinstance(value, (str, bool, int, float)):
        return bool(value == other)
    return list(value) == list(other)


def _refused(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)
