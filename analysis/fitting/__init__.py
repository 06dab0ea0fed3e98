"""One fitter: all starts and all replicates solved together as one batched problem."""
