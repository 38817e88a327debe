"""JAX's programs: the only code that knows their layout."""
