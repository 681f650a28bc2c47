"""The object store: bytes in S3 under keys that say whose they are.

inputs/{tenant}/{job}/{name}                    what a job was given
outputs/{tenant}/{job}/{execution}/{n}.png      what one execution made; visible only once committed
uploads/{tenant}/{upload}                       bytes kept for a later job
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from api_schemas.downloads import disposition
from api_schemas.errors import OutfillError, PayloadTooLarge, Unavailable
from core.settings import S3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef


class ObjectNotFound(OutfillError):
    """No object has this key."""

    status, code, title = 404, "object_not_found", "Object not found"


def input_key(tenant: str, job_id: str, name: str) -> str:
    """Where one input of a job is kept."""
    return f"inputs/{tenant}/{job_id}/{name}"


def output_prefix(tenant: str, job_id: str, execution_id: str) -> str:
    """Under what one execution of a job writes. No two executions share it, so that none can touch another's result."""
    return f"outputs/{tenant}/{job_id}/{execution_id}/"


def job_prefixes(tenant: str, job_id: str) -> tuple[str, str]:
    """All that belongs to a job."""
    return f"inputs/{tenant}/{job_id}/", f"outputs/{tenant}/{job_id}/"


UPLOADS_PREFIX = "uploads/"


def upload_key(tenant: str, upload_id: str) -> str:
    """Where an upload is kept."""
    return f"{UPLOADS_PREFIX}{tenant}/{upload_id}"


class Storage:
    """One bucket. Thread-safe. Raises ``Unavailable`` when the store does not answer: the ``patient`` after two minutes, others, who have a
    caller that waits, after half of one.
    """

    def __init__(self, settings: S3, *, patient: bool = True) -> None:
        self._settings = settings
        self._attempts, self._read_s = (4, 30) if patient else (2, 15)
        self._client = self._connect(settings.endpoint_url)
        public = settings.public_endpoint_url
        self._signer = self._connect(public) if public else self._client

    def _connect(self, endpoint_url: str | None) -> S3Client:
        secret = self._settings.secret_access_key
        config = Config(
            signature_version="s3v4",
            retries={"mode": "standard", "max_attempts": self._attempts},
            connect_timeout=3,
            read_timeout=self._read_s,
            max_pool_connections=64,
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            # Stores other than AWS do not all know the newer trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = boto3.session.Session()
        return session.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=self._settings.region,
            aws_access_key_id=self._settings.access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=config,
        )

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store ``data``; it is durable when this returns."""
        try:
            self._client.put_object(Bucket=self._settings.bucket, Key=key, Body=data, ContentType=content_type)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("the object store does not take objects") from error

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """The bytes of an object. Raises ``ObjectNotFound``, and ``PayloadTooLarge`` beyond ``max_bytes``."""
        with _reading(key, "answer"):
            answer = self._client.get_object(Bucket=self._settings.bucket, Key=key)
            with answer["Body"] as body:
                if max_bytes is not None and answer["ContentLength"] > max_bytes:
                    raise PayloadTooLarge(f"the object has {answer['ContentLength']} bytes; the limit is {max_bytes}")
                return body.read()

    def copy(self, source: str, target: str) -> None:
        """Store the bytes of ``source`` as ``target`` too, without fetching them. Raises ``ObjectNotFound``."""
        bucket = self._settings.bucket
        with _reading(source, "copy"):
            self._client.copy_object(Bucket=bucket, Key=target, CopySource={"Bucket": bucket, "Key": source})

    def download(self, key: str, file: Path) -> None:
        """Write an object to ``file``, a large one in parallel parts. Raises ``ObjectNotFound``; ``file`` may be left half written."""
        with _reading(key, "answer"):
            self._client.download_file(self._settings.bucket, key, str(file))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are gone already do no harm."""
        listed = list(keys)
        try:
            for start in range(0, len(listed), 1000):
                batch = [{"Key": key} for key in listed[start : start + 1000]]
                answer = self._client.delete_objects(Bucket=self._settings.bucket, Delete={"Objects": batch, "Quiet": True})  # type: ignore[typeddict-item]
                if refused := answer.get("Errors"):
                    raise Unavailable(f"the object store did not delete {len(refused)} objects: {refused[0].get('Code')}")
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("the object store does not delete") from error

    def keys(self, prefix: str) -> list[str]:
        """The keys under ``prefix``."""
        return [entry["Key"] for entry in self._entries(prefix)]

    def _entries(self, prefix: str) -> list[ObjectTypeDef]:
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._settings.bucket, Prefix=prefix)
            return [entry for page in pages for entry in page.get("Contents", [])]
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("the object store does not list") from error

    def larger_than(self, size: int, prefix: str) -> list[str]:
        """The keys under ``prefix`` of objects that have more bytes."""
        return [entry["Key"] for entry in self._entries(prefix) if entry["Size"] > size]

    def delete_job(self, tenant: str, job_id: str) -> None:
        """Delete all objects of a job."""
        self.delete(key for prefix in job_prefixes(tenant, job_id) for key in self.keys(prefix))

    def delete_outputs(self, tenant: str, job_id: str, *, but: Collection[str]) -> int:
        """Delete what the executions of a job stored, ``but`` some of it; returns how many objects those were."""
        _, prefix = job_prefixes(tenant, job_id)
        unwanted = [key for key in self.keys(prefix) if key not in but]
        self.delete(unwanted)
        return len(unwanted)

    def presign_get(self, key: str, *, filename: str | None = None) -> str:
        """A URL from which anyone can read the object for a while; as a download, where it has a ``filename``."""
        named = {"ResponseContentDisposition": disposition(filename)} if filename is not None else {}
        return self._presign("get_object", key, self._settings.presign_ttl_s, **named)

    def presign_put(self, key: str, *, at_most_s: int, size: int | None = None) -> str:
        """A URL to which anyone can write the object for a while; with a ``size`` the store refuses a body of any other."""
        signed = {"ContentLength": size} if size is not None else {}
        return self._presign("put_object", key, min(at_most_s, self._settings.presign_ttl_s), **signed)

    def _presign(self, method: str, key: str, seconds: int, **more: str | int) -> str:
        return self._signer.generate_presigned_url(method, Params={"Bucket": self._settings.bucket, "Key": key, **more}, ExpiresIn=seconds)

    def ping(self) -> None:
        """Raise ``Unavailable`` unless the bucket answers."""
        try:
            self._client.head_bucket(Bucket=self._settings.bucket)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("the object store does not answer") from error


@contextmanager
def _reading(key: str, does: str) -> Iterator[None]:
    """Says in our errors what the store says of an object that is read: ``ObjectNotFound``, else that it does not do what it ``does``."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            raise ObjectNotFound(f"no object {key}") from error
        raise Unavailable(f"the object store does not {does}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise Unavailable(f"the object store does not {does}") from error
