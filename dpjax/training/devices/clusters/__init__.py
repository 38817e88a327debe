"""Several processes of a cluster: which there are, and the call that makes them one run."""
