"""Data sets: listing, decoding, order and batches."""
