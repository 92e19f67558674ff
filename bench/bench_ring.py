"""L1 from Python: putting 1 KiB into the shared ring, and getting it back."""

from collections.abc import Iterator

from helios_shm.l1 import L1

from .baselines import lmdb_gets, wheel_hashes
from .harness import Contender, Items, Row, Setting, Target, Values, compare, measure, path_key
from .states import attachment, store, twin


def ring(setting: Setting) -> Iterator[Row]:
    """Puts of values never seen before (hash, copy, sum, index), and hits of a hundred (find, copy, sum)."""
    with store(setting) as engine, twin(setting, 100, 1024) as environment:
        l1, values = L1(attachment(engine)), Values(1024)

        def puts(items: Items) -> None:
            for value in items:
                l1.put(value)

        def hits(items: Items) -> None:
            for identity in items:
                l1.get(identity)

        contenders = [
            Contender("put", puts, values.take),
            Contender("BLAKE3 wheel, one call, the same KiB", wheel_hashes, values.take),
        ]
        rounds = setting.scale(300, 10)
        put, wheel = measure(contenders, rounds=rounds, calls=5, batch=20)
        some = values.take(100)
        held = [l1.put(value) for value in some]
        if [l1.get(identity) for identity in held] != some:
            raise RuntimeError("what was just put is not in L1")
        names = [path_key(number).encode() for number in range(100)]
        with environment.begin(buffers=True) as transaction:
            get = lmdb_gets(transaction)
            contenders = [
                Contender("hit", hits, lambda count: held[:count]),
                Contender("py-lmdb get, view, open transaction", get, lambda count: names[:count]),
            ]
            hit, view = measure(contenders, rounds=rounds, calls=5, batch=50)
    yield compare("L1 put, 1 KiB", put, [wheel], Target("<=", 1.2, wheel.name))
    yield compare("L1 hit, 1 KiB", hit, [view], Target("<=", 1.5, view.name))
