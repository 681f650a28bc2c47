"""The settings: one frozen object, built once from ``OUTFILL_*`` variables and passed in.

Nested fields are joined by two underscores: ``OUTFILL_S3__BUCKET``. Lists and tables are JSON. A variable that is empty is as if unset. docs/operations.md has the table.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

import redis.asyncio.connection
import redis.connection
from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from api_schemas.access import Scope

_PROXY = re.compile(r"^https?://([^/?#@\s]+@)?[^/?#@\s]+/?$")
_ORIGIN = re.compile(r"^https?://[^/?#\s@A-Z]+$")
TENANT_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")
Precision = Literal["float32", "float16", "bfloat16"]


_SENTINEL_PORT = 26379
_REDIS_SCHEMES: Mapping[str, Literal["tcp", "tls", "unix"]] = {
    "redis": "tcp",
    "rediss": "tls",
    "unix": "unix",
    "redis+sentinel": "tcp",
    "rediss+sentinel": "tls",
}
_NOT_IN_URLS = frozenset({"decode_responses", "encoding", "encoding_errors"})
"""Options of connections that would change what they read."""
_OF_POOLS = frozenset({"max_connections"})


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is: at an address, or wherever sentinels say that the primary of a service is."""

    transport: Literal["tcp", "tls", "unix"]
    options: Mapping[str, Any]
    """Of each connection, as redis-py names them."""
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: Mapping[str, Any] | None = None
    """Of the connections to those."""

    @classmethod
    def of(cls, url: str) -> RedisAddress:
        """Read a URL. Raises ``ValueError``, which says what is wrong with it and nothing of what it holds."""
        scheme = url.partition("://")[0]
        if scheme not in _REDIS_SCHEMES or "://" not in url:
            raise ValueError(f"must begin with {', '.join(f'{known}://' for known in _REDIS_SCHEMES)}")
        parts = urlsplit(url)
        if parts.fragment:
            raise ValueError("has a #, which ends a URL; in a password write %23")
        if scheme.endswith("+sentinel"):
            found = cls._of_sentinels(scheme.partition("+")[0], parts.netloc, parts.path, parts.query)
        else:
            if scheme == "unix" and not parts.path:
                raise ValueError("names no socket: unix:///path/to/the.sock?db=0")
            if scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path):
                raise ValueError("has a path that is no number of a database")
            found = cls(_REDIS_SCHEMES[scheme], _options(url))
        found._check_options()
        return found

    @classmethod
    def _of_sentinels(cls, scheme: str, authority: str, path: str, query: str) -> RedisAddress:
        """``[user:password@]host[:port][,host[:port]…]/service[/db]``: user and password are those of Redis."""
        login, _, hosts = authority.rpartition("@")
        named = re.fullmatch(r"/([^/]+)(?:/(\d*))?", path)
        if named is None:
            raise ValueError("names no service: redis+sentinel://host:26379,host:26379/service/0")
        sentinels = []
        for host in hosts.split(","):
            written = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", host)
            if written is None:
                raise ValueError("names a sentinel that is no host and port")
            sentinels.append((written[1].strip("[]"), int(written[2] or _SENTINEL_PORT)))
        options = _options(f"{scheme}://{login}{'@' if login else ''}sentinel/{named[2] or 0}?{query}")
        options.pop("host")
        own = {name.removeprefix("sentinel_"): options.pop(name) for name in ("sentinel_username", "sentinel_password") if name in options}
        own |= {name: value for name, value in options.items() if name.startswith("ssl_")}
        return cls(_REDIS_SCHEMES[scheme], options, tuple(sentinels), unquote(named[1]), own)

    def _check_options(self) -> None:
        if ours := sorted(_NOT_IN_URLS & set(self.options)):
            raise ValueError(f"has an option that is not for the URL: {ours[0]}")
        options = {name: value for name, value in self.options.items() if name not in _OF_POOLS}
        for module in (redis.connection, redis.asyncio.connection):
            kind = {"tcp": module.Connection, "tls": module.SSLConnection, "unix": module.UnixDomainSocketConnection}[self.transport]
            try:
                kind(**options)
            except (TypeError, ValueError, redis.RedisError) as error:
                unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                raise ValueError(f"has an option that is not known: {unknown[1]}" if unknown else "has options that do not fit") from None


def _options(url: str) -> dict[str, Any]:
    """What redis-py reads from a URL. Raises ``ValueError``."""
    try:
        options = dict(redis.connection.parse_url(url))  # type: ignore[no-untyped-call]
    except ValueError as error:
        odd = re.search(r"Invalid value for '(\w+)'", str(error))
        raise ValueError(f"has no good value for {odd[1]}" if odd else "has no good host and port") from None
    options.pop("connection_class", None)
    return options


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _parts_of(value: Any) -> Any:
    """A list that is written with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class ApiKey(_Section):
    """A caller. The key itself is never stored, only its SHA-256; ``outfill keys new`` prints both."""

    tenant: Annotated[str, StringConstraints(pattern=TENANT_NAME.pattern)]
    key_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    webhook_secret: SecretStr
    scopes: tuple[Scope, ...] = tuple(Scope)
    requests_per_minute: int | None = Field(default=None, ge=0)

    @field_validator("webhook_secret")
    @classmethod
    def _standard_webhooks_secret(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        try:
            size = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
        except binascii.Error as error:
            raise ValueError("must be whsec_ and base64") from error
        if not text.startswith("whsec_") or not 24 <= size <= 64:
            raise ValueError("must be whsec_ and base64 of 24 to 64 bytes")
        return value


class Redis(_Section):
    """The queue and the job records."""

    url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis or Valkey, with AOF on and `noeviction`: `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `rediss+sentinel://`; see Redis.",
    )
    fsync_timeout_ms: int = Field(
        default=2000, ge=0, description="How long an accepted job waits for `WAITAOF`; then 503. 0 does not wait (a Redis without AOF)."
    )
    replicas: int = Field(
        default=0,
        ge=0,
        description="Replicas, with AOF on, that must have an accepted job on disk too before its 202; then a failover loses none.",
    )

    @property
    def address(self) -> RedisAddress:
        """Where it is."""
        return RedisAddress.of(self.url.get_secret_value())

    @field_validator("url")
    @classmethod
    def _leads_somewhere(cls, value: SecretStr) -> SecretStr:
        RedisAddress.of(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _replicas_are_waited_for(self) -> Self:
        if self.replicas and not self.fsync_timeout_ms:
            raise ValueError("replicas are waited for by WAITAOF: set fsync_timeout_ms too")
        return self


class S3(_Section):
    """The object store."""

    endpoint_url: str | None = Field(default=None, description="Of an S3-compatible store; empty for AWS.")
    public_endpoint_url: str | None = Field(
        default=None, description="What presigned URLs are made with, where callers reach S3 by another name."
    )
    region: str = Field(default="us-east-1", description="Region of the bucket.")
    bucket: str = Field(default="outfill", min_length=3, description="It must exist.")
    access_key_id: str | None = Field(default=None, description="Empty: boto3's own chain (instance role, profile).")
    secret_access_key: SecretStr | None = Field(default=None, description="Goes with the key id.")
    session_token: SecretStr | None = Field(
        default=None, description="Goes with temporary credentials (STS, IAM Identity Center), which end with their session."
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="Where the bucket stands in addresses: `path`, or `virtual` (in the host's name, as OSS, COS and OBS want it); `auto`: `virtual` for "
        "AWS, `path` with an endpoint URL.",
    )
    presign_ttl_s: int = Field(default=3600, ge=60, le=604800, description="Life of a presigned URL.")


class Http(_Section):
    """How the API is reached."""

    root_path: Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = Field(
        default="",
        description="Prefix of all paths at the proxy, such as `/outfill`, whether or not the proxy takes it off; the same for the API and the steward.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins whose pages may call from browsers, comma-separated, such as `https://shop.example`; `*`: any. Empty: none.",
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return _parts_of(value)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError("an origin is scheme://host or scheme://host:port, in lower case and without a slash at its end")
        return value


class Auth(_Section):
    """Who may call."""

    keys: tuple[ApiKey, ...] = Field(
        default=(),
        description='JSON list of `{"tenant", "key_sha256", "webhook_secret"}`, and if wanted `"scopes"` and `"requests_per_minute"`: '
        "keys beside those that `outfill keys create` makes.",
    )


class Limits(_Section):
    """What is accepted, and how much of it is kept. Those of a tenant hold unless `outfill tenants set` says otherwise."""

    requests_per_minute: int = Field(
        default=6000, ge=0, description="Requests that one key may make, unless it has a number of its own; 0: any number."
    )
    queued_jobs: int = Field(
        default=10_000, ge=0, description="Jobs of one tenant that may wait, unless `outfill tenants set` says otherwise; 0: any number."
    )
    queued_bytes: int = Field(
        default=64 * 2**20, ge=0, description="Bytes that the requests of a tenant's waiting jobs may take in Redis; 0: any number."
    )
    running_jobs: int = Field(
        default=0,
        ge=0,
        description="Jobs of one tenant that workers may hold at once, unless `outfill tenants set` says otherwise; 0: any number.",
    )
    ended_jobs: int = Field(
        default=1_000_000,
        ge=0,
        description="Jobs of one tenant that succeeded or failed and are kept; beyond it the oldest go. 0: any number.",
    )
    ended_bytes: int = Field(
        default=4 * 2**30,
        ge=0,
        description="Bytes that they may take in Redis, with their events and webhooks; beyond it the oldest go. 0: any.",
    )
    canceled_jobs: int = Field(
        default=1000,
        ge=0,
        description="Jobs of one tenant that were canceled or expired and are kept; beyond it the oldest go. 0: any number.",
    )
    canceled_bytes: int = Field(
        default=8 * 2**20,
        ge=0,
        description="Bytes that they may take in Redis, with their events and webhooks; beyond it the oldest go. 0: any.",
    )
    leaving_bytes: int = Field(
        default=4 * 2**20,
        ge=0,
        description="Bytes of a tenant's jobs beyond these four that are not deleted yet; above it new jobs are 429. 0: any number.",
    )
    stored_bytes: int = Field(
        default=4 * 2**40,
        ge=0,
        description="Bytes of the inputs and outputs (without layers) of a tenant's jobs that have ended; beyond it the oldest jobs go. 0: any.",
    )
    reservations: int = Field(
        default=1000, ge=0, description="Idempotency keys of one tenant that wait for their job's acceptance; then 429. 0: any number."
    )
    uploads: int = Field(
        default=20_000, ge=0, description="Uploads of one tenant, stored or expected, that have not expired; then 429. 0: any number."
    )
    upload_bytes: int = Field(
        default=256 * 2**30,
        ge=0,
        description="Bytes of them; one whose size was not told counts as `OUTFILL_LIMITS__MAX_IMAGE_BYTES`. Then 429. 0: any number.",
    )

    max_body_bytes: int = Field(default=64 * 2**20, ge=1024, description="Of a request body.")
    body_timeout_s: float = Field(default=120.0, gt=0, description="For a request body to arrive in; then 408.")
    body_bytes_in_flight: int = Field(
        default=768 * 2**20,
        ge=1024,
        description="Of all request bodies, and of images that they name, that one API process holds at once; then 429. A fourth is for tenants that have none.",
    )
    body_bytes_in_flight_per_tenant: int = Field(
        default=192 * 2**20, ge=1024, description="Of one tenant, and at least one body of `OUTFILL_LIMITS__MAX_BODY_BYTES`; then 429."
    )
    body_bytes_per_s: int = Field(
        default=32 * 2**20,
        ge=0,
        description="Of request bodies of one tenant that one API process reads in the long run, after four seconds' worth at once; more arrives later. 0: any number.",
    )
    turn_s: float = Field(
        default=30.0,
        gt=0,
        description="That a request waits in one API process for its turns, in all; then 429. As many wait as the bytes allow.",
    )
    max_image_bytes: int = Field(default=32 * 2**20, ge=1024, description="Of one encoded image.")
    max_image_pixels: int = Field(default=80_000_000, ge=1, description="Width times height of one image, input or output.")
    decoding_s: float = Field(
        default=20.0, gt=0, description="Processor seconds that decoding one image, or checking those of a request, may take."
    )
    decoding_bytes: int = Field(
        default=4 * 2**30, ge=2**28, description="Memory that all decoding of one process may take at once; what does not fit in waits."
    )
    decoding_slack_bytes: int = Field(
        default=256 * 2**20, ge=2**26, description="Memory that decoding an image may take beyond what a picture of its size needs."
    )


class Outbound(_Section):
    """HTTP to addresses that callers name (image URLs, webhooks)."""

    allow_private: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(), description="Networks that may be reached although they are not public, comma-separated."
    )
    ports: Annotated[tuple[int, ...], NoDecode] = Field(
        default=(80, 443, 8080, 8443), description="Ports that may be reached at public addresses, comma-separated."
    )
    timeout_s: float = Field(default=15.0, gt=0, description="For one image download, in all; and for one webhook.")
    contact: str = Field(
        default="",
        pattern=r"^[!-'*-~]*$",
        description="Address of a page or a mailbox of yours, which hosts and receivers are told in the `User-Agent`: some refuse callers without one.",
    )
    proxy: SecretStr | None = Field(
        default=None,
        description="URL of an HTTP proxy that every call goes through (`http://user:password@host:port`). It looks names up, and so has to refuse inner ones.",
    )
    ca_file: FilePath | None = Field(
        default=None, description="PEM file of certificate authorities that are trusted beside the public ones."
    )

    @field_validator("proxy")
    @classmethod
    def _is_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _PROXY.fullmatch(value.get_secret_value()):
            raise ValueError("must be http://host:port or https://host:port, with user:password@ before the host if wanted")
        return value

    @field_validator("allow_private", "ports", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return _parts_of(value)


class Webhooks(_Section):
    """Delivery by the steward."""

    retry_delays_s: tuple[float, ...] = Field(
        default=(5, 300, 1800, 7200, 18000, 36000, 36000),
        description="Pauses between attempts (JSON list); then the webhook is a dead letter.",
    )
    concurrency: int = Field(default=64, ge=1, description="Deliveries in flight at once.")
    concurrency_per_tenant: int = Field(default=16, ge=1, description="Of one tenant, so that slow receivers keep only their own waiting.")
    concurrency_per_endpoint: int = Field(default=4, ge=1, description="To one endpoint.")
    poll_s: float = Field(default=0.25, gt=0, description="How often the outbox is looked at.")
    max_endpoints: int = Field(default=16, ge=0, description="Endpoints that a tenant may register.")
    kept_s: int = Field(default=7 * 86400, ge=60, description="How long deliveries and dead letters are kept after their end.")
    deliveries: int = Field(
        default=100_000,
        ge=0,
        description="Deliveries and dead letters of one tenant that are kept; beyond it the oldest go. 0: any number.",
    )
    pings: int = Field(default=8, ge=0, description="Test events that may wait for one endpoint; then 429. 0: any number.")


class Events(_Section):
    """Server-sent events."""

    heartbeat_s: float = Field(default=15.0, gt=0, description="A stream that has nothing to tell says so this often.")
    streams: int = Field(
        default=1000, ge=1, description="Streams open at one API process; then 429. As many wait by `Prefer`; then 202 at once."
    )
    streams_per_tenant: int = Field(default=100, ge=1, description="Of one tenant.")


class Models(_Section):
    """Where weights are."""

    store: Path = Field(
        default=Path(sys.prefix) / "share" / "outfill" / "models",
        description="The model store: `u2netp.onnx`, and a directory for each model that `outfill models pull` brought.",
    )
    directories: dict[str, Path] = Field(
        default_factory=dict, description="JSON table of model name to the directory of a diffusers pipeline, a segmenter or an edge model."
    )
    subject_model: str = Field(
        default="u2netp",
        min_length=1,
        max_length=128,
        description="Segmenter that finds the product where a request names none; the same for the API and all workers, each of which loads it.",
    )
    edge_model: str = Field(
        default="",
        max_length=128,
        description="Edge model that draws the edges of products, by its name in the store or in `OUTFILL_MODELS__DIRECTORIES`; the same for all workers. "
        "Empty: they are drawn without a network.",
    )
    allow_noncommercial: bool = Field(
        default=False,
        description="Serve models whose `outfill.json` says `commercial_use: false`. `true` says that yours is no commercial use.",
    )


class Worker(_Section):
    """The paint worker."""

    serve: Annotated[tuple[str, ...], NoDecode] = Field(default=(), description="Models to serve, comma-separated; empty: all that it has.")
    slots: int = Field(default=8, ge=1, description="Jobs that it holds at once.")
    pictures_bytes: int = Field(
        default=8 * 2**30,
        ge=2**26,
        description="Memory for the pictures of all jobs that it holds; a job that does not fit waits, and one that needs more has it to itself.",
    )
    lease_s: int = Field(default=30, ge=2, description="A worker silent for this long is taken for dead and its jobs are requeued.")
    max_attempts: int = Field(default=5, ge=1, description="Times that a job is begun before it fails with `attempts_exhausted`.")
    overdue_s: float = Field(default=60.0, gt=0, description="A job that has waited longer goes before any priority.")
    poll_s: float = Field(default=0.1, gt=0, description="How often an idle worker looks for work.")
    stage_s: float = Field(
        default=300.0, gt=0, description="A job whose picture takes longer to prepare, or to compose, fails with `stage_too_long`."
    )
    stall_s: float = Field(
        default=600.0, gt=0, description="The watchdog ends the process when one step, or what is left of such a job, takes longer."
    )
    device: str = Field(default="auto", description="`cpu`, `cuda`, `cuda:1`; `auto` takes a GPU if there is one.")
    dtype: Precision | Literal["auto"] = Field(default="auto", description="`float32`, `bfloat16`, `float16`; `auto` chooses by device.")
    attention: Literal["auto", "flash", "efficient", "cudnn", "math", "xformers"] = Field(
        default="auto",
        description="Attention kernel of the UNet: `flash`, `efficient`, `cudnn`, `math`, `xformers`; `auto`: see GPU workers.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="`on`, `off`; `auto` compiles the UNet on a GPU where a trial succeeds. It lengthens the start."
    )
    offload: Literal["auto", "none", "text_encoders", "group"] = Field(
        default="auto", description="What waits in main memory: `none`, `text_encoders`, `group` (the UNet's blocks too); `auto` by memory."
    )
    vae_tiling: Literal["auto", "on", "off"] = Field(
        default="auto", description="Decode in tiles, which can differ in tone: `on`, `off`; `auto` where memory is short."
    )
    threads: int = Field(default=0, ge=0, description="Threads of one model call on a CPU; 0: the library's default.")
    subject_looks: int = Field(
        default=7,
        ge=1,
        le=7,
        description="Times that a segmenter looks at a photo at most; two where it is sure. Fewer cost less and find less; see Quality.",
    )

    @field_validator("serve", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return _parts_of(value)


class Quality(_Section):
    """Limits of the report's verdict."""

    seam_warn: float = Field(default=1.5, gt=1, description="`warn` from this `seam` on.")
    seam_fail: float = Field(default=3.0, gt=1, description="`fail` from this `seam` on.")
    colour_shift_warn: float = Field(default=6.0, gt=0, description="`warn` from this `colour_shift` (ΔE2000) on.")
    colour_shift_fail: float = Field(default=15.0, gt=0, description="`fail` from this `colour_shift` on.")
    rim_warn: float = Field(default=8.0, gt=0, description="`warn` from this `rim` (levels) on.")
    rim_fail: float = Field(default=20.0, gt=0, description="`fail` from this `rim` on.")
    step_warn: float = Field(default=2.5, gt=0, description="`warn` from this `step` (levels) on.")
    step_fail: float = Field(default=16.0, gt=0, description="`fail` from this `step` on.")
    model_error_warn: float = Field(default=2.0, gt=0, description="`warn` from this `model_error.corrected` (ΔE2000) on.")
    model_error_fail: float = Field(default=8.0, gt=0, description="`fail` from this `model_error.corrected` on.")
    growth_warn: float = Field(default=0.05, gt=0, description="`warn` from this growth of the product on, as a share of its area.")
    growth_fail: float = Field(default=0.25, gt=0, description="`fail` from this growth on.")
    confidence_warn: float = Field(default=0.5, ge=0, le=1, description="`warn` below this `subject.confidence`.")
    confidence_fail: float = Field(default=0.1, ge=0, le=1, description="`fail` below this `subject.confidence`.")
    scale_warn: float = Field(default=2.0, gt=0, description="`warn` from this `scale` on: photo and product are enlarged so many times.")
    scale_fail: float = Field(default=4.0, gt=0, description="`fail` from this `scale` on.")


class Steward(_Section):
    """The housekeeper."""

    period_s: float = Field(default=5.0, gt=0, description="Between two rounds.")
    lock_s: float = Field(default=10.0, gt=0, description="A steward silent for this long loses its place to a spare.")


class Retention(_Section):
    """When things are deleted."""

    jobs_s: int = Field(default=7 * 86400, ge=1, description="Records, inputs and outputs, after the job ended.")
    inputs_s: int | None = Field(default=None, ge=0, description="Inputs, after the job ended; empty: as long as the record.")
    outputs_s: int | None = Field(default=None, ge=0, description="Outputs, after the job ended; empty: as long as the record.")
    uploads_s: int = Field(default=86400, ge=60, description="Uploads, after they were asked for.")


class Backup(_Section):
    """What a lost Redis is rebuilt from, in the bucket."""

    key: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Seals the copy of keys, tenants and endpoints that the steward keeps in the bucket (`openssl rand -hex 32`); unset: there is none.",
    )


class Metrics(_Section):
    """Prometheus."""

    port: int = Field(default=0, ge=0, le=65535, description="Where a worker or a steward serves `/metrics`; 0 does not.")
    host: str = Field(default="127.0.0.1", description="The address that it listens at.")
    token: SecretStr | None = Field(
        default=None, min_length=1, description="Bearer token of the API's `/metrics`; unset: it answers 401 to all."
    )


class Logging(_Section):
    """Logs on standard error."""

    level: str = Field(default="INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")
    format: str = Field(default="json", pattern="^(json|console)$", description="`json` or `console`.")


class Settings(BaseSettings):
    """Everything that a process is told. Build it once, at the edge."""

    model_config = SettingsConfigDict(
        env_prefix="OUTFILL_", env_nested_delimiter="__", env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    redis: Redis = Redis()
    s3: S3 = S3()
    http: Http = Http()
    auth: Auth = Auth()
    limits: Limits = Limits()
    outbound: Outbound = Outbound()
    webhooks: Webhooks = Webhooks()
    events: Events = Events()
    models: Models = Models()
    worker: Worker = Worker()
    quality: Quality = Quality()
    steward: Steward = Steward()
    retention: Retention = Retention()
    backup: Backup = Backup()
    metrics: Metrics = Metrics()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _has_all_sections(self) -> Self:
        sections = type(self).model_fields
        for name in os.environ:
            section, separator, _ = name.upper().removeprefix("OUTFILL_").partition("__")
            if name.upper().startswith("OUTFILL_") and separator and section.lower() not in sections:
                raise ValueError(f"{name}: there is no section {section}; there are {', '.join(sections).upper()}")
        return self

    @classmethod
    def read(cls) -> Self:
        """Return the settings of this process's environment.

        Raises ``SystemExit`` with a line for each fault, which names the variable and tells nothing of its value.
        """
        try:
            return cls()
        except ValidationError as error:
            faults = [_fault(found["loc"], found["type"], found["msg"]) for found in error.errors(include_url=False, include_input=False)]
        except SettingsError as error:
            faults = list(_broken_json()) or [str(error)]
        raise SystemExit("\n".join(["These settings cannot be used:", *(f"  {fault}" for fault in faults)]))


def _fault(place: Sequence[int | str], kind: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not place:
        return message
    section, *names = map(str, place)
    variable = f"OUTFILL_{section}__{names[0]}".upper() if names else f"OUTFILL_{section}".upper()
    if kind == "extra_forbidden" and len(names) == 1:
        known = getattr(Settings.model_fields[section].annotation, "model_fields", {})
        meant = [f"OUTFILL_{section}__{name}".upper() for name in get_close_matches(names[0], known, n=1)]
        return f"{variable}: there is no such setting" + (f"; {meant[0]} is one" if meant else "")
    return f"{variable}: {'.'.join(names[1:])}{': ' if names[1:] else ''}{message}"


def _broken_json() -> Iterator[str]:
    """The variables that begin as JSON and are none, of which pydantic-settings tells the section alone."""
    for name, value in os.environ.items():
        if name.upper().startswith("OUTFILL_") and value.lstrip()[:1] in ("[", "{"):
            try:
                json.loads(value)
            except json.JSONDecodeError as error:
                yield f"{name}: is not JSON: {error.msg} at character {error.pos + 1}"
