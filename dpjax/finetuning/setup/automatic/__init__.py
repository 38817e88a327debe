"""What is left to dpjax, decided by the device and the shape of the model."""
