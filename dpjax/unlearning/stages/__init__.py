"""What an unlearning does one after the other, and the folder that a stopped one goes on from."""
