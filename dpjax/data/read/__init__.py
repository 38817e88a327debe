"""Files and data sets, read into columns of values."""
