"""The run's folder: history, results, logs, progress bar and plots."""
