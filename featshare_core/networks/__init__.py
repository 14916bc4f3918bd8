"""What is computed: segmentation networks cut into low, high and decode."""
