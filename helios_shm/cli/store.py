"""Which store a command means: ``--store``, else ``HELIOS_STORE``, else ``.helios`` here or in a directory above."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .. import Engine, NotFoundError, ReadOnlyError
from .. import open as open_store

STORE_VARIABLE = "HELIOS_STORE"
# What a command that is run for somebody finds in its environment beside it.
BRANCH_VARIABLE = "HELIOS_BRANCH"
DIRECTORY_NAME = ".helios"
BRANCH_DEFAULT = "main"


@dataclass
class Place:
    """What the options say of the store; the object of click's context."""

    given: str | None = None

    def path(self) -> Path:
        """The store's directory, absolute. Raises NotFoundError where nothing says which."""
        given = self.given or os.environ.get(STORE_VARIABLE)
        if given:
            return Path(given).absolute()
        here = Path.cwd()
        for directory in (here, *here.parents):
            if (directory / DIRECTORY_NAME).is_dir():
                return directory / DIRECTORY_NAME
        raise NotFoundError(
            f"no store: there is no {DIRECTORY_NAME} in {here} or above; say --store PATH, set {STORE_VARIABLE}, "
            "or make one here: helios-shm init"
        )

    def is_named(self) -> bool:
        """Does anything say which store is meant?"""
        try:
            self.path()
        except NotFoundError:
            return False
        return True

    def new_path(self) -> Path:
        """Where ``init`` makes a store that nobody has named."""
        given = self.given or os.environ.get(STORE_VARIABLE)
        return Path(given).absolute() if given else Path.cwd() / DIRECTORY_NAME

    def read(self) -> Engine:
        """The store, opened for reading."""
        return open_store(self.path(), create=False, readonly=True)

    def remember(self) -> Engine:
        """For reading states and noting where they went; where nothing can be noted, for reading."""
        try:
            return self.write()
        except ReadOnlyError:
            return self.read()

    def write(self) -> Engine:
        """The store, opened for changing; closing it makes durable what was committed."""
        return open_store(self.path(), create=False)
