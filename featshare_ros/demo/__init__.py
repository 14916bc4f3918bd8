"""The demo: a recording, replayed through the node over ROS 2."""
