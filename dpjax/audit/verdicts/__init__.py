"""What an audit concludes, and whether it could have concluded anything else."""
