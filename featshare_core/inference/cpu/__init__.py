"""Engines whose images and masks stay in host memory."""
