"""`ast-jax prepare`: decodes a data set once, for training."""

import argparse
import os

from ast_jax.cli.command import complain, non_negative, positive
from ast_jax.data.sources import SOURCES
from ast_jax.storage import check_local


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `ast-jax prepare`."""
    cores = os.cpu_count() or 1
    parser.add_argument("name", choices=list(SOURCES), help="the kind of source")
    parser.add_argument("--source", required=True, metavar="PATH", help="its folder or file")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for prepared sets, as DIR/NAME"
    )
    parser.add_argument("--classes", metavar="CSV", help="class list of a json or csv manifest")
    parser.add_argument(
        "--sampling-rate", type=positive, default=16000, metavar="HZ", help="of the set (16000)"
    )
    parser.add_argument(
        "--processes", type=positive, default=cores, metavar="N", help=f"that decode ({cores})"
    )
    parser.add_argument(
        "--max-damaged",
        type=non_negative,
        default=0,
        metavar="N",
        help="number of unreadable sound files to leave out (0)",
    )
    parser.add_argument(
        "--beam-runner", default="", metavar="RUNNER", help="write with Apache Beam"
    )
    parser.add_argument(
        "--beam-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="for Beam, such as --beam-option=--project=mine; may be repeated",
    )
    parser.set_defaults(run=run, subject=lambda arguments: arguments.output)


def run(arguments: argparse.Namespace) -> None:
    """Prepares a set and prints its contents."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from ast_jax.data.prepare.run_builder import prepare
    from ast_jax.data.prepared import classes_without_clips

    check_local(arguments.output)
    try:
        prepared = prepare(
            arguments.name,
            arguments.source,
            arguments.output,
            classes=arguments.classes,
            sampling_rate=arguments.sampling_rate,
            processes=arguments.processes,
            max_damaged=arguments.max_damaged,
            beam_runner=arguments.beam_runner,
            beam_options=arguments.beam_option,
        )
    except KeyboardInterrupt:
        if not arguments.beam_runner:  # a run with Beam does not resume
            complain(
                "ast-jax", f"stopped; run the same command again to resume in {arguments.output}"
            )
        raise
    for split, clips in prepared.splits.items():
        print(f"{split}: {clips} clips")
    for what, lines in (("missing", prepared.missing), ("unreadable", prepared.damaged)):
        if lines:
            print(f"{len(lines)} clips {what}, listed in skipped.csv, such as {lines[0]}")
    empty = classes_without_clips(prepared.folder)
    if empty:
        print(f"note: no clip of {', '.join(empty[:5])}" + (" and others" * (len(empty) > 5)))
    print(f"wrote {prepared.folder}, of digest {prepared.digest}")
