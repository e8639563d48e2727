"""From a source of recordings to a prepared set: decoded once, read by index.

A prepared set is a TFDS data set in ArrayRecord files. Beside TFDS's own files its folder has
`clips.npz` (ids, classes and lengths of all clips, so that nothing need be read to sample) and
`skipped.csv` (the clips that could not be had).
"""
