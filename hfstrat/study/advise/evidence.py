"""Evidence: what is known about data and base before a strategy is trained, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

INTERVAL = 1.96
"""Standard deviations on each side of a normal mean that are its 95 % interval."""
POINTS = 100.0
"""Points from a perfect score down to none at all, or to what the same answer for everything has."""


@dataclass(frozen=True)
class Level:
    """Scores on validation of models that were fitted to a number of examples.

    Args:
        rows: Examples.
        scores: One for each draw of them.
    """

    rows: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over draws."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Slope:
    """What twice the examples add to a score, at the end of a curve.

    Args:
        value: In the metric.
        low: Lower end of its 95 % interval; None where there are too few draws for one.
        high: Upper end.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Probe:
    """What a linear layer on frozen features achieves, and simpler ways to use the same features.

    Args:
        validation: Its score, in the metric.
        train: The same on the examples that it was fitted to.
        l2: Its strength, chosen on validation.
        low: Lower end of the 95 % interval of `validation`; None where the metric has none.
        high: Upper end.
        neighbours: Score of the nearest neighbours.
        means: Score of the nearest class mean; None where there are no classes.
        curve: Its scores on fewer examples, all of them last.
        slope: At the end of the curve; None where there is one size alone.
        pooled: Whether the features are means over tokens, because the base's own head has a layer that is not trained.
    """

    validation: float
    train: float
    l2: float
    low: float | None
    high: float | None
    neighbours: float
    means: float | None
    curve: tuple[Level, ...]
    slope: Slope | None
    pooled: bool = False


@dataclass(frozen=True)
class Floor:
    """What is reached without a neural network.

    Args:
        curve: Scores on validation, of all examples last.
        slope: At the end of the curve.
    """

    curve: tuple[Level, ...]
    slope: Slope | None

    @property
    def validation(self) -> float:
        """The score of all examples."""
        return self.curve[-1].mean


@dataclass(frozen=True)
class Evidence:
    """What the rules know.

    Args:
        task: Kind of the task.
        problem: What its targets are.
        metric: The deciding one.
        up: Whether more of it is better.
        point: What a point is in the metric; None where nothing says it.
        rows: Examples to train on.
        classes: How many; 0 where there are none.
        validation_rows: Examples to select by.
        test_rows: Examples to report on.
        detectable: Points by which two strategies have to differ for the test split to tell; None where unknown.
        body: Parameters of the base's body.
        head_is_linear: Whether the base's head is one linear layer.
        probe: None where there is none.
        without_probe: Why there is none.
        floors: By name.
        warnings: What the audit of the data found.
    """

    task: str
    problem: str
    metric: str
    up: bool
    point: float | None
    rows: int
    classes: int
    validation_rows: int
    test_rows: int
    detectable: float | None
    body: int
    head_is_linear: bool
    probe: Probe | None = None
    without_probe: str = ""
    floors: Mapping[str, Floor] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def per_class(self) -> float:
        """Examples of a class, on average."""
        return self.rows / max(1, self.classes)

    @property
    def floor(self) -> str | None:
        """The best of the floors."""
        found = self.floors or {}
        return max(found, key=lambda name: self.points(found[name].validation), default=None)

    def points(self, value: float) -> float:
        """A score in points, more of which are better; 100 is perfect."""
        assert self.point is not None, "there is a probe or a floor only where a point has a size"
        return value / self.point if self.up else POINTS - value / self.point

    def value(self, points: float) -> float:
        """The score that some points are."""
        assert self.point is not None, "as above"
        return points * self.point if self.up else (POINTS - points) * self.point

    def lost(self, value: float) -> float:
        """Points that a score lacks, never less than none."""
        return max(0.0, POINTS - self.points(value))

    @property
    def noise(self) -> float:
        """Standard error of the probe's score on validation, in points."""
        if self.probe is None or self.probe.low is None or self.probe.high is None:
            return 0.0
        return abs(self.points(self.probe.high) - self.points(self.probe.low)) / (2 * INTERVAL)

    def at(self, rows: int) -> Evidence:
        """What would be known with another number of examples, by the slopes of the curves.

        Power laws are too hopeful where a curve flattens (Banking77 and SST-2 from a quarter of the data: up to 3
        points), so of more examples half of the slope is believed: halfway between it and the last value.
        """
        if rows == self.rows:
            return self
        doublings = math.log2(rows / self.rows)

        def moved(value: float, slope: Slope | None) -> float:
            if slope is None:
                return value
            other = self.points(value) + self._points_of(slope.value) * doublings * (0.5 if doublings > 0 else 1.0)
            return self.value(min(POINTS, other))

        probe = self.probe and replace(self.probe, validation=moved(self.probe.validation, self.probe.slope))
        floors = {
            name: replace(one, curve=(Level(rows, (moved(one.validation, one.slope),)),))
            for name, one in (self.floors or {}).items()
        }
        return replace(self, rows=rows, probe=probe, floors=floors)

    def _points_of(self, difference: float) -> float:
        return self.points(difference) - self.points(0.0)
