"""What a network learns from and is tested on."""

KINDS = ('camvid', 'cityscapes', 'folder')
"""Names of the supported data set layouts."""
