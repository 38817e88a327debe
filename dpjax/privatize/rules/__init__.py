"""To what norm a gradient is clipped, and whose gradient it is."""
