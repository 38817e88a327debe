"""What is left to dpjax, decided by the memory of the device."""
