"""The lifecycle node: parameters, transitions, and what happens to an image in between."""
from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from featshare_core.inference.memory import keep_freed_blocks
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_ros import parameters
from featshare_ros.camera import Arrival, Camera
from featshare_ros.diagnostics import EngineStatistics, Idle
from featshare_ros.images import ImageError, stamp_seconds
from featshare_ros.recovery import GIVEN_UP, LOADING, SupervisedSegmenter
from featshare_ros.worker import Worker

MAX_AGE_S = 60.0
"""A stamp older than this is of another clock, or of a recording: it says nothing of latency."""
PATIENCE_S = 1.0
"""Seconds that a signal to end leaves the image in work."""
LONGEST_PATIENCE = 10
"""So many times that, a transition leaves it."""
PREPARING_S = 1.0, 120.0
"""From when to when, in seconds, an engine that sees an image size for the first time is told to
prepare itself; after that it counts as stuck."""


class SegmentationNode(LifecycleNode):
    """
    Turns camera images into segmentation masks.

    Configuring loads the network and creates the publishers, activating subscribes and starts
    the worker; each is undone by its counterpart. Only while active is anything received.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('segmentation', **options)
        self._problems = parameters.declare(self)
        self._values = parameters.values(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._problem = ''
        self._state = 'unconfigured'
        self._segmenter: SupervisedSegmenter | None = None
        self._enabled = True
        self._cameras: list[Camera] = []
        self._worker: Worker | None = None
        self._given_up: list[Worker] = []
        self._wake = threading.Condition()
        self._ending = threading.Event()
        self._engine_statistics = EngineStatistics()
        self._diagnostics = None
        if self._values['publish_diagnostics']:
            self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
            # A paused or looping simulation clock must not stop or flood the diagnostics.
            self.create_timer(1.0, self._publish_diagnostics,
                              clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, '~/force_key_frame', self._on_force_key_frame)
        self.create_service(SetBool, '~/enable', self._on_enable)
        # What a simulation or a recording begins anew need not show in stamps that are zero.
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=True), post_callback=lambda jump: self._reset())

    def autostart(self) -> None:
        """Configure and activate, if the parameter says so; what fails is logged."""
        if self._values['autostart'] \
                and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network onto its device and create the publishers."""
        try:
            if self._problems:
                raise ValueError('; '.join(self._problems.values()))
            self._segmenter = SupervisedSegmenter(self._load_segmenter, self.get_logger(),
                                                  self.context.ok)
            self._apply()
            compressed = self._values['image_transport'] == 'compressed'
            for name in self._values['cameras']:
                self._cameras.append(
                    Camera(self, name, compressed, self._segmenter.labels, self._wake))
        except Exception as error:
            # Whatever it is, from a bad file to a missing driver, the user needs its text.
            self._free()
            return self._refuse('cannot be configured', error)
        self._problem = ''
        self._engine_statistics = EngineStatistics()
        self._state = 'inactive'
        self.get_logger().info(', '.join(f'{k}: {v}' for k, v in self._settings().items()))
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the images and start the worker."""
        assert self._segmenter is not None
        self._ending.clear()
        self._enabled = True
        try:
            # Deactivated while it was being made anew, the engine is missing.
            if not self._segmenter.running:
                self._segmenter.load()
                self._apply()
            self._segmenter.reset()
            for camera in self._cameras:
                camera.start()
            self._worker = Worker(self._cameras, self._wake, self._process)
        except Exception as error:
            self._stop()
            return self._refuse('cannot be activated', error)
        self._problem = ''
        self._state = 'active'
        topics = ', '.join(camera.statistics.topic for camera in self._cameras)
        self.get_logger().info(f'segmenting {topics}')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker and unsubscribe."""
        self._stop()
        self._state = 'inactive'
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network and take the publishers from the graph."""
        self._free()
        self._state, self._problem = 'unconfigured', ''
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free whatever is there."""
        self._free()
        self._state, self._problem = 'finalized', ''
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Put all away after a transition that raised, so that it can be configured again."""
        self._free()
        self._state, self._problem = 'unconfigured', 'a transition failed unexpectedly'
        return TransitionCallbackReturn.SUCCESS

    def _LifecycleNodeMixin__on_change_state(self, request: ChangeState.Request,  # noqa: N802
                                             response: ChangeState.Response,
                                             ) -> ChangeState.Response:
        """
        Refuse a transition that the present state does not have.

        Up to Jazzy rclpy's own handler, which this overrides, raises then: the caller would wait
        for ever.
        """
        try:
            return super()._LifecycleNodeMixin__on_change_state(  # type: ignore[misc]
                request, response)
        except Exception as error:
            self.get_logger().error(f'transition {request.transition.id} failed while '
                                    f'{self._state}: {error}')
            response.success = False
            return response

    def destroy_node(self) -> None:
        """Stop the worker before the node's topics go."""
        self._stop()
        super().destroy_node()

    def _refuse(self, what: str, error: Exception) -> TransitionCallbackReturn:
        """Fail a transition with a reason, in the log and in /diagnostics."""
        self._problem = f'{what}: {error}'
        self.get_logger().error(self._problem)
        return TransitionCallbackReturn.FAILURE

    def _load_segmenter(self) -> VideoSegmenter:
        values = self._values
        width, height = values['input_size']
        segmenter = VideoSegmenter.from_checkpoint(
            values['weights'], device=values['device'], precision=values['precision'],
            engine=values['engine'], shared_levels=values['shared_levels'] or None,
            input_size=(width, height) if width else None,
            full_size=values['mask_size'] == 'image')
        segmenter.warm_up()
        return segmenter

    def _stop(self) -> None:
        self._ending.set()
        # The image in work is waited for, but not for ever.
        for _ in range(LONGEST_PATIENCE):
            if self._worker is None or self._worker.stop(PATIENCE_S):
                self._worker = None
            elif not self.context.ok():
                break
        if self._worker is not None and self.context.ok():
            self.get_logger().error(GIVEN_UP)
            self._given_up.append(self._worker)
            self._worker = None
            if self._segmenter is not None:
                self._segmenter.give_up()
        for camera in self._cameras:
            camera.unsubscribe()

    def _free(self) -> None:
        self._stop()
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        if self._segmenter is not None:
            self._segmenter.close()
        self._segmenter = None

    @property
    def working(self) -> bool:
        """Whether a thread is busy with an engine: after the end, because that takes its time."""
        return self._worker is not None or LOADING.locked() \
            or not all(worker.stop(0.0) for worker in self._given_up)

    def _reset(self) -> None:
        """Make the next frame of every camera a key frame."""
        if self._segmenter is not None:
            self._segmenter.reset()

    def _process(self, camera: Camera, arrival: Arrival) -> None:
        """Segment one image and publish its mask; on the worker's thread. Never raises."""
        statistics = camera.statistics
        try:
            assert self._segmenter is not None
            header: Header = arrival.message.header
            frame = camera.decode(arrival.message)
            result = self._segmenter.segment(frame, camera.name, camera.time_of(arrival),
                                             self._values['publish_confidence'])
            camera.publish_mask(frame, result, header)
            latency, age = 1e3 * (time.monotonic() - arrival.time), self._age(header)
            camera.publish_overlay(frame, result, header, self._values['overlay_opacity'])
            statistics.processed(result, latency, age)
            self._engine_statistics.processed(result)
        except ImageError as error:
            if statistics.failed(str(error), engine=False):
                self.get_logger().warning(f'{statistics.topic}: image left out: {error}')
        except Exception as error:
            # A signal ends the context while an image is in work.
            if self.context.ok() and statistics.failed(str(error), engine=True):
                self.get_logger().error(
                    f'{statistics.topic}: image left out:\n{traceback.format_exc()}')
        # Only here is the traceback, which holds on to the engine's memory, gone.
        if self._segmenter is not None and self._segmenter.failing:
            self._segmenter.recover(self._ending)
            self._apply()

    def _age(self, header: Header) -> float | None:
        """Return the milliseconds since the stamp; None where either clock says nothing."""
        stamp = stamp_seconds(header.stamp.sec, header.stamp.nanosec)
        now = self.get_clock().now().nanoseconds
        if stamp is None or now == 0 or not 0 <= now * 1e-9 - stamp <= MAX_AGE_S:
            return None
        return 1e3 * (now * 1e-9 - stamp)

    def _on_parameters(self, changed: Sequence[Parameter]) -> SetParametersResult:
        """Refuse a bad set of parameters as a whole, or apply it from the next frame on."""
        result = parameters.validate(changed)
        if result.successful:
            for parameter in changed:
                if parameter.name in self._values:
                    self._values[parameter.name] = parameter.value
                    self._problems.pop(parameter.name, None)
            self._apply()
        return result

    def _apply(self) -> None:
        """Let the segmenter do what the live parameters say."""
        if self._segmenter is not None:
            self._segmenter.set_live(self._values['key_mode'], parameters.schedule(self._values))

    def _on_force_key_frame(self, request: Trigger.Request,
                            response: Trigger.Response) -> Trigger.Response:
        response.success = self._segmenter is not None
        self._reset()
        response.message = 'the next frame of every camera is a key frame' \
            if self._segmenter is not None else f'the node is {self._state}: no network is loaded'
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response,
                   ) -> SetBool.Response:
        """Unsubscribe from the images, or subscribe again and begin with key frames."""
        response.success = self._state == 'active'
        if not response.success:
            response.message = f'the node is {self._state}: activate it first'
            return response
        if request.data != self._enabled:
            self._enabled = request.data
            self._reset()
            for camera in self._cameras:
                if self._enabled:
                    camera.subscribe()
                else:
                    camera.unsubscribe()
        response.message = 'enabled' if self._enabled else 'disabled'
        return response

    def _settings(self) -> dict[str, str]:
        """Return what runs, for the log and for /diagnostics."""
        settings = {'checkpoint': self._values['weights']}
        if self._segmenter is not None:
            settings.update(self._segmenter.engine)
            for name, unit in (('key_interval', ''), ('max_key_age', ' (s)'), ('key_policy', ''),
                               ('change_threshold', ''), ('key_mode', '')):
                settings[name + unit] = f'{self._values[name]}'
            settings['engine restarts'] = str(self._segmenter.restarts)
        return settings

    def _idle(self) -> Idle | None:
        """Return level and message of the cameras while nothing is segmented on purpose."""
        if self._state == 'active' and not self._enabled:
            return DiagnosticStatus.OK, 'disabled by the service enable'
        if self._state != 'active':
            return DiagnosticStatus.OK, self._state
        segmenter = self._segmenter
        if segmenter is not None and not segmenter.running:
            return DiagnosticStatus.ERROR, 'the engine failed and is being made anew'
        preparing = segmenter.preparing if segmenter is not None else None
        if preparing is not None:
            size, since = preparing
            if PREPARING_S[0] < time.monotonic() - since < PREPARING_S[1]:
                return (DiagnosticStatus.WARN, f'the engine prepares itself for images of {size}, '
                        f'since it has had none of that size')
        return None

    def _publish_diagnostics(self) -> None:
        assert self._diagnostics is not None
        node = self.get_fully_qualified_name().lstrip('/')
        segmenter, state = self._segmenter, self._state
        hardware = segmenter.engine['device'] if segmenter else 'none'
        problem = self._problem or (segmenter.problem if segmenter else '')
        if state == 'active' and not self._enabled:
            state = 'active, disabled'
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status.append(self._engine_statistics.status(
            f'{node}: engine', hardware, problem, segmenter.fallback if segmenter else '',
            state, self._settings()))
        for camera in self._cameras:
            array.status.append(camera.statistics.status(
                f'{node}: {camera.name or "camera"}', hardware, camera.publishers,
                camera.mismatch() if camera.statistics.quiet else '', self._idle()))
        self._diagnostics.publish(array)


def _spin(executor: SingleThreadedExecutor, node: SegmentationNode) -> None:
    """Spin until the end, or until a callback raises what nobody foresaw: that is logged."""
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        raise
    except Exception:
        if rclpy.ok():
            node.get_logger().error(f'a callback failed:\n{traceback.format_exc()}')
            # Should it be the waiting itself that fails: not at full speed.
            time.sleep(0.1)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop; SIGINT and SIGTERM are the usual ways."""
    keep_freed_blocks()
    rclpy.init(args=args)
    node = None
    try:
        # First, because its destructor complains where a signal ended the context before it.
        executor = SingleThreadedExecutor()
        node = SegmentationNode()
        node.autostart()
        executor.add_node(node)
        while rclpy.ok():
            _spin(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # A signal ends the context under whatever is just being created.
        if rclpy.ok():
            raise
    finally:
        try:
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()
        except KeyboardInterrupt:
            # A second Ctrl-C while all is being put away.
            pass
    if node is not None and node.working:
        # An interpreter that is put away under a running engine may crash.
        sys.stdout.flush()
        os._exit(0)
    return 0


if __name__ == '__main__':
    sys.exit(main())
