"""LoRA in the tangent space of its update: which gradients are taken, and how a step is made."""
