"""The bundled object store: SeaweedFS, with synchronous files, and closed but for its S3 port.

Out of the box it answers a PUT before anything of it is on disk, and its filer, master and volume server do what anyone asks who reaches
their ports. So its directory is marked for synchronous writes, which all files in it inherit, and everything between its parts is signed
by keys, or wrapped in TLS with a certificate, that only they have. `outfill up` and docker-compose.yml do both in the same way:

    python -m service.seaweedfs KEYS DATA
"""

from __future__ import annotations

import argparse
import fcntl
import ipaddress
import os
import secrets
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

OPTIONS = (
    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    *("-disableHttp", "-filer.disableHttp", "-master.telemetry=false", "-master.peers=none"),
    *("-master.volumePreallocate=false", "-master.volumeSizeLimitMB=1024", "-volume.max=0", "-volume.preStopSeconds=1"),
)
"""What it is started with, wherever that is: all parts on the loopback interface, master and filer by gRPC alone, nothing told to its makers."""
STOP_S = 3.0
"""After which it is killed: on SIGTERM it takes no more and closes its volumes in two seconds, then its filer waits fifteen for streams of its own.
What it acknowledged is on disk by then as ever.
"""
PORTS = tuple(f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc"))

_GET_FLAGS, _SET_FLAGS, _SYNC = 0x80086601, 0x40086602, 0x8
"""``FS_IOC_GETFLAGS``, ``FS_IOC_SETFLAGS`` and ``FS_SYNC_FL`` of linux/fs.h: what ``chattr +S`` does."""
_LIFE = timedelta(days=3650)


def command(weed: str, keys: Path, data: Path, ports: Mapping[str, int]) -> list[str]:
    """How to start it on these ports."""
    return [weed, f"-config_dir={keys}", "server", f"-dir={data}", *OPTIONS, *(f"-{name}={port}" for name, port in ports.items())]


def close_side_doors(keys: Path) -> None:
    """Write ``security.toml``, with a certificate and signing keys of its own, unless it is there."""
    target = keys / "security.toml"
    if target.exists():
        return
    keys.mkdir(parents=True, exist_ok=True)
    authority, certificate, private_key = _certificate()
    files = {"authority.pem": authority, "certificate.pem": certificate, "key.pem": private_key}
    for name, content in files.items():
        _write(keys / name, content)
    pair = f'cert = "{keys / "certificate.pem"}"\nkey = "{keys / "key.pem"}"\n'
    signing = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    text = "".join(f'[{name}]\nkey = "{secrets.token_hex(32)}"\n' for name in signing)
    text += f'[grpc]\nca = "{keys / "authority.pem"}"\n'
    text += "".join(f"[grpc.{part}]\n{pair}" for part in ("master", "volume", "filer", "s3", "client"))
    _write(target, text.encode())


def _write(file: Path, content: bytes) -> None:
    """In one step, so that no reader meets half a file."""
    part = file.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_bytes(content)
    part.rename(file)


def _certificate() -> tuple[bytes, bytes, bytes]:
    """An authority that signs once and is forgotten, the certificate that all parts show each other, and its key; as PEM."""
    authority_key, own_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "outfill object store authority")])
    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "outfill object store")])
    now = datetime.now(UTC) - timedelta(hours=1)

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(authority_name).public_key(key.public_key())
        return made.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + _LIFE)

    authority = builder(authority_name, authority_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    own = builder(own_name, own_key).add_extension(usage, critical=False).add_extension(address, critical=False)
    pem = serialization.Encoding.PEM
    return (
        authority.sign(authority_key, hashes.SHA256()).public_bytes(pem),
        own.sign(authority_key, hashes.SHA256()).public_bytes(pem),
        own_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def write_synchronously(data: Path) -> bool:
    """Mark the directory, and what an earlier release left in it, so that a write to any file returns when it is on disk.

    False: this file system cannot, or does not hand the mark on to new files. Then what is acknowledged is on disk some seconds later.
    """
    data.mkdir(parents=True, exist_ok=True)
    try:
        for path in _tree(data):
            _mark(path)
        with TemporaryFile(dir=data) as probe:  # nameless, but made by the file system like any other
            return _flags(probe.fileno()) & _SYNC != 0
    except OSError:
        return False


def is_synchronous(path: Path) -> bool:
    """Whether a write to this file, or to what is made in this directory, returns when it is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _flags(descriptor) & _SYNC != 0
    finally:
        os.close(descriptor)


def _tree(data: Path) -> Iterator[Path]:
    for directory, _, files in os.walk(data):
        yield Path(directory)
        yield from (Path(directory) / name for name in files)


def _mark(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags = _flags(descriptor)
        if not flags & _SYNC:
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _SYNC))
            os.fsync(descriptor)  # what was written before
    finally:
        os.close(descriptor)


def _flags(descriptor: int) -> int:
    (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0)))
    return int(flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a store for its container, which reads the keys as another user; nothing else mounts them."""
    parser = argparse.ArgumentParser(prog="python -m service.seaweedfs", description=main.__doc__)
    parser.add_argument("keys", type=Path, help="a directory for certificates and signing keys")
    parser.add_argument("data", type=Path, help="its data")
    arguments = parser.parse_args(argv)
    close_side_doors(arguments.keys)
    for file in arguments.keys.iterdir():
        file.chmod(0o644)
    if not write_synchronously(arguments.data):
        print(f"{arguments.data} cannot be marked for synchronous writes: {NOT_DURABLE}", file=sys.stderr)  # noqa: T201 - a command
    return 0


NOT_DURABLE = "what the object store acknowledges is on disk only seconds later, so that losing power loses the last images"

if __name__ == "__main__":
    sys.exit(main())
