"""The Audio Spectrogram Transformer: log-mel in, logits out."""
