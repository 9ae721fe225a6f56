"""Lightning callbacks and loggers: EMA, previews, plots, Weights & Biases, writing of predictions."""
