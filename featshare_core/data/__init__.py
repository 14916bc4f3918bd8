"""Data sets for training and for scoring."""

KINDS = ('camvid', 'cityscapes', 'folder', 'traffic')
"""Names of the supported data set layouts."""
