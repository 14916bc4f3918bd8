"""segmentation_models_pytorch, divided into a shallow and a deep half."""
