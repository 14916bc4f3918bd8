"""Video segmentation that shares deep features between frames: the library, free of ROS."""
