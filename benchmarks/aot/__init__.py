"""Programs of a training step, compiled for TPUs that are not there."""
