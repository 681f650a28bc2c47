"""A client that openapi-python-client writes from the service's document does what a caller does."""

from __future__ import annotations

import base64
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import attrs
import httpx
import pytest
from conftest import Api
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.bodies import EXAMPLES
from service.local import LocalStack

PACKAGE = "outfill_client"
PHOTO = base64.b64decode(EXAMPLES["erase"]["value"]["image"].partition(",")[2])


@pytest.fixture(scope="module")
def said(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the generator says as it writes the client, which can be imported then."""
    folder = tmp_path_factory.mktemp("generated")
    document, config = folder / "openapi.json", folder / "config.yaml"
    document.write_text(httpx.get(f"{stack.url}/openapi.json").text)
    config.write_text("post_hooks: []\n")  # they only format
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--output-path", str(folder / PACKAGE)]
    done = subprocess.run(
        [*command, "--path", str(document), "--config", str(config)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    sys.path.insert(0, str(folder))
    yield done.stdout + done.stderr
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def part(name: str) -> Any:
    """A module of the client."""
    return importlib.import_module(f"{PACKAGE}.{name}")


@pytest.fixture
def client(said: str, stack: LocalStack) -> Iterator[Any]:
    """It, with a key."""
    with part("client").AuthenticatedClient(base_url=stack.url, token=stack.api_key) as made:
        yield made


def test_the_document_is_valid(api: Api) -> None:
    """As OpenAPI 3.1, which it says that it is."""
    document = api.http.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_the_generator_leaves_nothing_out(said: str) -> None:
    """It warns of nothing, and every module that it writes can be imported."""
    assert "Warning" not in said, said
    package = importlib.import_module(PACKAGE)
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")]
    assert len([importlib.import_module(name) for name in names]) > 100


def test_a_generated_client_uploads_makes_a_job_lists_and_is_refused(client: Any) -> None:
    """An upload, a job of it by JSON, a page with that job, and a refusal with its code and field, all by types of its own."""
    models, types, jobs = part("models"), part("types"), "api.jobs"
    file = types.File(payload=BytesIO(PHOTO), file_name="photo.png", mime_type="image/png")
    upload = part("api.uploads.uploads_create").sync(client=client, body=models.UploadsCreateBody(file=file))
    assert isinstance(upload, models.Upload)
    request = models.OutpaintRequest(operation="outpaint", image=upload.source, expand=models.Expand(left=16))
    job = part(f"{jobs}.jobs_create").sync(client=client, body=request, prefer="wait=55")
    assert isinstance(job, models.Job)
    assert (job.status, job.operation) == ("succeeded", "outpaint")
    page = part(f"{jobs}.jobs_page").sync(client=client, limit=10)
    assert isinstance(page, models.JobList)
    assert job.id in [each.id for each in page.items]
    refused = part(f"{jobs}.jobs_create").sync(
        client=client, body=models.OutpaintRequest(operation="outpaint", image=upload.source, expand=models.Expand(left=0))
    )
    assert isinstance(refused, models.Problem)
    assert (refused.status, refused.code, refused.field) == (422, "invalid_request", "expand")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_generated_client_may_send_every_default(client: Any, name: str) -> None:
    """It writes out what a request leaves out, and no model refuses that."""
    value = EXAMPLES[name]["value"]
    kind = getattr(part("models"), "".join(word.title() for word in value["operation"].split("_")) + "Request")
    request, unset = kind.from_dict(value), part("types").UNSET
    defaults = {field.name: field.default for field in attrs.fields(kind) if isinstance(field.default, str | int | float)}
    for field, default in defaults.items():  # what its constructor sets
        if getattr(request, field) is unset:
            setattr(request, field, default)
    assert len(request.to_dict()) > len(value)
    found = part("api.jobs.jobs_create").sync(client=client, body=request, dry_run=True)
    assert isinstance(found, part("models").DryRun), found


def test_a_generated_client_sends_a_form(client: Any) -> None:
    """A file beside the request, in one form."""
    models, types = part("models"), part("types")
    body = models.JobsCreateFilesBody(
        request=models.ReplaceBackgroundRequest(operation="replace_background", image="file:photo", background="white")
    )
    body["photo"] = types.File(payload=BytesIO(PHOTO), file_name="photo.png", mime_type="image/png")
    found = part("api.jobs.jobs_create").sync(client=client, body=body, dry_run=True)
    assert isinstance(found, models.DryRun), found
    assert found.model == "backdrop"
