"""What an unlearning does one after the other: the baseline, the steps, the measures."""
