"""For the tests of helios_shm.mcts."""

from collections.abc import Iterator

import pytest

from helios_shm.mcts.agent.command import close_keepers


@pytest.fixture(scope="module", autouse=True)
def no_keeper_outlives_its_module() -> Iterator[None]:
    """Idle keepers stay as long as their process; this one goes on."""
    yield
    close_keepers()
