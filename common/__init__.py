"""What several models share: readers of the data sets, indexed masks, the DAVIS metrics. Nothing
else."""
