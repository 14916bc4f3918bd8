"""A network as ONNX models: making, caching, exporting them."""
