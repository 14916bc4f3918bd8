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
"""
What differs between distributions: Humble, for which there are no wheels, and the document's list.

The names and signatures are those of rclpy 3.3, Humble's.
"""
from __future__ import annotations

import ast
from collections.abc import Iterator
import importlib.util
import inspect
from pathlib import Path
import re
import sys
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (*(ROOT / 'featshare_ros').rglob('*.py'),
                                 *(ROOT / 'launch').glob('*.launch.py')))

NAMES = {
    'rclpy': ('init', 'create_node', 'try_shutdown'),
    'rclpy.clock': ('Clock', 'ClockType', 'JumpThreshold'),
    'rclpy.duration': ('Duration',),
    'rclpy.exceptions': ('InvalidParameterTypeException', 'InvalidParameterValueException'),
    'rclpy.executors': ('SingleThreadedExecutor',),
    'rclpy.lifecycle': ('LifecycleNode', 'LifecycleState', 'TransitionCallbackReturn'),
    'rclpy.node': ('Node', 'NodeNameNonExistentError'),
    'rclpy.parameter': ('Parameter',),
    'rclpy.publisher': ('Publisher',),
    'rclpy.qos': ('DurabilityPolicy', 'HistoryPolicy', 'QoSCompatibility', 'QoSProfile',
                  'ReliabilityPolicy', 'qos_check_compatible', 'qos_profile_sensor_data'),
    'rclpy.qos_event': ('SubscriptionEventCallbacks', 'UnsupportedEventTypeError'),
    'rclpy.qos_overriding_options': ('QoSOverridingOptions',),
    'rclpy.signals': ('SignalHandlerOptions',)}
"""What rclpy 3.3 has of that which the package imports, by module."""


class Node:
    """Methods of rclpy 3.3's nodes."""

    context: object

    def add_on_set_parameters_callback(self, callback): ...
    def count_publishers(self, topic_name): ...
    def create_client(self, srv_type, srv_name, *, qos_profile=None, callback_group=None): ...

    def create_publisher(self, msg_type, topic, qos_profile, *, callback_group=None,
                         event_callbacks=None, qos_overriding_options=None,
                         publisher_class=None): ...

    def create_service(self, srv_type, srv_name, callback, *, qos_profile=None,
                       callback_group=None): ...

    def create_subscription(self, msg_type, topic, callback, qos_profile, *, callback_group=None,
                            event_callbacks=None, qos_overriding_options=None, raw=False): ...

    def create_timer(self, timer_period_sec, callback, callback_group=None, clock=None): ...
    def declare_parameter(self, name, value=None, descriptor=None, ignore_override=False): ...
    def destroy_node(self): ...
    def destroy_publisher(self, publisher): ...
    def destroy_subscription(self, subscription): ...
    def get_clock(self): ...
    def get_fully_qualified_name(self): ...
    def get_logger(self): ...
    def get_parameter(self, name): ...
    def get_publishers_info_by_topic(self, topic_name, no_mangle=False): ...
    def get_subscriber_names_and_types_by_node(self, node_name, node_namespace,
                                               no_demangle=False): ...

    def has_parameter(self, name): ...
    def resolve_topic_name(self, topic, *, only_expand=False): ...
    def set_parameters_atomically(self, parameter_list): ...
    def trigger_activate(self): ...
    def trigger_configure(self): ...
    def undeclare_parameter(self, name): ...


class Others:
    """Functions and constructors of rclpy 3.3 that are called with options."""

    def Clock(self, *, clock_type=None): ...  # noqa: N802
    def Duration(self, *, seconds=0, nanoseconds=0): ...  # noqa: N802

    def JumpThreshold(self, *, min_forward, min_backward,  # noqa: N802
                      on_clock_change=True): ...

    def QoSProfile(self, *, history=None, depth=None, reliability=None,  # noqa: N802
                   durability=None, lifespan=None, deadline=None, liveliness=None,
                   liveliness_lease_duration=None,
                   avoid_ros_namespace_conventions=None): ...

    def SubscriptionEventCallbacks(self, *, deadline=None, incompatible_qos=None,  # noqa: N802
                                   liveliness=None, message_lost=None,
                                   use_default_callbacks=True): ...

    def create_jump_callback(self, threshold, *, pre_callback=None, post_callback=None): ...
    def create_task(self, callback, *args, **kwargs): ...
    def get_subscription_count(self): ...
    def init(self, *, args=None, context=None, domain_id=None, signal_handler_options=None): ...
    def qos_check_compatible(self, publisher_qos, subscription_qos): ...
    def spin_once(self, timeout_sec=None): ...
    def with_default_policies(self, *, callback=None, entity_id=None): ...


def problems(source: str) -> list[str]:
    """Return the uses of rclpy in a file that rclpy 3.3 does not have."""
    tree = ast.parse(source)
    answered = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try)
                and any('ImportError' in ast.dump(handler.type or node)
                        for handler in node.handlers)
                for statement in node.body for inner in ast.walk(statement)}
    found = []
    for node in ast.walk(tree):
        if id(node) in answered:
            continue
        if isinstance(node, ast.ImportFrom) and str(node.module).partition('.')[0] == 'rclpy':
            found += [f'{node.module}.{alias.name}' for alias in node.names
                      if alias.name not in NAMES.get(str(node.module), ())]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == 'rclpy' and node.attr not in NAMES['rclpy']:
                found.append(f'rclpy.{node.attr}')
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == 'self._node' \
                and not hasattr(Node, node.attr) and node.attr not in Node.__annotations__:
            found.append(f'self._node.{node.attr}')
        elif isinstance(node, ast.Call):
            found += does_not_fit(node)
    return found


def does_not_fit(call: ast.Call) -> Iterator[str]:
    """Yield a call whose arguments a function of rclpy 3.3 does not take."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, 'id', '')
    if name == 'init' and ast.unparse(call.func) != 'rclpy.init':
        return
    function = vars(Node).get(name) or vars(Others).get(name)
    if not inspect.isfunction(function) or any(isinstance(a, ast.Starred) for a in call.args) \
            or any(keyword.arg is None for keyword in call.keywords):
        return
    try:
        inspect.signature(function).bind(None, *call.args,
                                         **{str(k.arg): k.value for k in call.keywords})
    except TypeError as error:
        yield f'{ast.unparse(call)}: {error}'


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rclpy_is_used_as_humble_has_it(path: Path) -> None:
    assert problems(path.read_text()) == []


@pytest.mark.parametrize(('source', 'found'), [
    ('from rclpy.event_handler import UnsupportedEventTypeError', 'rclpy.event_handler.'),
    ('from rclpy.qos import EndpointInfo', 'rclpy.qos.EndpointInfo'),
    ('rclpy.spin_until_complete()', 'rclpy.spin_until_complete'),
    ('self._node.wait_for_node("x", 1)', 'self._node.wait_for_node'),
    ('node.create_timer(1.0, f, autostart=False)', "unexpected keyword argument 'autostart'"),
    ('node.create_subscription(A, "b", c, d, None)', 'too many positional arguments'),
    ('QoSProfile(10)', 'too many positional arguments'),
    ('try:\n    from rclpy.event_handler import A\nexcept ImportError:\n    pass', '')])
def test_what_humble_lacks_is_found(source: str, found: str) -> None:
    assert found in ''.join(problems(source))
    assert bool(problems(source)) == bool(found)


def test_the_node_uses_what_humble_has_of_its_base_class() -> None:
    tree = ast.parse((ROOT / 'featshare_ros' / 'node.py').read_text())
    node, = (each for each in tree.body if isinstance(each, ast.ClassDef))
    used, own = set(), {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and ast.unparse(each.value) == 'self':
            (own if isinstance(each.ctx, ast.Store) else used).add(each.attr)
    inherited = used - own
    assert {'create_timer', 'get_logger', 'context'} <= inherited
    assert {name for name in inherited
            if not hasattr(Node, name) and name not in Node.__annotations__} == set()


def test_the_events_of_subscriptions_are_found_where_humble_has_them(
        monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('rclpy')
    importlib.import_module('featshare_ros.camera')  # and what it needs of rclpy, as it is here
    module = ModuleType('rclpy.qos_event')
    vars(module).update({name: type(name, (), {}) for name in NAMES['rclpy.qos_event']})
    monkeypatch.setitem(sys.modules, 'rclpy.event_handler', None)  # importing it is an error
    monkeypatch.setitem(sys.modules, 'rclpy.qos_event', module)
    spec = importlib.util.spec_from_file_location('camera', ROOT / 'featshare_ros' / 'camera.py')
    assert spec is not None
    assert spec.loader is not None
    camera = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(camera)
    for name in NAMES['rclpy.qos_event']:
        assert getattr(camera, name) is getattr(module, name)


def test_the_code_that_answers_each_difference_is_where_the_document_says() -> None:
    text = (ROOT / 'docs' / 'develop' / 'distributions.md').read_text()
    rows = re.findall(r'^\| .* \| `([\w/.]+)` \| `(.*)` \|$', text, re.MULTILINE)
    assert len(rows) > 10
    for file, code in rows:
        assert code in (ROOT / file).read_text(), (file, code)
    # Each place that mentions Humble is in the list.
    listed = {file for file, _ in rows}
    assert {str(path.relative_to(ROOT)) for path in FILES
            if 'Humble' in path.read_text()} <= listed | {'featshare_ros/recordings/bag.py'}


def test_what_numpy_1_21_cannot_evaluate_is_not_evaluated() -> None:
    # Ubuntu 22.04's. An alias of np.floating[Any] ended the import of the rendered street.
    files = [*(ROOT / 'featshare_core').rglob('*.py'), *(ROOT / 'featshare_ros').rglob('*.py')]
    evaluated = [f'{path.name}: {ast.unparse(statement)}' for path in files
                 for statement in ast.parse(path.read_text()).body
                 if isinstance(statement, ast.Assign) for node in ast.walk(statement.value)
                 if isinstance(node, ast.Subscript)
                 and ast.unparse(node.value) in ('np.floating', 'np.integer', 'np.number')]
    assert evaluated == []
