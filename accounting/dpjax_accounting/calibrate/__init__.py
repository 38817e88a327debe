"""The noise, the number of steps or the batch size that a target ε allows."""
