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
"""The `featshare` command: what can be done without ROS."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from featshare_core.arguments import add_common
from featshare_core.doctor.command import add_doctor_command
from featshare_core.evaluation.command import add_evaluation_commands
from featshare_core.export_command import add_export_command
from featshare_core.inference.memory import keep_freed_blocks
from featshare_core.networks.command import add_convert_command
from featshare_core.packages import explain
from featshare_core.segment_command import add_segment_command
from featshare_core.training.command import add_train_command
from featshare_core.weights_command import add_weights_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser('featshare', description=__doc__)
    add_common(parser)
    commands = parser.add_subparsers(required=True)
    add_segment_command(commands)
    add_train_command(commands)
    add_convert_command(commands)
    add_export_command(commands)
    add_evaluation_commands(commands)
    add_doctor_command(commands)
    add_weights_commands(commands)
    options = parser.parse_args(arguments)
    if arguments is None:  # otherwise the process is another program's
        keep_freed_blocks()
    try:
        options.run(options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f'featshare: {explain(error)}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
