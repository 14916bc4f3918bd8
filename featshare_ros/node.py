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
"""The lifecycle node: parameters, transitions, services and diagnostics."""
from __future__ import annotations

import threading
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.labels import find_label_set, LabelSet
from featshare_core.text import printable
from featshare_ros import parameters
from featshare_ros.camera import Camera
from featshare_ros.diagnostics import EngineStatistics, Idle, LONGEST_TEXT
from featshare_ros.image_sizes import ImageSizes
from featshare_ros.launching import NODE_NAME
from featshare_ros.level_log import LevelLog
from featshare_ros.outputs import Publishers
from featshare_ros.processing import Processor
from featshare_ros.recovery import EngineLoader, GIVEN_UP, SupervisedSegmenter
from featshare_ros.worker import Worker
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

PATIENCE_S = 0.5
"""Longest wait for the image being processed when a signal ends the node, in seconds."""
LONGEST_PATIENCE = 20
"""Longest wait for the image being processed at deactivation, in units of ``PATIENCE_S``."""


class SegmentationNode(LifecycleNode):
    """
    Turns camera images into segmentation masks.

    Configuring loads the network and creates the publishers, activating subscribes and starts
    the worker; cleanup and deactivation undo these. Images are received only while active, and
    with `lazy` only while somebody subscribes to an output.

    :param ending: set, by any thread, when the process is to end; shortens or ends all waits.
    """

    def __init__(self, ending: threading.Event | None = None, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self._ending = ending or threading.Event()
        self._segmenter: SupervisedSegmenter | None = None
        self._colors: LabelSet | None = None
        self._values = parameters.Values(self, self._apply)
        self._problem = self._demand_problem = ''
        self._state = 'unconfigured'
        self._loader = EngineLoader()
        self._sizes = ImageSizes(self.get_fully_qualified_name(), self.get_logger())
        self._enabled = True
        self._cameras: list[Camera] = []
        self._outputs: dict[str, Publishers] = {}
        self._processor: Processor | None = None
        self._worker: Worker | None = None
        self._given_up: list[Worker] = []
        self._wake = threading.Condition()
        self._engine_statistics = EngineStatistics()
        self._diagnostics = None
        if self._values.current['publish_diagnostics']:
            self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._level_log = LevelLog(self.get_logger(), 'engine')
        # A paused or looping simulation clock must not stop or flood the diagnostics.
        self.create_timer(1.0, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, '~/force_key_frame', self._on_force_key_frame)
        self.create_service(SetBool, '~/enable', self._on_enable)
        # Where stamps are not set, only the clock shows that a simulation or recording restarted.
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=True), post_callback=lambda jump: self._reset())

    def autostart(self) -> None:
        """Configure and activate, if the parameter ``autostart`` is true; failures are logged."""
        if self._values.current['autostart'] \
                and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network onto its device and create the publishers."""
        try:
            values = self._values.current
            if self._values.problems:
                raise ValueError('; '.join(self._values.problems.values()))
            self._values.undivided = parameters.undivided(values)
            colors = values['label_colors_file']
            self._colors = find_label_set(colors) if colors else None
            self.get_logger().info(f'loading {values["weights"]}; on a new machine it is exported '
                                   f'first')
            self._segmenter = SupervisedSegmenter(self._load_segmenter, self.get_logger(),
                                                  self._running, self._loader)
            self._apply()
            compressed = values['image_transport'] == 'compressed'
            for name in values['cameras']:
                self._outputs[name] = Publishers(
                    self, name, self._subscribe_on_demand if values['lazy'] else None)
                self._cameras.append(Camera(self, name, compressed, self._wake))
        except Exception as error:
            # Any type of error, from a bad file to a missing driver: its text is reported.
            self._free()
            return self._refuse('cannot be configured', error)
        self._problem = ''
        self._engine_statistics = EngineStatistics()
        self._state, self._values.configured = 'inactive', True
        self.get_logger().info(', '.join(f'{k}: {v}' for k, v in self._settings().items()))
        if values['moved_frames'] and values['key_interval'] == 1 and self._values.undivided:
            self.get_logger().warning('moved_frames has no effect with key_interval 1: key frames '
                                      'are not moved')
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the images and start the worker."""
        assert self._segmenter is not None
        self._enabled = True
        self._processor = Processor(self, self._segmenter, self._outputs,
                                    self._engine_statistics, self._values, self._apply,
                                    self._sizes)
        try:
            # There is none where the node was deactivated during a rebuild.
            if not self._segmenter.running:
                self._segmenter.load()
                self._apply()
            self._segmenter.reset()
            for camera in self._cameras:
                camera.start()
                self._outputs[camera.name].introduce(self._segmenter.labels)
            self._worker = Worker(self._cameras, self._wake, self._processor.process)
            self._state = 'active'
            self._subscribe()
        except Exception as error:
            self._state = 'inactive'
            self._stop()
            return self._refuse('cannot be activated', error)
        self._problem = ''
        topics = ', '.join(camera.statistics.topic for camera in self._cameras)
        lazy = ' while somebody subscribes to an output' if self._values.current['lazy'] else ''
        self.get_logger().info(f'segmenting {topics}{lazy}')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker and unsubscribe."""
        self._stop()
        self._state = 'inactive'
        self.get_logger().info('deactivated: no images are received')
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network and destroy the publishers."""
        self._free()
        self._state, self._problem = 'unconfigured', ''
        self.get_logger().info('cleaned up: the network is freed')
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker and free everything."""
        self._free()
        self._state, self._problem = 'finalized', ''
        self.get_logger().info('shut down')
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything after a transition that raised, so that it can be configured again."""
        self._free()
        self._state, self._problem = 'unconfigured', 'a transition failed unexpectedly'
        return TransitionCallbackReturn.SUCCESS

    def _LifecycleNodeMixin__on_change_state(self, request: ChangeState.Request,  # noqa: N802
                                             response: ChangeState.Response,
                                             ) -> ChangeState.Response:
        """
        Refuse a transition that the present state does not allow.

        Up to Jazzy, rclpy's own handler raises in this case, and the caller gets no response.
        """
        try:
            return super()._LifecycleNodeMixin__on_change_state(  # type: ignore[misc]
                request, response)
        except Exception as error:
            self.get_logger().error(f'transition {request.transition.id} failed while '
                                    f'{self._state}: {error}')
            response.success = False
            return response

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """
        Set parameters all at once, as rclpy does, but accept integers for float parameters.

        rclpy's services for setting parameters call this method.
        """
        return super().set_parameters_atomically(parameters.with_floats(parameter_list))

    def destroy_node(self) -> None:
        """Stop the worker, then destroy the node and its topics."""
        self._stop()
        super().destroy_node()

    def _running(self) -> bool:
        """Return whether the process is not ending."""
        return self.context.ok() and not self._ending.is_set()

    def _refuse(self, what: str, error: Exception) -> TransitionCallbackReturn:
        """Fail a transition with a reason, in the log and in /diagnostics."""
        self._problem = printable(f'{what}: {error}', LONGEST_TEXT)
        if self._running():
            self._error(self._problem)
        return TransitionCallbackReturn.FAILURE

    def _error(self, problem: str) -> None:
        """Log a problem of the engine at once, and only once."""
        self.get_logger().error(problem)
        self._level_log.was_logged(DiagnosticStatus.ERROR, problem)

    def _load_segmenter(self) -> VideoSegmenter:
        values = self._values.current
        width, height = values['input_size']
        segmenter = VideoSegmenter.from_checkpoint(
            values['weights'], device=values['device'], precision=values['precision'],
            engine=values['engine'],
            shared_levels=0 if self._values.undivided else values['shared_levels'] or None,
            input_size=(width, height) if width else None,
            full_size=values['mask_size'] == 'image')
        try:
            if self._colors is not None:
                segmenter.recolor(self._colors, values['label_colors_file'])
            self._warm_up(segmenter)
        except BaseException:
            segmenter.close()
            raise
        return segmenter

    def _warm_up(self, segmenter: VideoSegmenter) -> None:
        """Prepare for the image sizes of earlier runs, or for that of the training images."""
        try:
            if self._sizes.known:
                segmenter.warm_up(self._sizes.known)
                return
        except Exception as error:
            # The earlier runs may have had another network or device: the node starts anyway.
            self.get_logger().warning(f'the engine cannot be prepared for the image sizes of '
                                      f'earlier runs: {error}')
        segmenter.warm_up()

    def _stop(self) -> None:
        """Unsubscribe and end the worker; wait for the image being processed, up to a limit."""
        for camera in self._cameras:
            camera.unsubscribe()
        if self._processor is not None:
            self._processor.ending.set()
        for _ in range(LONGEST_PATIENCE):
            if self._worker is None or self._worker.stop(PATIENCE_S):
                self._worker = None
                return
            if not self._running():
                break
        if self._running():
            self._error(GIVEN_UP)
        assert self._worker is not None
        assert self._processor is not None
        assert self._segmenter is not None
        # In this order: nothing is published after ``discard``; then the thread owns its engine.
        self._processor.discard()
        self._worker.abandon(self._segmenter.give_up())
        self._given_up.append(self._worker)
        self._worker = None

    def _free(self) -> None:
        self._stop()
        self._cameras = []
        while self._outputs:
            self._outputs.popitem()[1].destroy()
        if self._segmenter is not None:
            self._segmenter.close()
        self._segmenter = None
        self._values.configured = self._values.undivided = False

    @property
    def working(self) -> bool:
        """Whether a thread is still busy with an engine."""
        return self._loader.busy or not all(worker.stop(0.0) for worker in self._given_up)

    def _reset(self) -> None:
        """Make the next frame of every camera a key frame."""
        if self._segmenter is not None:
            self._segmenter.reset()

    def _apply(self) -> None:
        """Apply the live parameters to the segmenter."""
        if self._segmenter is not None:
            values = self._values.current
            self._segmenter.set_live(values['key_mode'], values['moved_frames'],
                                     parameters.schedule(values))

    def _on_force_key_frame(self, request: Trigger.Request,
                            response: Trigger.Response) -> Trigger.Response:
        response.success = self._segmenter is not None
        self._reset()
        response.message = 'the next frame of every camera is a key frame' \
            if self._segmenter is not None else f'the node is {self._state}: no network is loaded'
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response,
                   ) -> SetBool.Response:
        """Unsubscribe from the images, or subscribe again and start with key frames."""
        response.success = self._state == 'active'
        if not response.success:
            response.message = f'the node is {self._state}: activate it first'
            return response
        if request.data != self._enabled:
            self._enabled = request.data
            self._reset()
            self._subscribe()
            self.get_logger().info(('enabled' if self._enabled else 'disabled')
                                   + ' by the service enable')
        response.message = 'enabled' if self._enabled else 'disabled'
        return response

    def _subscribe(self) -> None:
        """Subscribe to the images that are wanted, beginning with a key frame, and to no other."""
        lazy = self._values.current['lazy']
        for camera in self._cameras if self._state == 'active' else ():
            wanted = self._enabled and (not lazy or self._outputs[camera.name].wanted)
            if wanted and not camera.subscribed:
                assert self._segmenter is not None
                self._segmenter.reset(camera.name)
                camera.subscribe()
            elif camera.subscribed and not wanted:
                camera.unsubscribe()

    def _subscribe_on_demand(self) -> None:
        """Do what ``_subscribe`` does; a failure is reported, and tried again every second."""
        try:
            self._subscribe()
            self._demand_problem = ''
        except Exception as error:
            self._demand_problem = printable(f'cannot subscribe: {error}', LONGEST_TEXT)

    def _settings(self) -> dict[str, str]:
        """Return what runs, for the log and for /diagnostics."""
        values = self._values.current
        settings = {'checkpoint': values['weights']}
        if self._segmenter is not None:
            settings.update(self._segmenter.engine)
            for name, unit in (('key_interval', ''), ('max_key_age', ' (s)'), ('key_policy', ''),
                               ('change_threshold', ''), ('key_mode', ''), ('moved_frames', '')):
                settings[name + unit] = f'{values[name]}'
            settings['engine restarts'] = str(self._segmenter.restarts)
            settings['preparing'] = self._segmenter.preparing or 'nothing'
        return settings

    def _idle(self, camera: Camera) -> Idle | None:
        """Return level and message of a camera while segmentation is intentionally off."""
        if self._state == 'active' and not self._enabled:
            return DiagnosticStatus.OK, 'disabled by the service enable'
        if self._state != 'active':
            return DiagnosticStatus.OK, self._state
        segmenter = self._segmenter
        if segmenter is not None and not segmenter.running:
            return DiagnosticStatus.ERROR, 'the engine failed and is being rebuilt'
        if not camera.subscribed:
            return DiagnosticStatus.OK, 'waiting for a subscriber'
        return None

    def _diagnose(self) -> None:
        """Compute every status, log changes, and publish /diagnostics if the parameter says so."""
        if self._values.current['lazy']:
            # Not everywhere are subscribers reported when they come and go.
            self._subscribe_on_demand()
        node = self.get_fully_qualified_name().lstrip('/')
        segmenter, state = self._segmenter, self._state
        hardware = segmenter.engine['device'] if segmenter else 'none'
        problem = self._problem or self._demand_problem or (
            segmenter.problem if segmenter else '')
        if state == 'active' and not self._enabled:
            state = 'active, disabled'
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        status = self._engine_statistics.status(
            f'{node}: engine', hardware, problem, segmenter.fallback if segmenter else '',
            state, self._settings())
        self._level_log.update(status.level, status.message)
        array.status.append(status)
        for camera in self._cameras:
            status = camera.status(f'{node}: {camera.name or "camera"}', hardware,
                                   self._idle(camera),
                                   self._processor.decoding if self._processor else None)
            if not camera.statistics.starting:
                camera.level_log.update(status.level, status.message)
            array.status.append(status)
        if self._diagnostics is not None:
            self._diagnostics.publish(array)
