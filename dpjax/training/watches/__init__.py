"""What looks at the steps of a run and says that something is wrong."""
