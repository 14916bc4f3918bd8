"""How a network runs on video: schedule, engines, and the segmenter that joins them."""
