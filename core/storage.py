"""The object store: bytes in S3 under keys that say whose they are.

inputs/{tenant}/{job}/{name}                    what a job was given
outputs/{tenant}/{job}/{execution}/{n}.png      what one execution made; visible only once committed
uploads/{tenant}/{upload}                       bytes kept for a later job
records/{tenant}/{job}/{execution}.json         an ended job's record, from which a lost Redis is rebuilt
backup/{time}                                   keys, tenants and endpoints, sealed (``seal``)
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import boto3
import structlog
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

from api_schemas.downloads import disposition
from api_schemas.errors import OutfillError, PayloadTooLarge, Unavailable
from core.settings import S3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

_log = structlog.get_logger(__name__)
_MISSING = ("NoSuchKey", "404")
_BULK, _SINGLE_THREADS = 1000, 16
"""Keys that one call deletes; and calls at once to a store that deletes one key a call."""


class ObjectNotFound(OutfillError):
    """No object has this key."""

    status, code, title = 404, "object_not_found", "Object not found"


def input_key(tenant: str, job_id: str, name: str) -> str:
    """Where one input of a job is kept."""
    return f"{INPUTS_PREFIX}{tenant}/{job_id}/{name}"


def output_prefix(tenant: str, job_id: str, execution_id: str) -> str:
    """Under what one execution of a job writes. No two executions share it, so that none can touch another's result."""
    return f"{OUTPUTS_PREFIX}{tenant}/{job_id}/{execution_id}/"


def archive_key(tenant: str, job_id: str, execution_id: str) -> str:
    """Where the record of an ended job is archived, by the execution that ended it."""
    return f"{RECORDS_PREFIX}{tenant}/{job_id}/{execution_id}.json"


def job_prefixes(tenant: str, job_id: str) -> tuple[str, str, str]:
    """All that belongs to a job: inputs, outputs, archives."""
    return f"{INPUTS_PREFIX}{tenant}/{job_id}/", f"{OUTPUTS_PREFIX}{tenant}/{job_id}/", f"{RECORDS_PREFIX}{tenant}/{job_id}/"


INPUTS_PREFIX, OUTPUTS_PREFIX, RECORDS_PREFIX, UPLOADS_PREFIX, BACKUP_PREFIX = "inputs/", "outputs/", "records/", "uploads/", "backup/"


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
        self._session = boto3.session.Session()
        self._client = self._connect(settings.endpoint_url)
        public = settings.public_endpoint_url
        self._signer = self._connect(public) if public else self._client
        self._deletes_in_bulk = True

    def _connect(self, endpoint_url: str | None) -> S3Client:
        settings = self._settings
        secret, token = settings.secret_access_key, settings.session_token
        config = Config(
            signature_version="s3v4",
            retries={"mode": "standard", "max_attempts": self._attempts},
            connect_timeout=3,
            read_timeout=self._read_s,
            max_pool_connections=64,
            s3={"addressing_style": self._addressing_style(endpoint_url), "us_east_1_regional_endpoint": "regional"},
            # Stores other than AWS do not all know the newer trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return self._session.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=settings.region,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            aws_session_token=token.get_secret_value() if token else None,
            config=config,
        )

    def _addressing_style(self, endpoint_url: str | None) -> Literal["path", "virtual"]:
        """Never boto3's own ``auto``, which presigns for AWS' global endpoint: regions since 2019 do not know it."""
        if self._settings.addressing_style == "auto":
            return "path" if endpoint_url else "virtual"
        return self._settings.addressing_style

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store ``data``; it is as durable when this returns as what the store acknowledges."""
        with _calling("take objects", key):
            self._client.put_object(Bucket=self._settings.bucket, Key=key, Body=data, ContentType=content_type)

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """The bytes of an object. Raises ``ObjectNotFound``, and ``PayloadTooLarge`` beyond ``max_bytes``."""
        with _calling("answer", key):
            answer = self._client.get_object(Bucket=self._settings.bucket, Key=key)
            with answer["Body"] as body:
                size = answer.get("ContentLength")  # which a store may leave out
                if max_bytes is not None and size is not None and size > max_bytes:
                    raise PayloadTooLarge(f"the object has {size} bytes; the limit is {max_bytes}")
                data = body.read(None if max_bytes is None or size is not None else max_bytes + 1)
        if max_bytes is not None and len(data) > max_bytes:
            raise PayloadTooLarge(f"the object has more than {max_bytes} bytes, which is the limit")
        return data

    def copy(self, source: str, target: str) -> None:
        """Store the bytes of ``source`` as ``target`` too, without fetching them. Raises ``ObjectNotFound``."""
        bucket = self._settings.bucket
        with _calling("copy", source):
            self._client.copy_object(Bucket=bucket, Key=target, CopySource={"Bucket": bucket, "Key": source})

    def download(self, key: str, file: Path) -> None:
        """Write an object to ``file``, a large one in parallel parts. Raises ``ObjectNotFound``; ``file`` may be left half written."""
        with _calling("answer", key):
            self._client.download_file(self._settings.bucket, key, str(file))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are gone already do no harm."""
        listed = list(keys)
        for start in range(0, len(listed), _BULK):
            batch = listed[start : start + _BULK]
            if len(batch) == 1 or not self._deletes_in_bulk or not self._delete_in_bulk(batch):
                self._delete_singly(batch)

    def _delete_in_bulk(self, keys: Sequence[str]) -> bool:
        """False: the store does not take the call as it is; it may have none, or want a header that others have given up."""
        objects = [{"Key": key} for key in keys]
        try:
            with _calling("delete", keys[0]):
                answer = self._client.delete_objects(Bucket=self._settings.bucket, Delete={"Objects": objects, "Quiet": True})  # type: ignore[typeddict-item]
        except ObjectNotFound:
            return False
        except Unavailable as error:
            if _is_refusal(error.__cause__):
                return False
            raise
        refused = [each for each in answer.get("Errors", ()) if each.get("Code") not in _MISSING]
        if refused:
            _log.warning(
                "store_failed", what="delete", key=refused[0].get("Key"), code=refused[0].get("Code"), said=refused[0].get("Message")
            )
            raise Unavailable(f"the object store did not delete {len(refused)} objects")
        return True

    def _delete_singly(self, keys: Sequence[str]) -> None:
        def delete(key: str) -> None:
            try:
                with _calling("delete", key):
                    self._client.delete_object(Bucket=self._settings.bucket, Key=key)
            except ObjectNotFound:  # what some stores say of a key that is gone
                return

        if len(keys) == 1:
            delete(keys[0])
            return
        with ThreadPoolExecutor(min(_SINGLE_THREADS, len(keys))) as threads:
            list(threads.map(delete, keys))
        if self._deletes_in_bulk:
            self._deletes_in_bulk = False
            _log.warning("store_deletes_singly", reason="it does not take DeleteObjects, and takes DeleteObject")

    def keys(self, prefix: str) -> list[str]:
        """The keys under ``prefix``."""
        return [entry["Key"] for entry in self.entries(prefix)]

    def entries(self, prefix: str) -> list[ObjectTypeDef]:
        """The keys under ``prefix`` with sizes and times, as S3 tells them."""
        with _calling("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._settings.bucket, Prefix=prefix)
            return [entry for page in pages for entry in page.get("Contents", [])]

    def larger_than(self, size: int, prefix: str) -> list[str]:
        """The keys under ``prefix`` of objects that have more bytes."""
        return [entry["Key"] for entry in self.entries(prefix) if entry["Size"] > size]

    def delete_job(self, tenant: str, job_id: str) -> None:
        """Delete all objects of a job."""
        self.delete(key for prefix in job_prefixes(tenant, job_id) for key in self.keys(prefix))

    def delete_outputs(self, tenant: str, job_id: str, *, but: Collection[str]) -> int:
        """Delete what the executions of a job stored, archives too, ``but`` some of it; returns how many objects those were."""
        unwanted = [key for prefix in job_prefixes(tenant, job_id)[1:] for key in self.keys(prefix) if key not in but]
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

    def create_bucket(self) -> bool:
        """Make the bucket. False: it is there already."""
        try:
            self.ping()
        except Unavailable as error:
            if not isinstance(error.__cause__, ObjectNotFound):
                raise
        else:
            return False
        elsewhere = (
            {} if self._settings.endpoint_url or self._settings.region == "us-east-1" else {"LocationConstraint": self._settings.region}
        )
        with _calling("make a bucket", ""):
            if elsewhere:
                self._client.create_bucket(Bucket=self._settings.bucket, CreateBucketConfiguration=elsewhere)  # type: ignore[arg-type]
            else:
                self._client.create_bucket(Bucket=self._settings.bucket)
        return True

    def ping(self) -> None:
        """Raise ``Unavailable`` unless the bucket answers."""
        try:
            with _calling("answer", ""):
                self._client.head_bucket(Bucket=self._settings.bucket)
        except ObjectNotFound as error:
            raise Unavailable(f"the object store has no bucket {self._settings.bucket}") from error


def seal(data: bytes, key: SecretStr) -> bytes:
    """Encrypt and sign what is not to be read by whoever reads the bucket (Fernet: AES-128-CBC, HMAC-SHA256)."""
    return _fernet(key).encrypt(data)


def unseal(data: bytes, key: SecretStr) -> bytes:
    """Undo it. Raises ``ValueError`` where it was sealed with another key, or changed."""
    try:
        return _fernet(key).decrypt(data)
    except InvalidToken as error:
        raise ValueError("it was sealed with another key than OUTFILL_BACKUP__KEY") from error


def _fernet(key: SecretStr) -> Fernet:
    """The key of the settings is long and random: a plain hash brings it to size."""
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.get_secret_value().encode()).digest()))


@contextmanager
def _calling(does: str, key: str) -> Iterator[None]:
    """Says in our errors what the store says of a call about ``key``: ``ObjectNotFound``, else ``Unavailable``, that it does not do what it
    ``does``. Its own words go to the log: they tell an operator what to mend, and a caller nothing.
    """
    try:
        yield
    except ClientError as error:
        said, meta = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        if said.get("Code") in _MISSING:
            raise ObjectNotFound(f"no object {key}") from error
        _log.warning(
            "store_failed",
            what=does,
            key=key,
            code=said.get("Code"),
            status=meta.get("HTTPStatusCode"),
            said=said.get("Message"),
            request=meta.get("RequestId"),
        )
        raise Unavailable(f"the object store does not {does}") from error
    except (BotoCoreError, Boto3Error) as error:
        _log.warning("store_failed", what=does, key=key, error=repr(error))
        raise Unavailable(f"the object store does not {does}") from error


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a store has understood a call and does not take it, which another form of it may cure; not that it is busy or away."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(error, ClientError) else 0
    return status == 501 or (400 <= status < 500 and status not in (408, 429))
