"""Repeats a job: the same resolved request and inputs, as a job of its own."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import InputsGone, ParameterNotSupported
from api_schemas.jobs import JobSpec, new_id
from api_schemas.requests import JobRequest, RepeatRequest, job_request
from core.jobs import Reservation
from core.storage import ObjectNotFound, input_key
from service.auth import Tenant
from service.deps import Services
from service.idempotency import digest
from service.problems import invalid
from service.resolve import resolve
from service.sources import with_stored_sources
from service.submit import accept, check_webhook, new_spec


async def repeat(parts: Services, caller: Tenant, job_id: str, changes: RepeatRequest, reservation: Reservation | None = None) -> JobSpec:
    """Accept a job like ``job_id`` but for ``changes``. The inputs are copied, so that neither job needs the other.

    Raises ``JobNotFound``, ``InputsGone``, and what is wrong with the changed request: its model may have gone too.
    """
    first = (await run_in_threadpool(parts.records.get, job_id, caller.name)).spec
    models, subject_model = await run_in_threadpool(parts.catalogue.models), parts.settings.models.subject_model
    resolved, card = resolve(_changed(first.request, changes), models, subject_model=subject_model, is_repeat=True)
    if resolved.webhook is not None:
        check_webhook(parts, resolved.webhook.url, "webhook.url")

    def store(spec: JobSpec) -> None:
        for name, ref in spec.inputs.items():
            try:
                parts.storage.copy(first.inputs[name].key, ref.key)
            except ObjectNotFound:
                raise InputsGone("the inputs of the job were deleted; post the request anew") from None

    new = new_id("job")
    inputs = {name: ref.model_copy(update={"key": input_key(caller.name, new, name)}) for name, ref in first.inputs.items()}
    spec = new_spec(caller, new, card, with_stored_sources(resolved), inputs)
    await accept(parts, spec, store, reservation)
    return spec


def repeat_digest(job_id: str, changes: RepeatRequest) -> str:
    """What tells one repetition from another (service/idempotency.py)."""
    return digest({"repeat": job_id, **changes.model_dump(mode="json", exclude_unset=True)}, {})


def _changed(request: JobRequest, changes: RepeatRequest) -> JobRequest:
    asked = {name for name in changes.model_fields_set if getattr(changes, name) is not None}
    if strange := sorted(asked - set(type(request).model_fields)):
        raise ParameterNotSupported(f"{request.operation} has none", field=strange[0])
    # Without its defaults: a default that is written out would count as asked for, and be refused where the model would ignore it.
    fields = request.model_dump(exclude_defaults=True) | changes.model_dump(exclude_unset=True)
    try:
        return job_request.validate_python({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise invalid(error) from error
