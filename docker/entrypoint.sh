#!/bin/sh
# Set up ROS 2 and this workspace, then exec the command, so that it receives the signals.
set -e
. "${WORKSPACE:-/ws}/install/setup.sh"
exec "$@"
