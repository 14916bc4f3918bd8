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
"""When parameters may be set, when they count, and who applies them."""
import re

from featshare_ros import parameters
from featshare_ros.node import SegmentationNode
from harness import FAST, NodeProcess, wait_until
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
from rcl_interfaces.msg import ParameterType, SetParametersResult
import rclpy
from rclpy.parameter import Parameter


def test_what_counts_at_configure_is_set_before_and_refused_after(random_checkpoint, peer):
    node = NodeProcess(weights='nosuch', autostart=False, **FAST)

    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return peer.call(ChangeState, f'{node.name}/change_state', request, timeout=60).success
    try:
        assert not change(Transition.TRANSITION_CONFIGURE)
        # As docs/operations.md says: set what was wrong, then configure.
        assert peer.set_parameters(node.name, weights=str(random_checkpoint),
                                   mask_size='network').successful
        assert change(Transition.TRANSITION_CONFIGURE)
        for values in ({'weights': 'default'}, {'cameras': ['a', 'b']}, {'input_size': [96, 64]}):
            result = peer.set_parameters(node.name, key_interval=9, **values)
            assert not result.successful
            assert f'parameter {next(iter(values))} takes effect when the node is configured' \
                in result.reason
        assert peer.get_parameter(node.name, 'key_interval') == 5
        # A whole parameter file can be loaded again: values that stay are no change.
        assert peer.set_parameters(node.name, weights=str(random_checkpoint), cameras=[''],
                                   input_size=[64, 64], key_interval=9).successful
        assert change(Transition.TRANSITION_CLEANUP)
        assert peer.set_parameters(node.name, weights='default', input_size=[96, 64]).successful
        for name in ('autostart', 'publish_diagnostics'):
            assert 'read-only' in peer.set_parameters(node.name, **{name: True}).reason
    finally:
        code, _ = node.stop()
    assert code == 0, node.log


def test_at_interval_1_the_network_is_undivided_and_stays_so(random_checkpoint, peer):
    """A divided network takes longer on key frames, and with interval 1 there are no others."""
    node = NodeProcess(weights=str(random_checkpoint), **FAST)

    def reconfigure(interval):
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP, None,
                           Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            if transition is None:
                assert peer.set_parameters(node.name, key_interval=interval).successful
                continue
            request = ChangeState.Request(transition=Transition(id=transition))
            assert peer.call(ChangeState, f'{node.name}/change_state', request,
                             timeout=60).success

    larger = {'key_interval': 5}, {'key_mode': 'deferred'}
    try:
        wait_until(lambda: 'segmenting' in node.log, 60, 'the node is active')
        for values in larger:  # there and back, to compare
            assert peer.set_parameters(node.name, key_interval=1, key_mode='blocking').successful
            assert peer.set_parameters(node.name, **values).successful
        assert peer.set_parameters(node.name, key_mode='blocking').successful
        assert 'undivided' not in node.log
        reconfigure(1)
        assert 'undivided' in node.log
        for values in larger:
            result = peer.set_parameters(node.name, **values)
            assert not result.successful
            assert 'the network was loaded undivided' in result.reason
            assert 'cleanup' in result.reason
        # All frames between key frames are moved: none reuses features.
        assert peer.set_parameters(node.name, moved_frames=2, key_interval=3).successful
        assert not peer.set_parameters(node.name, moved_frames=1).successful
        assert peer.set_parameters(node.name, key_interval=1).successful
        assert peer.set_parameters(node.name, moved_frames=0).successful
        reconfigure(5)
        assert node.log.rindex('2 shared levels') > node.log.rindex('undivided')
        assert peer.set_parameters(node.name, key_interval=6).successful
    finally:
        code, _ = node.stop()
    assert code == 0, node.log


@pytest.fixture(params=['Iron', 'Humble'])
def node(request, monkeypatch):
    """The node in this process, also as where rclpy has no post-set callback."""
    if request.param == 'Humble':
        base = SegmentationNode.__mro__[1:]
        for kind in base:
            if 'add_post_set_parameters_callback' in vars(kind):
                monkeypatch.delattr(kind, 'add_post_set_parameters_callback')
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '-p', 'publish_diagnostics:=false',
                                      '-p', 'key_interval:=0'])
    node = SegmentationNode(context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_values_that_another_callback_refuses_are_not_applied(node):
    refuses = [True]
    # After the node's own.
    node._on_set_parameters_callbacks.append(lambda changed: SetParametersResult(
        successful=not refuses[0], reason='not now'))
    before = dict(node._values.current)
    wanted = [Parameter('key_interval', value=9), Parameter('overlay_opacity', value=0.25)]
    assert not node.set_parameters_atomically(wanted).successful
    assert node._values.current == before
    refuses[0] = False
    assert node.set_parameters_atomically(wanted).successful
    assert node._values.current == {**before, 'key_interval': 9, 'overlay_opacity': 0.25}


def test_a_value_refused_at_start_is_put_right_by_setting_it(node):
    assert 'key_interval' in node._values.problems['key_interval']
    assert node.set_parameters_atomically([Parameter('key_interval', value=3)]).successful
    assert node._values.current['key_interval'] == 3
    assert not node._values.problems


def test_a_misspelled_parameter_is_reported():
    context = rclpy.Context()
    given = ('key_intervall:=3', 'Weights:=light', 'cameras:=[a]', 'another_nodes_rate:=5',
             'qos_overrides./image.subscription.depth:=1')
    rclpy.init(context=context, args=['--ros-args', *(
        word for value in given for word in ('-p', value))])
    node = rclpy.create_node('declaring', context=context)
    try:
        parameters.declare(node)
        assert parameters.misspelled(node) == [
            f'parameter {name}, given at start, is not known and has no effect: did you mean '
            f'{meant}?' for name, meant in (('key_intervall', 'key_interval'),
                                            ('Weights', 'weights'))]
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.parametrize('name', [spec.name for spec in parameters.PARAMETERS])
def test_an_empty_list_at_start_is_a_problem_of_configuring(name):
    # For rclpy it is no value: the node ended with a traceback.
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '-p', f'{name}:=[]'])
    node = rclpy.create_node('declaring', context=context)
    try:
        problems = parameters.declare(node)
        assert list(problems) == [name]
        assert 'must have a value' in problems[name]
        spec = next(spec for spec in parameters.PARAMETERS if spec.name == name)
        assert node.get_parameter(name).value == spec.default
        assert node.describe_parameter(name).read_only == spec.at_start
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_integers_are_accepted_for_every_float_parameter(random_checkpoint, peer, tmp_path):
    floats = {spec.name: spec.limits for spec in parameters.PARAMETERS
              if isinstance(spec.default, float)}
    assert {'max_key_age', 'change_threshold', 'overlay_opacity'} <= set(floats)
    for limit in (0, 1):
        file = tmp_path / f'{limit}.yaml'
        file.write_text('/**:\n  ros__parameters:\n' + ''.join(
            f'    {name}: {limit}\n' for name in floats))
        node = NodeProcess('--params-file', str(file), weights=random_checkpoint, key_interval=3,
                           **FAST)
        try:
            node.wait_for_log('segmenting')
            newest = peer.diagnostics()
            wait_until(lambda: 'segmentation: engine' in newest(), 20, 'diagnostics')  # noqa: B023
            assert newest()['segmentation: engine'][2]['max_key_age (s)'] == f'{limit}.0'
            for name, (low, high) in floats.items():
                for value in (limit, 1 - limit):
                    # `ros2 param set NODE max_key_age 1` sends an integer, too.
                    if value != limit:
                        assert peer.set_parameters(node.name, **{name: value}).successful, name
                    found = peer.get_parameter(node.name, name)
                    assert (found, type(found)) == (value, float), name
                described = peer.describe_parameter(node.name, name)
                assert described.type == ParameterType.PARAMETER_DOUBLE
                span = described.floating_point_range[0]
                assert (span.from_value, span.to_value) == (low, high), name
                assert 'out of range' in peer.set_parameters(
                    node.name, **{name: int(high) + 1}).reason, name
                assert 'rong parameter type' in peer.set_parameters(
                    node.name, **{name: True}).reason, name
            assert 'rong parameter type' in peer.set_parameters(
                node.name, key_interval=3.0).reason
        finally:
            code, _ = node.stop()
        assert code == 0, node.log


def test_an_integer_out_of_a_floats_range_fails_configuring(random_checkpoint):
    node = NodeProcess(weights=random_checkpoint, overlay_opacity=2, **FAST)
    try:
        node.wait_for_log('cannot be configured')
        assert re.search('parameter overlay_opacity: .*out of range', node.log)
    finally:
        code, _ = node.stop()
    assert code == 0, node.log


UNITS = {'shared_levels': 'levels', 'key_interval': 'frames', 'max_key_age': 'Seconds',
         'change_threshold': '0 to 1', 'input_size': 'pixels', 'max_compressed_pixels': 'pixels',
         'sensor_bits': 'Bits', 'overlay_opacity': '0 to 1', 'moved_frames': 'Frames'}


def test_every_description_has_the_unit_and_says_what_a_change_needs():
    ends = {True: 'Live: takes effect with the next frame.', False: (
        'Takes effect when the node is configured: clean the node up to change it.',
        'Takes effect at start: restart the node to change it.')}
    numbers = {spec.name for spec in parameters.PARAMETERS
               if spec.limits or spec.default == [0, 0]}
    assert numbers == set(UNITS)
    for spec in parameters.PARAMETERS:
        assert spec.descriptor().description.endswith(ends[spec.live]), spec.name
        assert UNITS.get(spec.name, '') in spec.description, spec.name
        assert spec.descriptor().read_only == spec.at_start
