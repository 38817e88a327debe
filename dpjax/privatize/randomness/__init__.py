"""What is drawn at random: who takes part in a step, the noise, and the secret key of both."""
