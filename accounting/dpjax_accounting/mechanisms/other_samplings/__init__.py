"""DP-SGD by other trainers: batches that are not drawn by plain Poisson sampling."""
