"""Kinds of Redis, and what becomes of them: other applications in the database, failovers, full and lame servers, sockets, TLS, sentinels, replicas."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from conftest import eventually
from fastapi.testclient import TestClient
from queueing import accept, spec_of, take
from redis.exceptions import OutOfMemoryError
from rq import Queue
from valkeys import Valkey, Valkeys

from api_schemas.errors import Unavailable
from api_schemas.jobs import JobSpec, JobStatus
from core.catalogue import Catalogue
from core.jobs import JobRecords, Outcome, job_key
from core.queue import DemotedError, JobQueue, close_listening, connect, connect_listening, intermediate_key, leases_key, trouble
from core.settings import Redis, RedisAddress, Settings
from core.storage import Storage
from service.app import create_app
from service.keys import KeyRing
from service.local import VALKEY_OPTIONS, LocalStack
from worker.claims import Claims
from worker.steward import LOCK, Steward
from worker.steward_metrics import StewardMetrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def valkeys(tmp_path: Path) -> Iterator[Valkeys]:
    servers = Valkeys(tmp_path / "valkeys")
    yield servers
    servers.stop()


def settings_of(url: str, **more: int) -> Redis:
    return Redis.model_validate({"url": url, **more})


def steward_of(settings: Settings, connection: redis.Redis, storage: Storage, *, retention_s: int = 60) -> Steward:
    records, queue, catalogue = JobRecords(connection, retention_s=retention_s), JobQueue(connection), Catalogue(connection)
    return Steward(
        settings, connection=connection, records=records, queue=queue, storage=storage, catalogue=catalogue, metrics=StewardMetrics()
    )


def asked(server: Valkey, *command: str | int) -> Any:
    """What a server answers to its operator."""
    return server.admin.execute_command(*command)  # type: ignore[no-untyped-call]


class Front:
    """An address that leads to a server and can be led to another: open connections stay where they are, as behind a DNS name or a service."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.target, self._tls = target, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                if self._tls is not None:
                    try:
                        caller = self._tls.wrap_socket(caller, server_side=True)
                    except OSError:  # who trusts the certificate less
                        continue
                server = socket.create_connection(("127.0.0.1", self.target))
                for source, sink in ((caller, server), (server, caller)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(65536):
                sink.sendall(data)

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()


# -- other applications in the same database --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "reports.standard"])
def test_jobs_of_another_rq_application_are_left_alone(settings: Settings, own_redis: redis.Redis, storage: Storage, name: str) -> None:
    """Whatever another application has in its queues, waiting, claimed or started, is there after the steward's rounds, even under a name like ours."""
    theirs = Queue(name, connection=own_redis)
    for number in range(3):
        theirs.enqueue("os.getpid", job_id=f"foreign-{number}")
    own_redis.rpush(intermediate_key(name), "foreign-claimed")
    own_redis.zadd(leases_key(name), {"foreign-started:1": 1})
    before = {key: own_redis.dump(key) for key in own_redis.keys("rq:*")}
    steward = steward_of(settings, own_redis, storage)
    for _ in range(3):
        for duty in (*steward.duties(), *steward.storage_duties()):
            duty()
    assert {key: own_redis.dump(key) for key in own_redis.keys("rq:*")} == before


def test_foreign_ids_in_front_hide_no_job_of_ours(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> None:
    """A job that nobody lined up is found behind another application's."""
    spec = spec_of()
    Queue(spec.queue, connection=own_redis).enqueue("os.getpid", job_id="foreign")
    records.create(spec)
    queue.rq_queue(spec.queue).enqueue_call("outfill.paint", job_id=spec.id)
    assert queue.out_of_line(spec.queue) == [spec.id]


# -- failovers --------------------------------------------------------------------------------------------------------------------------------


def test_writes_go_to_the_new_primary_though_old_connections_are_open(valkeys: Valkeys) -> None:
    """After a failover that closes no connection, commands, pipelines and scripts of a pool find the new primary at the same address by themselves."""
    old = valkeys.start()
    new = valkeys.start("--replicaof", "127.0.0.1", str(old.port))
    eventually(new.follows)
    front = Front(old.port)
    connection = connect(settings_of(f"redis://127.0.0.1:{front.port}/0"))
    records, queue = JobRecords(connection, retention_s=60), JobQueue(connection, fsync_timeout_ms=2000)
    first = accept(records, queue, spec_of())
    assert queue.trouble() == ""
    eventually(lambda: new.admin.exists(job_key(first.id)))
    asked(old, "FAILOVER", "TO", "127.0.0.1", new.port)
    eventually(lambda: new.role() == "master")
    front.target = new.port
    second = accept(records, queue, spec_of())
    with connection.pipeline(transaction=True) as pipe:
        pipe.set("a", 1)
        pipe.execute()
    assert new.admin.exists(job_key(second.id), "a") == 2
    assert queue._probe() == ""
    connection.close()
    front.close()


def test_a_server_that_was_demoted_is_not_ready(valkeys: Valkeys) -> None:
    """While an address leads to a replica, writes fail as lost connections do and readiness says why; once it is a primary again all is well."""
    other, server = valkeys.start(), valkeys.start()
    connection = connect(settings_of(server.url))
    queue = JobQueue(connection, fsync_timeout_ms=2000)
    assert queue._probe() == ""
    server.admin.replicaof("127.0.0.1", other.port)
    eventually(server.follows)
    assert queue._probe().startswith("read_only: ")
    with pytest.raises(DemotedError, match="can't write against a read only replica"):
        queue._unretried.set("a", 1)
    server.admin.replicaof("NO", "ONE")
    connection.set("a", 1)
    assert queue._probe() == ""
    connection.close()


# -- a full Redis -----------------------------------------------------------------------------------------------------------------------------


def fill(server: Valkey) -> None:
    """Set a bound far below all that is held: buffers of connections, which come and go, make no room."""
    server.admin.config_set("maxmemory", int(server.admin.info("memory")["used_memory"]) // 2)


def untold() -> JobSpec:
    """A job that owes no webhook, which would be told first."""
    spec = spec_of()
    return spec.model_copy(update={"request": spec.request.model_copy(update={"webhook": None})})


def test_a_full_redis_reads_and_frees(valkeys: Valkeys, settings: Settings, storage: Storage) -> None:
    """Where maxmemory is reached nothing new is taken, and all else goes on: keys are let in, jobs are read, listed, canceled, finished and deleted, by a
    steward that takes its lock then, too.
    """
    server = valkeys.start()
    connection = connect(settings_of(server.url))
    records, queue = JobRecords(connection, retention_s=0), JobQueue(connection, fsync_timeout_ms=2000)
    claims = Claims(connection, records, queue, lease_s=30, overdue_s=60)
    claims.start()
    running, dying = (accept(records, queue, untold()) for _ in range(2))
    leases = {lease.spec.id: lease for lease in (take(claims), take(claims))}
    waiting, expired, ended = (accept(records, queue, untold()) for _ in range(3))
    records.cancel(ended.id, "shop")
    connection.zadd("outfill:deadlines", {expired.id: 1})
    fill(server)

    with pytest.raises(OutOfMemoryError):
        records.create(spec_of())
    assert queue._probe().startswith("full: ")
    assert KeyRing(connection, settings).admit("of_unknown").verdict == "unknown"
    assert KeyRing(connection, settings).admit(os.environ["OUTFILL_METRICS__TOKEN"]).verdict == "admitted"
    assert records.get(waiting.id, "shop").status is JobStatus.QUEUED
    assert len(records.page("shop", limit=10)[0]) == 5
    assert records.cancel(waiting.id, "shop").status is JobStatus.CANCELED
    assert records.cancel(dying.id, "shop").cancel_requested

    claims.beat()
    assert (server.admin.zscore(leases_key(running.queue), leases[running.id].member) or 0) > queue.now_s() + 20
    assert records.beat(running.id, leases[running.id].member, 1, 2) == "running"
    assert records.commit(running, leases[running.id].member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    claims.settle(leases[running.id])
    assert server.admin.zscore(leases_key(running.queue), leases[running.id].member) is None
    assert server.admin.exists(f"rq:job:{running.id}") == 0

    steward = steward_of(settings, connection, storage, retention_s=0)
    assert steward._renew_or_acquire()
    assert server.admin.get(LOCK)
    for duty in (*steward.duties(), *steward.storage_duties()):
        duty()
    assert {job.spec.id for job in records.page("shop", limit=10)[0]} == {dying.id}
    claims.beat()
    assert records.commit(dying, leases[dying.id].member, Outcome(JobStatus.CANCELED)) == "committed"
    assert records.delete(dying, only_if="ended")
    queue.wait_until_durable()  # as DELETE does
    connection.close()


def test_jobs_of_dead_workers_are_given_back_though_redis_is_full(valkeys: Valkeys, settings: Settings, storage: Storage) -> None:
    """A lease that lapses while Redis is full is cleared, and the job is first in its queue when there is room again."""
    server = valkeys.start()
    connection = connect(settings_of(server.url))
    records, queue = JobRecords(connection, retention_s=60), JobQueue(connection)
    spec = accept(records, queue, spec_of())
    lease = take(Claims(connection, records, queue, lease_s=30, overdue_s=60))
    connection.zadd(leases_key(spec.queue), {lease.member: 1})
    fill(server)
    steward_of(settings, connection, storage).reap_lapsed_leases()
    assert records.get(spec.id, "shop").status is JobStatus.QUEUED
    server.admin.config_set("maxmemory", 0)
    assert take(Claims(connection, records, queue, lease_s=30, overdue_s=60)).spec.id == spec.id
    connection.close()


def test_a_worker_goes_on_being_known_though_redis_is_full(valkeys: Valkeys) -> None:
    """What a worker announces lapses with the worker, not with the room in Redis."""
    server = valkeys.start()
    connection = connect(settings_of(server.url))
    catalogue = Catalogue(connection)
    fill(server)
    catalogue.announce("w1", [], 60)
    assert catalogue.live_workers() == ["w1"]
    connection.close()


def test_what_is_shipped_has_an_end_of_memory(stack: LocalStack, live_redis: redis.Redis) -> None:
    """``outfill up`` and compose run Valkey with the same options, which set a maxmemory, so that its end is a refusal and not the kernel's."""
    [_, *options] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["valkey"]["command"]
    assert tuple(options) == VALKEY_OPTIONS
    assert int(live_redis.config_get("maxmemory")["maxmemory"] or 0) >= 2**30
    assert live_redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


# -- lame servers, as readiness tells of them ---------------------------------------------------------------------------------------------------


def test_readiness_names_what_is_wrong(valkeys: Valkeys, settings: Settings) -> None:
    """``/readyz`` is 503 where no job can be accepted, and says why; a job that is posted then is 503 too."""
    server = valkeys.start(durable=False)
    lame = settings.model_copy(update={"redis": settings_of(server.url)})
    with TestClient(create_app(lame)) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["s3"]) == (503, "ok")
        assert answer.json()["redis"].startswith("no_aof: appendonly is off")
    unasked = settings.model_copy(update={"redis": settings_of(server.url, fsync_timeout_ms=0)})
    with TestClient(create_app(unasked)) as client:
        assert client.get("/readyz").json() == {"redis": "ok", "s3": "ok"}


def test_askers_share_one_look(valkeys: Valkeys) -> None:
    """However many ask within a second whether the service is ready, Redis syncs its log for one of them."""
    server = valkeys.start()
    connection = connect(settings_of(server.url))
    queue = JobQueue(connection, fsync_timeout_ms=2000)
    queue._probed_at = time.monotonic() + 3600  # so that the second does not end
    queue._found = "full: as it was seen"
    assert [queue.trouble() for _ in range(3)] == ["full: as it was seen"] * 3
    assert server.admin.exists("outfill:fsync") == 0
    connection.close()


def test_a_server_in_cluster_mode_is_named(valkeys: Valkeys) -> None:
    """A Redis Cluster, which cannot run our scripts, is told by readiness."""
    server = valkeys.start("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    asked(server, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    eventually(lambda: "cluster_state:ok" in str(asked(server, "CLUSTER", "INFO")))
    connection = connect(settings_of(server.url))
    assert JobQueue(connection)._probe().startswith("cluster: ")
    connection.close()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), "disk"),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), "no_replicas"),
        (redis.ResponseError("unknown command 'WAITAOF', with args beginning with: '1' '0' '2000' "), "no_waitaof"),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (redis.AuthenticationError("invalid username-password pair or user is disabled."), "refused"),
        (redis.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused."), "unavailable"),
        (redis.TimeoutError("Timeout reading from socket"), "unavailable"),
        (Unavailable("Redis did not confirm in time that it is on disk"), "slow"),
    ],
)
def test_each_trouble_has_a_word(error: Exception, word: str) -> None:
    """What Redis says is told by a stable word."""
    assert trouble(error).partition(":")[0] == word


# -- where it is --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1", "must begin with redis://, rediss://, unix://, redis\\+sentinel://, rediss\\+sentinel://"),
        ("127.0.0.1:6379", "must begin with"),
        ("redis://:hush@127.0.0.1/first", "has a path that is no number"),
        ("redis://:hush@127.0.0.1:port", "has no good host and port"),
        ("redis://:hu#sh@127.0.0.1", "write %23"),
        ("redis://:hush@127.0.0.1?db=first", "has no good value for db"),
        ("redis://:hush@127.0.0.1?colour=red", "has an option that is not known: colour"),
        ("redis://:hush@127.0.0.1?decode_responses=true", "has an option that is not for the URL: decode_responses"),
        ("redis://:hush@127.0.0.1?ssl_ca_certs=/ca.pem", "has an option that is not known: ssl_ca_certs"),
        ("unix://", "names no socket"),
        ("redis+sentinel://:hush@127.0.0.1:26379", "names no service"),
        ("redis+sentinel://:hush@127.0.0.1:26379,/main", "names a sentinel that is no host and port"),
    ],
)
def test_a_url_that_leads_nowhere_stops_the_start(url: str, reason: str) -> None:
    """An address of no known form is refused by a word that says what is wrong, and nothing of the password."""
    with pytest.raises(ValueError, match=reason) as refused:
        settings_of(url)
    assert "hush" not in str(refused.value)
    assert "hu#sh" not in str(refused.value)


def test_a_process_with_a_bad_url_ends(tmp_path: Path) -> None:
    """A steward that is told a bad address ends at once, naming the setting, and not the password."""
    environment = {**os.environ, "OUTFILL_REDIS__URL": "redis://:hush@127.0.0.1/first", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "steward"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "OUTFILL_REDIS__URL: has a path that is no number of a database" in ended.stderr
    assert "hush" not in ended.stderr


def test_replicas_are_not_promised_where_nothing_is_waited_for() -> None:
    """Replicas without a time to wait for them are refused."""
    with pytest.raises(ValueError, match="set fsync_timeout_ms too"):
        settings_of("redis://127.0.0.1", replicas=1, fsync_timeout_ms=0)


def test_sentinel_urls_name_a_service() -> None:
    """Hosts, service, database, user and password of Redis, and those of the sentinels, are read from the URL."""
    url = "rediss+sentinel://app:p%40ss@a:1,b,[::1]:5/main/2?sentinel_password=other&ssl_cert_reqs=none&socket_timeout=4"
    assert RedisAddress.of(url) == RedisAddress(
        "tls",
        {"username": "app", "password": "p@ss", "db": 2, "socket_timeout": 4.0, "ssl_cert_reqs": "none"},
        (("a", 1), ("b", 26379), ("::1", 5)),
        "main",
        {"password": "other", "ssl_cert_reqs": "none"},
    )


async def hears(settings: Redis, connection: redis.Redis, channel: str) -> bytes:
    """What a listener is told on a channel."""
    listening = connect_listening(settings, "test-listening")
    pubsub = listening.pubsub()
    await pubsub.subscribe(channel)
    await pubsub.get_message(timeout=10)  # that it is subscribed
    connection.publish(channel, "news")
    message = await pubsub.get_message(timeout=10)
    assert "test-listening" in {client["name"] for client in connection.client_list()}
    await pubsub.aclose()  # type: ignore[no-untyped-call]
    await close_listening(listening)
    return message["data"]  # type: ignore[no-any-return]


def does_all(settings: Redis) -> None:
    """A job goes its way from acceptance to its end, and a listener hears of things, by this address."""
    connection = connect(settings)
    records, queue = JobRecords(connection, retention_s=60), JobQueue(connection, fsync_timeout_ms=2000)
    claims = Claims(connection, records, queue, lease_s=30, overdue_s=60)
    claims.start()
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    claims.beat()
    assert records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    claims.settle(lease)
    assert asyncio.run(hears(settings, connection, "there")) == b"news"
    assert queue._probe() == ""
    claims.stop()
    connection.close()


def test_a_unix_socket_does_all(valkeys: Valkeys, tmp_path: Path) -> None:
    """``unix://`` leads to a Redis that does everything."""
    path = tmp_path / "valkey.sock"
    server = valkeys.start("--unixsocket", str(path), "--unixsocketperm", "700", "--requirepass", "")
    does_all(settings_of(f"unix://{path}?db=3"))
    assert server.admin.info("keyspace")["db3"]["keys"] > 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate")
def test_tls_does_all(valkeys: Valkeys, tmp_path: Path) -> None:
    """``rediss://`` leads to a Redis that does everything, by a certificate that is checked."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key), "-out", str(cert), *subject]
    subprocess.run(made, check=True, capture_output=True)
    terms = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    terms.load_cert_chain(cert, key)
    front = Front(valkeys.start().port, terms)  # Valkey's wheel is built without TLS
    does_all(settings_of(f"rediss://127.0.0.1:{front.port}/0?ssl_ca_certs={cert}"))
    doubted = connect(settings_of(f"rediss://127.0.0.1:{front.port}/0"))
    assert JobQueue(doubted)._probe().startswith("unavailable: ")
    doubted.close()
    front.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sentinel_of(primary: Valkey) -> str:
    return (
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\nsentinel auth-pass main hush"
    )


# redis-py's asyncio connections to a primary that dies while they are made are left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sentinels_lead_to_the_primary_of_the_moment(valkeys: Valkeys) -> None:
    """``redis+sentinel://`` leads to the primary that real sentinels name, and after it was killed to the one that they promote."""
    old = valkeys.start(password="hush")
    new = valkeys.start("--replicaof", "127.0.0.1", str(old.port), password="hush")
    eventually(new.follows)
    sentinel = valkeys.start(sentinel=sentinel_of(old))
    eventually(lambda: int(asked(sentinel, "SENTINEL", "MASTER", "main")["num-slaves"]) == 1)
    settings = settings_of(f"redis+sentinel://:hush@127.0.0.1:1,127.0.0.1:{sentinel.port}/main/0")
    does_all(settings)
    connection = connect(settings)
    records, queue = JobRecords(connection, retention_s=60), JobQueue(connection, fsync_timeout_ms=5000, replicas=1)
    spec = accept(records, queue, spec_of())
    old.stop()
    alone = JobQueue(connection, fsync_timeout_ms=5000)
    eventually(lambda: alone._probe() == "")
    assert records.get(spec.id, "shop").status is JobStatus.QUEUED  # its replica had it on disk
    assert take(Claims(connection, records, alone, lease_s=30, overdue_s=60)).spec.id == spec.id
    does_all(settings)
    connection.close()


# -- replicas -----------------------------------------------------------------------------------------------------------------------------------


def test_a_job_is_accepted_when_its_replicas_have_it_on_disk(valkeys: Valkeys) -> None:
    """With ``replicas`` an accepted job is in the log of a real replica; without one that follows it is not accepted, and readiness says so."""
    primary = valkeys.start()
    replica = valkeys.start("--replicaof", "127.0.0.1", str(primary.port))
    eventually(replica.follows)
    connection = connect(settings_of(primary.url))
    records, queue = JobRecords(connection, retention_s=60), JobQueue(connection, fsync_timeout_ms=5000, replicas=1)
    spec = accept(records, queue, spec_of())
    assert any(spec.id.encode() in path.read_bytes() for path in (replica.directory / "appendonlydir").iterdir())
    assert queue._probe() == ""
    replica.stop()
    impatient = JobQueue(connection, fsync_timeout_ms=100, replicas=1)
    records.create(lost := spec_of())
    with pytest.raises(Unavailable):
        impatient.push(lost)
    assert impatient._probe().startswith("slow: ")
    JobQueue(connection, fsync_timeout_ms=5000).push(lost)  # its own disk is enough where none is asked for
    connection.close()


def test_a_replica_without_a_log_confirms_nothing(valkeys: Valkeys) -> None:
    """A replica that keeps no log is none of those that a job is safe at."""
    primary = valkeys.start()
    replica = valkeys.start("--replicaof", "127.0.0.1", str(primary.port), durable=False)
    eventually(replica.follows)
    connection = connect(settings_of(primary.url))
    assert JobQueue(connection, fsync_timeout_ms=100, replicas=1)._probe().startswith("slow: ")
    connection.close()


def test_an_api_waits_for_the_replicas_that_it_is_told(valkeys: Valkeys, settings: Settings) -> None:
    """``OUTFILL_REDIS__REPLICAS`` reaches what accepts jobs."""
    server = valkeys.start()
    asked = settings.model_copy(update={"redis": settings_of(server.url, replicas=1, fsync_timeout_ms=100)})
    with TestClient(create_app(asked)) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["redis"].partition(":")[0]) == (503, "slow")
