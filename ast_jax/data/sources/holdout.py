"""Chooses the clips to hold out, by hashes of names, so that the choice repeats anywhere."""

import math
import zlib
from collections import Counter
from collections.abc import Sequence


def name_hash(name: str) -> float:
    """Returns a pseudorandom number in [0, 1) that depends on the name alone."""
    return zlib.crc32(name.encode()) / 2**32


def hold_out_stratified(
    labels: Sequence[tuple[int, ...]], groups: Sequence[str], share: float
) -> set[int]:
    """Returns the indices of the clips to hold out: the same share of each class, in whole groups.

    Of each class, the groups with the lowest hashes are taken while that brings the number of
    clips closer to `share`, at least one clip and at most all but one. Where each clip is a group
    of its own, a new clip of a class moves at most one other clip. A class in a single group is
    not held out.

    Args:
        labels: the classes of each clip.
        groups: the group of each clip; a group may have clips of several classes.
        share: of the clips of a class to hold out, between 0 and 1.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    counts = {
        group: Counter(label for i in clips for label in labels[i])
        for group, clips in members.items()
    }
    groups_by_class: dict[int, list[str]] = {}
    for group in sorted(members, key=lambda name: (name_hash(name), name)):
        for label in counts[group]:
            groups_by_class.setdefault(label, []).append(group)
    totals = Counter(label for each in labels for label in each)
    held_out_groups: set[str] = set()
    num_held_out: Counter[int] = Counter()

    def can_hold_out(group: str) -> bool:
        leaves_some = all(
            num_held_out[label] + n < totals[label] for label, n in counts[group].items()
        )
        return group not in held_out_groups and leaves_some

    def hold_out(group: str) -> None:
        held_out_groups.add(group)
        num_held_out.update(counts[group])

    # Classes with few groups have the least choice.
    for label in sorted(groups_by_class, key=lambda label: (len(groups_by_class[label]), label)):
        wanted = math.floor(share * totals[label] + 0.5)
        wanted = min(max(wanted, 1), totals[label] - 1)
        for group in groups_by_class[label]:
            if num_held_out[label] >= wanted:
                break
            after = num_held_out[label] + counts[group][label]
            if abs(after - wanted) < wanted - num_held_out[label] and can_hold_out(group):
                hold_out(group)
        if not num_held_out[label]:
            possible = filter(can_hold_out, groups_by_class[label])
            if smallest := min(possible, key=lambda group: counts[group][label], default=None):
                hold_out(smallest)
    return {i for group in held_out_groups for i in members[group]}


def hold_out_by_hash(
    labels: Sequence[tuple[int, ...]], names: Sequence[str], share: float
) -> set[int]:
    """Returns the indices of the clips to hold out: those with a hash below `share`.

    A clip's side does not depend on other clips, unless that leaves a class without a clip on one
    side: then the clip with the lowest hash is held out, or that with the highest is not.

    Args:
        labels: the class of each clip.
        names: of the clips.
        share: of the clips to hold out, on average, between 0 and 1.
    """
    clips_by_class: dict[tuple[int, ...], list[int]] = {}
    for i in sorted(range(len(names)), key=lambda i: name_hash(names[i])):
        clips_by_class.setdefault(labels[i], []).append(i)
    held_out: set[int] = set()
    for clips in clips_by_class.values():
        count = sum(name_hash(names[i]) < share for i in clips)
        held_out.update(clips[: min(max(count, 1), len(clips) - 1)])
    return held_out
