"""Several folders with adapters made into one."""
