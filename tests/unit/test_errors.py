"""The error tree: who is whose, what each carries, and that all of it crosses process borders."""

import pickle

import pytest

import helios_shm

PARENTS = {
    helios_shm.ConflictError: (helios_shm.HeliosError,),
    helios_shm.BusyError: (helios_shm.HeliosError, TimeoutError),
    helios_shm.CapacityError: (helios_shm.HeliosError,),
    helios_shm.NotFoundError: (helios_shm.HeliosError, LookupError),
    helios_shm.ExistsError: (helios_shm.HeliosError,),
    helios_shm.ReadOnlyError: (helios_shm.HeliosError,),
    helios_shm.ClosedError: (helios_shm.HeliosError,),
    helios_shm.StoreError: (helios_shm.HeliosError,),
    helios_shm.CorruptError: (helios_shm.StoreError,),
    helios_shm.FormatError: (helios_shm.StoreError,),
}


@pytest.mark.parametrize("error", PARENTS)
def test_error_stands_where_its_handlers_look(error: type[helios_shm.HeliosError]) -> None:
    for parent in PARENTS[error]:
        assert issubclass(error, parent)
    assert not issubclass(error, KeyError | ValueError | TypeError)


@pytest.mark.parametrize("error", [helios_shm.HeliosError, *PARENTS])
def test_error_says_its_message_and_survives_pickling(error: type[helios_shm.HeliosError]) -> None:
    raised = error("what happened")
    assert str(raised) == "what happened"
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is error
    assert str(copy) == "what happened"


def test_conflict_error_carries_its_conflicts() -> None:
    conflicts = (helios_shm.Conflict("a", None, b"1", b"2"), helios_shm.Conflict("b", b"0", None, b"2"))
    error = helios_shm.ConflictError("two", conflicts)
    assert error.keys == ("a", "b")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.conflicts, copy.keys) == ("two", conflicts, ("a", "b"))
    assert "\\x" not in repr(error)  # values are not spelled out
    assert helios_shm.ConflictError("none").conflicts == ()


def test_busy_error_carries_the_commit_that_happened(engine: helios_shm.Engine) -> None:
    workspace = engine.branch("main").fork()
    workspace["a"] = b"1"
    commit = workspace.commit("m")
    error = helios_shm.BusyError("late", commit)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.commit) == ("late", commit)
    assert helios_shm.BusyError("late").commit is None
    assert error.errno is None  # a TimeoutError is an OSError, but no system call failed
