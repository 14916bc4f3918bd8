"""Recordings (rosbag2, video) in and out, without DDS."""
