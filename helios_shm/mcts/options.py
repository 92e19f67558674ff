"""What a search is made with beside its environment, its root and its branch: checked here, saved with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .table import LANES_MAX, Settings

StartMethod = Literal["fork", "spawn", "forkserver"]

MIB = 1 << 20
TRIALS_MAX = 512  # asked for and not told
SIMULATIONS_MAX = 2**40


@dataclass(frozen=True, slots=True)
class Options:
    """See ``Search``. Raises ValueError and TypeError."""

    workers: int
    parallel: Literal["tree", "root", "leaf"]
    c_puct: float
    discount: float
    seed: int | None
    selection: Literal["puct", "uct"] | None
    c_uct: float
    fpu: float | None
    normalize: bool
    in_flight: Literal["wu-uct", "virtual-loss"]
    virtual_loss: float
    widening: tuple[float, float] | None
    temperature: float
    dirichlet_alpha: float | None
    dirichlet_fraction: float
    depth_max: int
    table_bytes: int
    when_full: Literal["evict", "error"]
    save_every: float
    start_method: StartMethod | None
    batch_size: int | None
    leaves_per_worker: int
    batch_wait_ms: float
    encoded_bytes_max: int
    logits_max: int

    def __post_init__(self) -> None:
        among("parallel", self.parallel, ("tree", "root", "leaf"))
        among("selection", self.selection, ("puct", "uct", None))
        among("in_flight", self.in_flight, ("wu-uct", "virtual-loss"))
        among("when_full", self.when_full, ("evict", "error"))
        among("start_method", self.start_method, ("fork", "spawn", "forkserver", None))
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if value is not None:
                within(name, value, least, most)
        for name in ("c_puct", "c_uct", "discount", "workers", "depth_max", "table_bytes"):
            if getattr(self, name) is None:
                raise TypeError(f"{name} is a number, not None")
        if self.seed is not None and not isinstance(self.seed, int):
            raise TypeError(f"a seed is an int, not {type(self.seed).__name__}")
        if self.widening is not None:
            within("the first number of widening", self.widening[0], 1e-9, 1e9)
            within("the second number of widening", self.widening[1], 0, 1)
        if self.lanes(leaves=self.leaves_per_worker) > LANES_MAX:
            raise ValueError(
                f"{self.workers} workers with {self.leaves_per_worker} leaves each are too many: (workers + 1) * "
                f"leaves_per_worker is {LANES_MAX - TRIALS_MAX} at most"
            )

    def lanes(self, leaves: int) -> int:
        """Lanes of a table: for each process as many as it has leaves under way, and those of trials."""
        return (self.workers + 1) * leaves + TRIALS_MAX

    def settings(self, num_players: int, selection: Literal["puct", "uct"], leaves: int) -> Settings:
        """How a table of this search is made."""
        return Settings(
            bytes=self.table_bytes,
            processes=self.workers + 1,
            lanes=self.lanes(leaves),
            num_players=num_players,
            depth_max=self.depth_max,
            selection=selection,
            exploration=self.c_puct if selection == "puct" else self.c_uct,
            discount=self.discount,
            fpu=self.fpu,
            in_flight=self.in_flight,
            virtual_loss=self.virtual_loss,
            normalize=self.normalize,
            widening=self.widening,
        )


# Of those that may be None, where they are not.
_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("workers", 1, 256),
    ("c_puct", 0, 1e9),
    ("discount", 1e-9, 1),
    ("c_uct", 0, 1e9),
    ("fpu", -1e300, 1e300),
    ("virtual_loss", 0, 1e9),
    ("temperature", 0, 1e9),
    ("dirichlet_alpha", 1e-6, 1e6),
    ("dirichlet_fraction", 0, 1),
    ("depth_max", 1, 65_000),
    ("table_bytes", 1 << 16, 1 << 46),
    ("save_every", 0, 1e9),
    ("batch_size", 1, 1 << 16),
    ("leaves_per_worker", 1, LANES_MAX),
    ("batch_wait_ms", 0, 60_000),
    ("encoded_bytes_max", 1, 1 << 26),
    ("logits_max", 0, 1 << 20),
)


def among(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """ValueError for anything else."""
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}; not {value!r}")


def within(name: str, value: object, least: float, most: float) -> None:
    """TypeError for what is no number, ValueError for one out of its bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} is {least:g} .. {most:g}; not {value!r}")
