"""How bodies move in a movie: they drift and turn, grow, change shape, push each other, divide, leave and return."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .poses import Pose, outline_of, some_waves

_ROUNDING = 5  # frames that a mother takes to round up


@dataclass(frozen=True, slots=True)
class Habits:
    """How the bodies of one movie behave; lengths in pixels, times in frames.

    `speed` and `drift` (row, col) per frame, `inertia` 0 (random walk) to 1 (straight on), `spin` radians per
    frame, `wobble` how fast shapes change (0 to 1), `push` how hard bodies that touch give way (0: they pass
    over each other), `division` the chance of each body per frame, `growth` its share per frame.
    """

    diameter: float
    count: int
    aspect: float = 1.3
    roughness: float = 0.05
    spread: float = 0.15
    speed: float = 1.0
    inertia: float = 0.8
    drift: tuple[float, float] = (0.0, 0.0)
    spin: float = 0.03
    wobble: float = 0.1
    push: float = 0.6
    division: float = 0.0
    growth: float = 0.0
    contrast: float = 0.3
    most: int = 40
    is_rod: bool = False
    is_packed: bool = False


@dataclass(slots=True, eq=False)
class _Actor:
    """One body as it is now.

    `rounding` counts the frames until it divides, -1 while it does not; `resting` those that it stays near its sister.
    """

    number: int
    at: NDArray[np.float64]
    velocity: NDArray[np.float64]
    angle: float
    radius: float
    goal: float
    aspect: float
    waves: NDArray[np.complex128]
    light: float
    height: float
    offset: tuple[float, float]
    own_aspect: float
    rounding: int = -1
    resting: int = 0


@dataclass(slots=True, eq=False)
class Troupe:
    """The bodies of one movie over time: `poses()` of the present frame, then `step()` to the next."""

    rng: np.random.Generator
    shape: tuple[int, int]
    habits: Habits
    actors: list[_Actor] = field(default_factory=list)
    parents: dict[int, int] = field(default_factory=dict)
    born: int = 0

    def __post_init__(self) -> None:
        for place in _places(self.rng, self.shape, habits=self.habits):
            self.actors.append(self._new(place))
        for _ in range(15):
            self._push(0.5)
        for actor in self.actors:  # some are about to divide as the movie starts
            if self.rng.random() < 2 * self.habits.division:
                actor.rounding = int(self.rng.integers(1, _ROUNDING))

    @property
    def margin(self) -> float:
        """How far outside of the image bodies may go, in pixels."""
        return 0.8 * self.habits.diameter

    def poses(self) -> list[Pose]:
        """Return how the bodies lie now, lowest first."""
        return [self._pose(actor) for actor in sorted(self.actors, key=lambda a: a.height)]

    def step(self) -> None:
        """Let one frame's time pass."""
        for actor in list(self.actors):
            self._prepare(actor)
            if actor.rounding == 0:
                self._divide(actor)
        for actor in self.actors:
            self._move(actor)
        self._push(self.habits.push)

    def _new(self, at: NDArray[np.float64]) -> _Actor:
        """Return a body at a place, drawn from the habits."""
        rng, habits = self.rng, self.habits
        self.born += 1
        radius = 0.5 * habits.diameter * float(np.exp(rng.normal(0, habits.spread)))
        aspect = max(1 + (habits.aspect - 1) * float(rng.uniform(0.4, 1.6)), 1.0)
        return _Actor(
            number=self.born,
            at=np.array(at, dtype=np.float64),
            velocity=rng.normal(0, habits.speed / np.sqrt(2), 2),
            angle=float(rng.uniform(0, 2 * np.pi)),
            radius=radius * (float(rng.uniform(0.75, 1.0)) if habits.growth else 1.0),
            goal=radius,
            aspect=aspect,
            waves=some_waves(rng, roughness=habits.roughness),
            light=0.5 * float(np.exp(rng.normal(0, habits.contrast))),
            height=float(rng.random()),
            offset=(float(rng.uniform(0, 4096)) + 4096, float(rng.uniform(0, 4096)) + 4096),
            own_aspect=aspect,
        )

    def _prepare(self, actor: _Actor) -> None:
        """Start or advance a division."""
        if actor.rounding > 0:
            actor.rounding -= 1
            if not self.habits.is_rod:
                actor.aspect += (1.02 - actor.aspect) * 0.5
        elif (
            self.habits.division
            and len(self.actors) < self.habits.most
            and actor.radius > 0.85 * actor.goal
            and self.rng.random() < self.habits.division
        ):
            actor.rounding = _ROUNDING

    def _divide(self, mother: _Actor) -> None:
        """Put two daughters in a mother's place."""
        rng = self.rng
        self.actors.remove(mother)
        axis = np.array([np.sin(mother.angle), np.cos(mother.angle)])
        share = float(np.clip(rng.normal(0.5, 0.04), 0.35, 0.65))
        for sign, part in ((1, share), (-1, 1 - share)):
            daughter = self._new(mother.at)
            daughter.goal = max(mother.goal * float(np.exp(rng.normal(-0.02, 0.05))), 5.0)
            if self.habits.is_rod:
                daughter.aspect = max(0.5 * mother.aspect, 1.0)
                daughter.radius = mother.radius * np.sqrt(part)
                away = mother.radius * np.sqrt(mother.aspect) * 0.5
            else:
                daughter.radius = mother.radius * 0.98 * np.sqrt(part)
                away = 0.72 * mother.radius
                daughter.aspect = 1.15
            daughter.angle = mother.angle + (0 if self.habits.is_rod else np.pi / 2) + rng.normal(0, 0.1)
            daughter.at = mother.at + sign * away * axis
            daughter.velocity = mother.velocity * 0.3 + sign * axis * mother.radius * rng.uniform(0.1, 0.4)
            daughter.light = mother.light * float(np.exp(rng.normal(0, 0.08)))
            daughter.resting = _ROUNDING
            daughter.height = mother.height + 1e-3 * sign
            self.actors.append(daughter)
            self.parents[daughter.number] = mother.number

    def _move(self, actor: _Actor) -> None:
        """Move, turn, grow and reshape one body."""
        rng, habits = self.rng, self.habits
        calm = 0.3 if actor.rounding >= 0 or actor.resting > 0 else 1.0
        actor.resting = max(actor.resting - 1, 0)
        kick = np.sqrt(1 - habits.inertia**2) * habits.speed / np.sqrt(2)
        actor.velocity = habits.inertia * actor.velocity + kick * rng.normal(size=2)
        step = actor.velocity * calm + habits.drift
        actor.at = actor.at + step * min(1.0, 0.7 * actor.radius / max(float(np.hypot(*step)), 1e-9))
        for axis in (0, 1):  # turn round at the edge of the world
            low, high = -self.margin, self.shape[axis] + self.margin
            if (actor.at[axis] < low and actor.velocity[axis] < 0) or (
                actor.at[axis] > high and actor.velocity[axis] > 0
            ):
                actor.velocity[axis] *= -1
            actor.at[axis] = np.clip(actor.at[axis], low - 2, high + 2)
        actor.angle += habits.spin * float(rng.normal())
        keep = 1 - habits.wobble
        fresh = float(np.sqrt(1 - keep**2))
        actor.waves = keep * actor.waves + fresh * some_waves(rng, roughness=habits.roughness)
        if actor.rounding < 0 and not habits.is_rod:
            actor.aspect += (actor.own_aspect - actor.aspect) * 0.25
            target = max(1 + (habits.aspect - 1) * float(rng.uniform(0.2, 1.8)), 1.0)
            actor.own_aspect += (target - actor.own_aspect) * 0.3 * habits.wobble
        grown = min(1 + 0.03 + habits.growth, actor.goal / actor.radius)
        actor.radius *= grown
        if habits.is_rod:
            actor.aspect *= grown**2  # a rod grows along its axis

    def _push(self, strength: float) -> None:
        """Move and turn bodies that overlap away from each other; each acts as three discs along its axis."""
        if strength <= 0 or len(self.actors) < 2:
            return
        count = len(self.actors)
        size = np.array([actor.radius for actor in self.actors])
        root = np.sqrt([actor.aspect for actor in self.actors])
        angle = np.array([actor.angle for actor in self.actors])
        axis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        arms = (
            np.array([-1.0, 0.0, 1.0])[None, :, None] * ((size * (root - 1 / root))[:, None] * axis)[:, None]
        )
        discs = (np.array([actor.at for actor in self.actors])[:, None] + arms).reshape(-1, 2)
        reach = np.repeat(size / root, 3)
        away = discs[:, None] - discs[None]
        distance = np.hypot(away[..., 0], away[..., 1]) + 1e-6
        overlap = np.maximum(0.97 * (reach[:, None] + reach[None]) - distance, 0)
        owner = np.repeat(np.arange(count), 3)
        overlap[owner[:, None] == owner[None]] = 0
        force = (away / distance[..., None] * overlap[..., None]).sum(1).reshape(count, 3, 2) * 0.5 * strength
        push = force.sum(1)
        push *= np.minimum(1, 0.3 * size / np.maximum(np.hypot(push[:, 0], push[:, 1]), 1e-9))[:, None]
        torque = (arms[..., 1] * force[..., 0] - arms[..., 0] * force[..., 1]).sum(1)
        turn = np.clip(torque / np.maximum((arms**2).sum((1, 2)), size**2), -0.2, 0.2)
        for actor, move, by in zip(self.actors, push, turn, strict=True):
            actor.at = actor.at + move
            actor.angle += float(by)

    def _pose(self, actor: _Actor) -> Pose:
        """Return how a body lies now."""
        rounded = 1 - 0.8 * (1 - actor.rounding / _ROUNDING) if actor.rounding >= 0 else 1.0
        size = 1 - 0.08 * (1 - rounded)
        return Pose(
            number=actor.number,
            centre=(float(actor.at[0]), float(actor.at[1])),
            angle=actor.angle,
            long=size * actor.radius * np.sqrt(actor.aspect),
            short=size * actor.radius / np.sqrt(actor.aspect),
            outline=outline_of(actor.waves * rounded),
            light=actor.light * (1 + 0.6 * (1 - rounded)),
            height=actor.height,
            is_rod=self.habits.is_rod,
            offset=actor.offset,
        )


def shifted(poses: list[Pose], by: NDArray[np.float64]) -> list[Pose]:
    """Return poses moved by (row, col) pixels: a stage that jumps."""
    return [replace(pose, centre=(pose.centre[0] + by[0], pose.centre[1] + by[1])) for pose in poses]


def _places(rng: np.random.Generator, shape: tuple[int, int], *, habits: Habits) -> list[NDArray[np.float64]]:
    """Return where bodies start: the first three well inside the image, apart from each other where there is room."""
    size = np.array(shape, dtype=np.float64)
    lumps = rng.uniform(0, 1, (int(rng.integers(1, 4)), 2)) * size if rng.random() < 0.3 else None
    found: list[NDArray[np.float64]] = []
    for index in range(habits.count):
        edge = min(0.5 * habits.diameter, 0.3 * min(shape)) if index < 3 else -0.7 * habits.diameter
        tries = rng.uniform(edge, size - edge, (12, 2))
        if lumps is not None and index >= 3:
            tries = lumps[rng.integers(len(lumps), size=12)] + rng.normal(0, 0.18 * min(shape), (12, 2))
        if found:
            gaps = np.hypot(*(tries[:, None] - np.array(found)[None]).transpose(2, 0, 1)).min(1)
            far = gaps > habits.diameter
            best = int(np.argmax(far)) if far.any() and not habits.is_packed else int(np.argmax(gaps))
            found.append(tries[best])
        else:
            found.append(tries[0])
    return found
