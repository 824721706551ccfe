"""What several models share: readers of data sets, masks, videos and weight files, reader
processes, the DAVIS metrics. Nothing here knows a model."""
