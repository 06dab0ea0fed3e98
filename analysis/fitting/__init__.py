"""The fitter: all starts and all replicates are solved together as one batched problem."""
