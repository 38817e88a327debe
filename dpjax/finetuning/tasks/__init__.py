"""What the tasks of a run differ in."""
