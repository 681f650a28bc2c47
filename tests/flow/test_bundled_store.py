"""The object store that comes with Outfill: what it acknowledges is on disk, and nobody gets in but by its S3 port, with a key."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml
from conftest import eventually

from api_schemas.errors import Unavailable
from core.settings import S3, Settings
from core.storage import Storage
from service import seaweedfs
from service.local import LocalStack, free_ports

ROOT = Path(__file__).parents[2]
WEED = shutil.which("weed", path=str(Path(sys.executable).parent)) or "weed"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a gRPC client begins; a server that lets it in answers with a frame of settings."""


@contextmanager
def running(command: list[str], s3_port: int, log: Path, host: str = "127.0.0.1") -> Iterator[Storage]:
    """A store of its own, and its bucket."""
    names = {"AWS_ACCESS_KEY_ID": "outfill", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}
    settings = {"endpoint_url": f"http://{host}:{s3_port}", "access_key_id": "outfill", "secret_access_key": "secret-of-the-test"}
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=names, stdout=output, stderr=output, cwd=log.parent)
    try:
        storage = Storage(S3.model_validate(settings))

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            with suppress(httpx.TransportError):
                return httpx.get(f"http://{host}:{s3_port}/healthz").status_code == 200
            return False

        eventually(is_up)
        with suppress(Exception):  # its parts find each other some moments later
            storage.create_bucket()
        eventually(lambda: storage.create_bucket() is False)
        yield storage
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seaweedfs.STOP_S)
        process.kill()
        process.wait()


def _reads(storage: Storage, *keys: str) -> bool:
    with suppress(Unavailable):
        return all(storage.get(key) for key in keys)
    return False


def _puts(storage: Storage, key: str) -> bool:
    with suppress(Unavailable):
        storage.put(key, b"x", "image/png")
        return True
    return False


def ports_of_its_own() -> dict[str, int]:
    return dict(zip(seaweedfs.PORTS, free_ports(len(seaweedfs.PORTS)), strict=True))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system on a disk of its own, at DISK/mounted; what the kernel has given to it is in the file DISK/image. Only root can mount one."""
    if sys.platform != "linux" or shutil.which("mkfs.ext4") is None:
        pytest.skip("no ext4 can be made here")
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(256 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", image], check=True)
    if subprocess.run(["mount", "-o", "loop,commit=300", image, mounted], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", mounted], check=True)


def test_what_the_store_acknowledged_survives_a_loss_of_power(disk: Path) -> None:
    """Every object whose PUT was answered is there when the machine comes back with what its disk had at that moment, and no more."""
    data, keys, ports = disk / "mounted" / "s3", disk / "keys", ports_of_its_own()
    seaweedfs.close_side_doors(keys)
    assert seaweedfs.write_synchronously(data)
    photos = {f"inputs/shop/{number}": bytes([number]) * 70_000 for number in range(20)}
    with running(seaweedfs.command(WEED, keys, data, ports), ports["s3.port"], disk / "first.log") as storage:
        eventually(lambda: _puts(storage, "inputs/shop/0"))
        for key, photo in photos.items():
            storage.put(key, photo, "image/png")
        shutil.copy(disk / "image", disk / "as-the-power-went")  # while it runs: what the kernel still holds back is not in it
    subprocess.run(["umount", disk / "mounted"], check=True)
    subprocess.run(["mount", "-o", "loop", disk / "as-the-power-went", disk / "mounted"], check=True)
    with running(seaweedfs.command(WEED, keys, data, ports), ports["s3.port"], disk / "second.log") as storage:
        eventually(lambda: _reads(storage, *photos))  # its volumes are found some moments after it answers
        assert {key: storage.get(key) for key in storage.keys("inputs/")} == photos


def test_data_of_the_last_release_is_taken_over(tmp_path: Path) -> None:
    """What `weed mini`, which came before, has stored is read, twice: the store itself restarts too."""
    data, keys, ports = tmp_path / "s3", tmp_path / "keys", ports_of_its_own()
    data.mkdir()
    admin = dict(zip(("admin.port", "admin.port.grpc"), free_ports(2), strict=True))
    options = [f"-{name}={port}" for name, port in {**ports, **admin}.items()]
    mini = [WEED, "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false"]
    with running([*mini, "-master.telemetry=false", *options], ports["s3.port"], tmp_path / "mini.log") as storage:
        eventually(lambda: _puts(storage, "inputs/shop/old"))
    seaweedfs.close_side_doors(keys)
    seaweedfs.write_synchronously(data)
    for log in ("first.log", "second.log"):
        with running(seaweedfs.command(WEED, keys, data, ports), ports["s3.port"], tmp_path / log) as storage:
            eventually(lambda: _reads(storage, "inputs/shop/old"))


def test_every_file_of_the_stack_is_written_synchronously(stack: LocalStack, storage: Storage) -> None:
    """The mark is on whatever the store has made by now: objects, their index, and its directory of names."""
    if not stack.durable:
        pytest.skip("this file system has no synchronous files")
    storage.put("inputs/shop/durable/image", b"x", "image/png")
    files = [path for path in (stack.options.data / "s3").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".dat", ".idx", ".log"}
    assert [path for path in files if not seaweedfs.is_synchronous(path)] == []
    storage.delete(["inputs/shop/durable/image"])


def test_a_file_system_that_cannot_is_told(tmp_path: Path, noexec: Path) -> None:
    """Where files cannot be synchronous it says so, and does not pretend."""
    assert not seaweedfs.write_synchronously(noexec / "s3")


def test_files_of_an_earlier_release_are_marked_too(tmp_path: Path) -> None:
    """A directory that was filled before is synchronous after the next start, all of it."""
    old = tmp_path / "s3" / "filerldb2" / "000001.log"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    if not seaweedfs.write_synchronously(tmp_path / "s3"):
        pytest.skip("this file system has no synchronous files")
    assert seaweedfs.is_synchronous(old)


def greeting(port: int, context: ssl.SSLContext | None) -> bytes:
    """What a gRPC port says to a client that begins to talk; nothing where it hangs up."""
    with ExitStack() as stack, suppress(ssl.SSLError, ConnectionError):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        if context:
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname="127.0.0.1"))
        connection.sendall(HTTP2)
        return connection.recv(9)
    return b""


def test_the_side_doors_are_closed(stack: LocalStack, settings: Settings, storage: Storage) -> None:
    """Without its own certificate and keys nobody talks to filer, master or volume server, which would else read and delete any tenant's photos."""
    storage.put("inputs/shop/secret/image", b"photo", "image/png")
    ports = stack.s3_ports
    paths = (
        "/buckets/outfill/inputs/shop/secret/image",
        "/buckets/outfill/inputs/",
        "/dir/assign",
        "/col/delete?collection=outfill",
        "/1,0100000000",
    )
    for name in ("filer.port", "master.port", "volume.port"):
        for path in paths:
            for method in ("GET", "POST", "DELETE"):
                answer = httpx.request(method, f"http://127.0.0.1:{ports[name]}{path}")
                assert answer.status_code in (400, 401, 404, 405), (name, method, path, answer.text)
                assert b"photo" not in answer.content
    keys = stack.options.data / "s3-keys"
    stranger, itself = (ssl.create_default_context(cafile=str(keys / "authority.pem")) for _ in range(2))
    itself.load_cert_chain(keys / "certificate.pem", keys / "key.pem")
    for context in (stranger, itself):
        context.set_alpn_protocols(["h2"])
    for name in ("s3.port.grpc", "filer.port.grpc", "master.port.grpc", "volume.port.grpc"):
        assert [greeting(ports[name], context) for context in (None, stranger)] == [b"", b""], name
        assert len(greeting(ports[name], itself)) == 9, name
    assert {path.stat().st_mode & 0o077 for path in keys.iterdir()} == {0}
    sockets = [Path(f"/tmp/seaweedfs-{part}-grpc-{ports[f'{part}.port.grpc']}.sock") for part in ("filer", "master", "volume", "s3")]
    assert {socket_file.stat().st_mode & 0o077 for socket_file in sockets if socket_file.exists()} == {0}
    assert storage.get("inputs/shop/secret/image") == b"photo"
    storage.delete(["inputs/shop/secret/image"])


def test_s3_without_a_key_reads_nothing(settings: Settings, storage: Storage) -> None:
    """The port that stays open gives no object to who has neither a key nor a presigned URL."""
    storage.put("inputs/shop/secret/image", b"photo", "image/png")
    url = f"{settings.s3.endpoint_url}/outfill/inputs/shop/secret/image"
    assert [httpx.request(method, url).status_code for method in ("GET", "DELETE")] == [403, 403]
    assert httpx.get(storage.presign_get("inputs/shop/secret/image")).content == b"photo"
    storage.delete(["inputs/shop/secret/image"])


def test_the_container_opens_s3_and_nothing_else(tmp_path: Path) -> None:
    """As docker-compose.yml starts it, only S3 listens beyond the container, and its gRPC port, which asks for a certificate."""
    assert seaweedfs.main([str(tmp_path / "keys"), str(tmp_path / "data")]) == 0
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["s3"]
    ports, outside = ports_of_its_own(), "127.0.0.2"  # stands for the container's own address
    places = {"/keys": str(tmp_path / "keys"), "/data": str(tmp_path / "data"), "0.0.0.0": outside}
    options = list(service["command"])
    for old, new in places.items():
        options = [option.replace(old, new) for option in options]
    command = [WEED, *options, *(f"-{name}={port}" for name, port in ports.items())]
    with running(command, ports["s3.port"], tmp_path / "log", outside) as storage:
        eventually(lambda: _puts(storage, "inputs/shop/image"))
        reached = {name for name, port in ports.items() if _answers(outside, port)}
    assert reached == {"s3.port", "s3.port.grpc"}


def _answers(host: str, port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection((host, port), timeout=5):
        return True
    return False


@pytest.fixture
def public(tmp_path: Path, settings: Settings) -> Iterator[str]:
    """The proxy of docker-compose.yml before the stack's store."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    (port,) = free_ports(1)
    text = (ROOT / "deploy/s3/nginx.conf").read_text()
    here: Mapping[str, str] = {
        "listen 8333": f"listen 127.0.0.1:{port}",
        "s3:8333": (settings.s3.endpoint_url or "").removeprefix("http://"),
        "/tmp/": f"{tmp_path}/",
        "resolver 127.0.0.11 valid=5s;": "",
    }
    for old, new in here.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nginx.conf").write_text("user root;\n" + text)
    process = subprocess.Popen([nginx, "-c", tmp_path / "nginx.conf", "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    eventually(lambda: _answers("127.0.0.1", port))
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


def test_callers_reach_objects_by_presigned_url_and_nothing_else(public: str, settings: Settings) -> None:
    """Through the proxy that compose publishes an upload is put and read by its URL; listing, deleting and other buckets are not."""
    s3 = settings.s3.model_copy(update={"public_endpoint_url": public})
    storage, inside = Storage(s3), Storage(settings.s3)
    photo = bytes(range(256)) * 8000
    put = httpx.put(storage.presign_put("uploads/shop/public", at_most_s=60, size=len(photo)), content=photo)
    assert put.status_code == 200, put.text
    url = storage.presign_get("uploads/shop/public", filename="shoe.png")
    assert httpx.get(url).content == photo
    assert httpx.get(url, headers={"Range": "bytes=0-1"}).content == photo[:2]
    through = Storage(settings.s3.model_copy(update={"endpoint_url": public}), patient=False)
    with pytest.raises(Exception, match="does not delete"):
        through.delete(["uploads/shop/public"])
    assert httpx.get(f"{public}/").status_code == 404
    assert inside.keys("uploads/shop/public") == ["uploads/shop/public"]
    inside.delete(["uploads/shop/public"])
