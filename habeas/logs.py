"""What do the logs look like? One line of JSON an event on stderr: ids, counts and enums; never a person's data."""

import logging
import sys

import structlog


def configure() -> None:
    """Send structlog and the standard library the same way. An exception is told by its type alone."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        _type_only,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(ensure_ascii=False)],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
            foreign_pre_chain=[*shared, _library_message],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _type_only(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An exception's text and traceback may quote what a person wrote."""
    info = event.pop("exc_info", None)
    if info:
        error = info if isinstance(info, BaseException) else sys.exc_info()[1] if info is True else info[1]
        event["error"] = type(error).__name__
    event.pop("stack_info", None)
    return event


def _library_message(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A library's own words may quote a value: keep where they came from and how serious they are."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["logger"], event["event"] = record.name, f"{record.module}:{record.lineno}"
    return event
