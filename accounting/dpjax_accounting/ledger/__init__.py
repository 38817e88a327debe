"""All runs on one data set, in a file that shows tampering."""
