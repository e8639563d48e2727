"""The choice of held-out clips: shares by class, whole groups, and few changes."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ast_jax.data.sources.holdout import hold_out_by_hash, hold_out_stratified

SHARES = st.floats(0.01, 0.99)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), SHARES)
def test_each_class_has_its_share_and_a_clip_on_both_sides(classes, share):
    names = [f"{label}/{i}.wav" for i, label in enumerate(classes)]
    labels = [(label,) for label in classes]
    held = hold_out_stratified(labels, names, share)
    totals, counts = Counter(classes), Counter(classes[i] for i in held)
    for label, total in totals.items():
        if total == 1:
            assert counts[label] == 0
        else:
            assert 1 <= counts[label] < total
            assert abs(counts[label] - share * total) <= 1
    by_hash = hold_out_by_hash(labels, names, share)
    assert {classes[i] for i in by_hash} == {label for label, n in totals.items() if n > 1}


@given(st.integers(2, 60), SHARES)
def test_a_new_clip_moves_at_most_one_other(count, share):
    names = [f"a/{i}.wav" for i in range(count + 1)]
    before = hold_out_stratified([(0,)] * count, names[:-1], share)
    after = hold_out_stratified([(0,)] * (count + 1), names, share)
    assert len((before ^ after) - {count}) <= 1


@given(
    st.lists(
        st.tuples(st.frozensets(st.integers(0, 3), min_size=1, max_size=3), st.integers(0, 15)),
        min_size=1,
        max_size=80,
    ),
    SHARES,
)
def test_groups_stay_together_and_each_class_is_trained_on(clips, share):
    labels = [tuple(sorted(classes)) for classes, _ in clips]
    groups = [f"recording {group}" for _, group in clips]
    held = hold_out_stratified(labels, groups, share)
    assert not {groups[i] for i in held} & {groups[i] for i in range(len(clips)) if i not in held}
    trained = {label for i, each in enumerate(labels) if i not in held for label in each}
    assert trained == {label for each in labels for label in each}


def test_a_large_group_is_not_held_out_where_smaller_ones_are_closer():
    groups = ["long"] * 50 + [f"short {i}" for i in range(10)]
    held = hold_out_stratified([(0,)] * 60, groups, 0.1)
    assert len(held) == 6
    assert 0 not in held


def test_the_choice_does_not_depend_on_the_order():
    names = [f"{i % 3}/{i}.wav" for i in range(40)]
    labels = [(i % 3,) for i in range(40)]
    held = {names[i] for i in hold_out_stratified(labels, names, 0.2)}
    names, labels = names[::-1], labels[::-1]
    assert {names[i] for i in hold_out_stratified(labels, names, 0.2)} == held
