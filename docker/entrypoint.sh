#!/bin/sh
# Set up ROS 2 and this workspace, then become the given command, which so gets the signals.
set -e
. "${WORKSPACE:-/ws}/install/setup.sh"
exec "$@"
