"""The ROS 2 side of feature-sharing segmentation: a thin layer over featshare_core."""
