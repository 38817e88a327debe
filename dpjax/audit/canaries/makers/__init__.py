"""Ways to make canaries, one file for each kind."""
