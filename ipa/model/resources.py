"""Resources: cores, memory and accelerators as one value, and their prices.

`DIMENSIONS` is the one list of the resources that every container has. Accelerators are counted by kind: the
name of a Kubernetes extended resource, such as `nvidia.com/gpu` or `nvidia.com/mig-1g.5gb`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import add, attrgetter, sub

# Sums are sums of fractions such as 0.1.
ROUNDING = 1e-9
CORES = "cores"


@dataclass(frozen=True, slots=True)
class Dimension:
    """A resource that every container has.

    `name` is its key in files and the name of its limit, `attribute` the name of its field, `words` its unit
    in a sentence, `resource` its name in Kubernetes.
    """

    name: str
    attribute: str
    words: str
    resource: str

    @property
    def unit(self) -> str:
        """The unit alone."""
        return self.words.partition(" ")[0]

    @property
    def heading(self) -> str:
        """The name with its unit, such as "memory GiB", if they differ."""
        return self.name if self.unit == self.name else f"{self.name} {self.unit}"


DIMENSIONS = (
    Dimension(CORES, "cpu_cores", "cores", "cpu"),
    Dimension("memory", "memory_gib", "GiB of memory", "memory"),
)
# The dimensions that follow from a replica's variant; its cores are planned.
BESIDE_CORES = tuple(each for each in DIMENSIONS if each.name != CORES)
BY_NAME = {each.name: each for each in DIMENSIONS}


def dimension(name: str) -> Dimension:
    """The dimension of that name; a kind of accelerator is its own unit, field and resource."""
    return BY_NAME.get(name) or Dimension(name, name, name, name)


# The amounts of `DIMENSIONS`, in their order: the first fields of `Resources`.
_scalars: Callable[[object], tuple[float, ...]] = attrgetter(*(each.attribute for each in DIMENSIONS))


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of every resource. A kind of accelerator that is not named is zero.

    Amounts may be compared with `<=` (each dimension fits), added, subtracted, and multiplied by a number of
    replicas.
    """

    cpu_cores: float = 0.0
    memory_gib: float = 0.0
    # Equal amounts have equal hashes without it; a mapping has none.
    accelerators: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.accelerators:
            counted = sorted((kind, count) for kind, count in self.accelerators.items() if count)
            object.__setattr__(self, "accelerators", dict(counted))

    @classmethod
    def of(cls, amounts: Mapping[str, float]) -> Resources:
        """The resources of those amounts by name: of a dimension, or of a kind of accelerator."""
        kinds = {kind: count for kind, count in amounts.items() if kind not in BY_NAME}
        return _made(*(amounts.get(each.name, 0.0) for each in DIMENSIONS), kinds)

    @property
    def amounts(self) -> dict[str, float]:
        """The nonzero amounts by name, in the order of the dimensions, then of the kinds."""
        scalars = {each.name: getattr(self, each.attribute) for each in DIMENSIONS}
        return {name: amount for name, amount in (scalars | dict(self.accelerators)).items() if amount}

    def amount(self, name: str) -> float:
        """The amount of that dimension or kind of accelerator."""
        known = BY_NAME.get(name)
        if known is None:
            return self.accelerators.get(name, 0.0)
        amount: float = getattr(self, known.attribute)
        return amount

    def maximum(self, other: Resources) -> Resources:
        """The larger amount of each resource."""
        return self._joined(other, max)

    def beyond(self, limits: Mapping[str, float]) -> Resources:
        """The amounts above those limits; 0 for a resource without a limit."""
        over = {name: self.amount(name) - most for name, most in limits.items()}
        return Resources.of(
            {name: more for name, more in over.items() if more > ROUNDING * max(1.0, abs(limits[name]))}
        )

    def exceeded(self, limits: Mapping[str, float]) -> tuple[str, ...]:
        """Every limit that an amount is above, in words."""
        return tuple(
            f"{in_words(name, self.amount(name))} exceed the budget of {limits[name]:g}"
            for name in self.beyond(limits).amounts
        )

    def __add__(self, other: Resources) -> Resources:
        return self._joined(other, add)

    def __sub__(self, other: Resources) -> Resources:
        return self._joined(other, sub)

    def __mul__(self, times: float) -> Resources:
        scalars = (amount * times for amount in _scalars(self))
        if not self.accelerators:
            return _made(*scalars)
        return _made(*scalars, {kind: count * times for kind, count in self.accelerators.items()})

    def __le__(self, other: Resources) -> bool:
        return self.beyond({name: other.amount(name) for name in self.amounts}) == NO_RESOURCES

    def words(self, before: str = "") -> str:
        """The amounts in three digits, each with its unit and, if given, the text `before` in front."""
        phrases = (in_words(name, float(f"{amount:.3g}"), before) for name, amount in self.amounts.items())
        return ", ".join(phrases) or "nothing"

    def __str__(self) -> str:
        return self.words()

    def _joined(self, other: Resources, join: Callable[[float, float], float]) -> Resources:
        scalars: Iterable[float] = map(join, _scalars(self), _scalars(other))
        mine, theirs = self.accelerators, other.accelerators
        if not mine and not theirs:
            return _made(*scalars)
        return _made(
            *scalars, {kind: join(mine.get(kind, 0), theirs.get(kind, 0)) for kind in {**mine, **theirs}}
        )


# By place: the amounts of `DIMENSIONS` in their order, then the accelerators.
_made: Callable[..., Resources] = Resources
NO_RESOURCES = Resources()


def total(amounts: Iterable[Resources]) -> Resources:
    """The sum of all amounts."""
    return sum(amounts, NO_RESOURCES)


def in_words(name: str, amount: float, before: str = "") -> str:
    """The amount of a resource with its unit, such as "1 core", "38 GiB of memory" or "2 nvidia.com/gpu"."""
    return " ".join(each for each in (f"{amount:g}", before, words_of(name, amount)) if each)


def words_of(name: str, amount: float = 0.0) -> str:
    """The unit of that amount in a sentence, such as "GiB of memory"; the kind itself of an accelerator."""
    return "core" if name == CORES and amount == 1 else dimension(name).words


def by_field(amounts: Mapping[str, float]) -> dict[str, float]:
    """The amounts of resources by the names of their fields."""
    return {dimension(name).attribute: amount for name, amount in amounts.items()}


def in_column(name: str, amount: float) -> str:
    """The amount of a resource for a column of its name: with the unit of a dimension, such as "38 GiB"."""
    return f"{amount:g} {BY_NAME[name].unit}" if name in BY_NAME else f"{amount:g}"


def beside_of(holder: object) -> Resources:
    """The resources other than cores of any object with fields named as those of `Resources`."""
    scalars = (getattr(holder, each.attribute, None) or 0.0 for each in BESIDE_CORES)
    return _made(0.0, *scalars, getattr(holder, "accelerators", {}))


@dataclass(frozen=True, slots=True)
class Prices:
    """The price of a unit of each resource by name; other resources cost nothing.

    `is_money`: in USD an hour. The default is a cost in cores.
    """

    each: Mapping[str, float] = field(default_factory=lambda: {CORES: 1.0}, hash=False)
    is_money: bool = False

    def cost(self, held: Resources) -> float:
        """The price of those resources: cores, or USD an hour."""
        return sum(self.each.get(name, 0.0) * amount for name, amount in held.amounts.items())


IN_CORES = Prices()
