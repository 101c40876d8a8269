"""Changes of profiles against their evidence: a figure changes with a measurement, or its source is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ipa.model.profile import StageProfile, VariantProfile


def unmeasured(
    before: Mapping[str, StageProfile], after: Mapping[str, StageProfile]
) -> Iterator[tuple[str, str]]:
    """The stages whose figures changed though the profile names no other measurement, each with its words.

    A measurement is known by its day, method, source, hardware and load. New stages and variants have none to
    compare with.
    """
    for stage, new in after.items():
        old = before.get(stage)
        if old is None:
            continue
        earlier = {each.variant: each for each in old.variants}
        changes = [
            f"{each.variant}: {', '.join(words)}"
            for each in new.variants
            if each.variant in earlier and (words := list(_changes(earlier[each.variant], each)))
        ]
        if not changes:
            continue
        if _measurement(old) == _measurement(new):
            yield (
                stage,
                f"{stage}/{'; '.join(changes)} without a new measurement, since {old.measured_on}; measure "
                "it with `ipa profile`, or name the new one in measured_on, method or source",
            )
        elif new.measured_on < old.measured_on:
            yield (
                stage,
                f"{stage}/{'; '.join(changes)} by an older measurement, of {new.measured_on} instead of "
                f"{old.measured_on}",
            )


def _measurement(profile: StageProfile) -> tuple[object, ...]:
    return profile.measured_on, profile.method, profile.source, profile.hardware, profile.load_rps


def _changes(before: VariantProfile, after: VariantProfile) -> Iterator[str]:
    """The figures that differ, in words."""
    if before.accuracy != after.accuracy:
        yield f"accuracy {before.accuracy:g} → {after.accuracy:g}"
    old, new = ({(it.cores, it.batch_size): it for it in each.points} for each in (before, after))
    moved = sum(old[place] != new[place] for place in old.keys() & new.keys())
    if moved:
        yield f"{moved} of {len(old)} points"
    if new.keys() - old.keys():
        yield f"{len(new.keys() - old.keys())} points added"
    if old.keys() - new.keys():
        yield f"{len(old.keys() - new.keys())} points removed"
    for name in ("readiness_s", "memory_gib"):
        less, more = getattr(before, name), getattr(after, name)
        if less != more:
            yield f"{name.removesuffix('_s').removesuffix('_gib')} {less} → {more}"
