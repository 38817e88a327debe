"""The steps: sampled, clipped, noised, applied, and interrupted."""
