"""What is written of an unlearning: the promise of the run, and the page."""
