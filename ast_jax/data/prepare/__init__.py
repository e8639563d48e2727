"""Writes prepared sets: recordings decoded once, for random access by index.

A prepared set is a TFDS data set in ArrayRecord files. In addition to TFDS's files its folder has
`clips.npz` (ids, classes and lengths of all clips, for sampling without reading records) and
`skipped.csv` (missing and damaged clips).
"""
