"""How a worker ends."""

from __future__ import annotations

import threading

import redis
from conftest import eventually
from queueing import backdrop_worker

from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.settings import Settings
from core.storage import Storage


class Forgetful(Catalogue):
    """The real catalogue, from which nobody can withdraw: Redis went away before the worker did."""

    def withdraw(self, worker: str) -> None:
        raise redis.ConnectionError(f"{worker}: connection closed by server")


def test_a_worker_that_is_stopped_while_redis_is_away_ends_in_peace(
    own_redis: redis.Redis, records: JobRecords, settings: Settings, storage: Storage
) -> None:
    """Nothing is lost by it: what it announced lapses. It must not look like a crash."""
    catalogue = Forgetful(own_redis)
    running = backdrop_worker(own_redis, settings, storage, catalogue=catalogue)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            running.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: "backdrop" in catalogue.cards() and own_redis.keys("*serving*"))
    running.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert failed == []
