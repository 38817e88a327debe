"""`fit`: its checks, its run and its report."""
