"""Structured logs on standard error: one JSON object a line, or coloured text on a console."""

from __future__ import annotations

import logging
import sys

import structlog

from core.settings import Logging


def _without_controls(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What callers wrote must not move a terminal's cursor. Traces keep their lines."""
    return {
        name: "".join(
            letter if letter.isprintable() or (letter == "\n" and name == "exception") else f"\\x{ord(letter):02x}" for letter in value
        )
        if isinstance(value, str)
        else value
        for name, value in event.items()
    }


def configure(settings: Logging, process: str) -> None:
    """Set up structlog and the standard library's loggers for one ``process`` (api, paint, steward)."""

    def name_process(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, "process": process}

    level = logging.getLevelNamesMapping()[settings.level]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        name_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer()] if settings.format == "json" else [_without_controls, structlog.dev.ConsoleRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # RQ logs a line or two for each job at INFO; ours say the same with more.
    for noisy in ("rq", "rq.worker", "rq.job", "httpx", "httpcore", "botocore", "boto3", "urllib3", "s3transfer", "PIL"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
