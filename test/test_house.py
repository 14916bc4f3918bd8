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
"""The rooms of the code: which may import which, and how long a file may be."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 400
"""Limit of a Python file, in lines."""

CORE, ROS = 'featshare_core', 'featshare_ros'
NETWORKS, INFERENCE = f'{CORE}.networks', f'{CORE}.inference'
TRAINING, EVALUATION = f'{CORE}.training', f'{CORE}.evaluation'
MESSAGES = ('sensor_msgs', 'std_msgs', 'std_srvs', 'diagnostic_msgs', 'lifecycle_msgs',
            'rcl_interfaces', 'rosgraph_msgs', 'vision_msgs')

FORBIDDEN = {
    CORE: (ROS, 'rclpy', 'rosbags', *MESSAGES),
    f'{CORE}.yaml_text': (CORE,),
    f'{CORE}.labels': (NETWORKS, INFERENCE, TRAINING, EVALUATION, f'{CORE}.data',
                       f'{CORE}.overlay', f'{CORE}.cli'),
    NETWORKS: (INFERENCE, TRAINING, EVALUATION, f'{CORE}.data', f'{CORE}.cli'),
    INFERENCE: (TRAINING, EVALUATION, f'{CORE}.data'),
    f'{INFERENCE}.cpu': (f'{INFERENCE}.cuda', f'{INFERENCE}.engines', f'{INFERENCE}.segmenter'),
    f'{INFERENCE}.cuda': (f'{INFERENCE}.cpu', f'{INFERENCE}.engines', f'{INFERENCE}.segmenter'),
    f'{ROS}.recordings': ('rclpy', f'{ROS}.demo', f'{ROS}.node', f'{ROS}.main', *MESSAGES),
}
"""What no module of a package (left) imports, at module level or in a function."""


def modules() -> dict[str, Path]:
    """Return every module of the two packages by its dotted name."""
    found = {}
    for package in (CORE, ROS):
        for path in (ROOT / package).rglob('*.py'):
            parts = path.relative_to(ROOT).with_suffix('').parts
            found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f'{package}.')


def statements(tree: ast.AST, deferred: bool) -> Iterator[ast.stmt]:
    """Yield import statements; those in functions and for type checkers only if `deferred`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not deferred and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        elif not deferred and isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test):
            yield from (inner for part in node.orelse for inner in statements(part, deferred))
        else:
            yield from statements(node, deferred)


def imports(source: str, deferred: bool) -> set[str]:
    """Return the dotted names that a file imports; `from a import b` gives a and a.b."""
    names = set()
    for node in statements(ast.parse(source), deferred):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'a relative import: {ast.unparse(node)}'
            names.add(str(node.module))
            names.update(f'{node.module}.{alias.name}' for alias in node.names)
    return names


def graph(deferred: bool) -> dict[str, set[str]]:
    """Return which module imports which, other packages' names included."""
    return {name: imports(path.read_text(), deferred) for name, path in modules().items()}


def broken_rules(imported: dict[str, set[str]]) -> list[str]:
    return sorted(f'{module} imports {name}' for package, forbidden in FORBIDDEN.items()
                  for module, names in imported.items() if within(module, package)
                  for name in names if any(within(name, f) for f in forbidden))


def cycle(imported: dict[str, set[str]]) -> list[str]:
    """Return the modules of a circle of imports, or nothing."""
    try:
        TopologicalSorter({module: (names & imported.keys()) - {module}
                           for module, names in imported.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def room(module: str) -> str:
    """Return the folder below a package in which a module stands, or the module's own name."""
    return '.'.join(module.split('.')[:2])


def rooms(imported: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return which room imports which; the files beside the folders count by themselves."""
    result: dict[str, set[str]] = {room(module): set() for module in imported}
    for module, names in imported.items():
        result[room(module)] |= {room(name) for name in names & imported.keys()}
    return result


def test_imports_point_one_way() -> None:
    assert not broken_rules(graph(deferred=True))


def test_modules_import_each_other_in_no_circle() -> None:
    assert not cycle(graph(deferred=False))


def test_rooms_import_each_other_in_no_circle() -> None:
    assert not cycle(rooms(graph(deferred=False)))


@pytest.mark.parametrize(('module', 'line', 'broken'), [
    ('featshare_core.labels', 'import featshare_core.overlay', True),
    ('featshare_core.labels', 'import numpy', False),
    ('featshare_core.networks.fpn', 'from featshare_core.inference import engine', True),
    ('featshare_core.networks.fpn', 'from featshare_core.labels import LabelSet', False),
    ('featshare_core.inference.engine', 'def f():\n    import featshare_core.training.run', True),
    ('featshare_core.inference.cpu.masks', 'from featshare_core.inference import cuda', True),
    ('featshare_core.inference.cuda.plan', 'import featshare_core.inference.cpu.masks', True),
    ('featshare_core.inference.cuda.plan', 'import featshare_core.inference.pixels', False),
    ('featshare_core.overlay', 'from rosbags.rosbag2 import Reader', True),
    ('featshare_ros.recordings.bag', 'import rclpy.node', True),
    ('featshare_ros.camera', 'import rclpy.node', False)])
def test_an_arrow_that_points_the_wrong_way_is_found(module: str, line: str,
                                                     broken: bool) -> None:
    assert bool(broken_rules({module: imports(line, deferred=True)})) == broken


def test_a_circle_is_found_and_what_is_imported_later_makes_none() -> None:
    sources = {'a': 'import b', 'b': 'from c import d', 'c': 'if x:\n    import a'}
    assert cycle({name: imports(text, deferred=False) for name, text in sources.items()})
    for later in ('def f():\n    import a', 'if TYPE_CHECKING:\n    import a', 'import a.x'):
        sources['c'] = later
        assert not cycle({name: imports(text, deferred=False) for name, text in sources.items()})


def length(path: Path) -> int:
    """Return the number of lines of a file below the statement of its licence."""
    return len(path.read_text().rpartition('# limitations under the License.\n')[2].splitlines())


def test_no_file_is_longer_than_a_room() -> None:
    folders = (CORE, ROS, 'launch', 'test', 'benchmarks', 'scripts')
    lengths = {str(path.relative_to(ROOT)): length(path)
               for folder in folders for path in sorted((ROOT / folder).rglob('*.py'))}
    assert len(lengths) > 100
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}
