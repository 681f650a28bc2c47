"""The OpenAPI document is true: what it says of refusals, headers, links and bodies is what callers meet. `make fuzz` looks at the rest."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import jsonschema
import pytest
from conftest import Api
from pydantic import BaseModel, ValidationError

from api_schemas import requests, webhooks
from api_schemas.requests import RepeatRequest, job_request
from service import reference_prose as prose
from service.app import create_app
from service.bodies import EXAMPLES
from service.local import LocalStack

DOCUMENT: dict[str, Any] = create_app().openapi()
OPERATIONS = [(path, method, said) for path, operations in DOCUMENT["paths"].items() for method, said in operations.items()]
UNDER_KEY = [(path, method) for path, method, _ in OPERATIONS if path.startswith("/v1/")]
SOME_ID = "job_01JD0000000000000000000000"


def resolved(node: Any, reference: str) -> Any:
    """What a reference of the document leads to."""
    for name in reference.removeprefix("#/").split("/"):
        node = node[name]
    return node


def references(node: Any) -> Iterator[str]:
    """All of them."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == "$ref")
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_what_the_document_refers_to_is_in_it() -> None:
    """Each reference resolves, each link names an operation and a parameter of its path, and each operation has a name of its own."""
    assert all(resolved(DOCUMENT, reference) is not None for reference in references(DOCUMENT))
    paths = {said["operationId"]: path for path, _, said in OPERATIONS}
    assert len(paths) == len(OPERATIONS)
    links = [link for _, _, said in OPERATIONS for answer in said["responses"].values() for link in answer.get("links", {}).values()]
    assert {link["operationId"] for link in links} >= {"jobs_read", "jobs_cancel", "jobs_follow", "jobs_repeat", "webhooks_ping"}
    assert all("{%s}" % name in paths[link["operationId"]] for link in links for name in link["parameters"])  # noqa: UP031 - braces


@pytest.mark.parametrize(("path", "method"), UNDER_KEY)
def test_every_refusal_is_a_problem_with_its_codes(path: str, method: str) -> None:
    """Each route under /v1 says how it refuses a key, a rate, a request and an outage; each error has its codes, and its headers."""
    answers = DOCUMENT["paths"][path][method]["responses"]
    assert set(answers) >= {"401", "403", "422", "429", "503"}
    assert "500" not in answers
    for status, answer in answers.items():
        assert "X-Request-Id" in answer["headers"]
        if status >= "400":
            (said,) = answer["content"].items()
            assert said[0] == "application/problem+json"
            assert said[1]["schema"]["$ref"] == "#/components/schemas/Problem"
            assert said[1]["schema"]["properties"]["code"]["enum"]
    assert "Retry-After" in answers["429"]["headers"]
    assert "WWW-Authenticate" in answers["401"]["headers"]


@pytest.mark.parametrize(("path", "method"), UNDER_KEY)
def test_an_unknown_query_parameter_is_refused_once_the_key_is_known(api: Api, stack: LocalStack, path: str, method: str) -> None:
    """No route ignores a parameter that it does not have, and none looks at it before the key."""
    url = path.replace("{job_id}", SOME_ID).replace("{endpoint_id}", SOME_ID).replace("{delivery_id}", SOME_ID)
    body = {"url": "https://shop.example/"} if path == "/v1/webhooks" and method == "post" else {}
    more: dict[str, Any] = {"json": body} if method in ("post", "patch") else {}
    if path in ("/v1/uploads", "/v1/jobs") and method == "post":
        more = {"json": {"operation": "erase", "image": "x", "mask": "y"}}
    answer = api.http.request(method, url, params={"Nope": 1}, **more)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "unknown_field", "Nope")
    assert httpx.request(method, stack.url + url, params={"Nope": 1}, **more).status_code == 401


def test_a_method_that_a_path_lacks_is_told_those_that_it_has(api: Api) -> None:
    """Allow names the methods of all routes at the path, not of the first alone."""
    for path, allowed in (
        ("/v1/jobs", "GET, HEAD, POST"),
        (f"/v1/jobs/{SOME_ID}", "DELETE, GET, HEAD"),
        ("/v1/webhooks/deliveries", "GET, HEAD"),
    ):
        answer = api.http.request("QUERY", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["a%2Fb", "a%2fcancel", "a%5Cb", "a\\b", "%ff", "%c3%28"])
def test_an_id_with_a_slash_is_refused_by_name(stack: LocalStack, path: str) -> None:
    """It would be two parts of the path to one reader and one to another; and what is not UTF-8 is no id either."""
    answer = raw(stack, f"POST /v1/jobs/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n".encode())
    assert (answer["status"], answer["code"], answer["field"]) == (422, "invalid_request", "path")


@pytest.mark.parametrize(
    ("query", "field"), [("limit=%ff", "limit"), ("metadata=a%3D%c3%28&limit=1", "metadata"), ("%fe=1", "query"), ("a=1&b=%ed%a0%80", "b")]
)
def test_a_query_is_utf8(stack: LocalStack, query: str, field: str) -> None:
    """What is not is refused by the name of its parameter, and not read as something else."""
    answer = raw(stack, f"GET /v1/jobs?{query} HTTP/1.1\r\nHost: x\r\n".encode())
    assert (answer["status"], answer["code"], answer["field"]) == (422, "invalid_request", field)


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Idempotency-Key", "Prefer", "Last-Event-ID"])
def test_a_header_that_comes_twice_is_refused_by_name(stack: LocalStack, name: str) -> None:
    """One of them would be ignored, and another reader may ignore the other."""
    answer = raw(stack, f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{name}: a\r\n{name.lower()}: a\r\n".encode())
    assert (answer["status"], answer["code"], answer["field"]) == (422, "invalid_request", name)


def test_a_body_has_one_length(stack: LocalStack) -> None:
    """A length beside a transfer encoding is refused by name: two readers may see two ends."""
    answer = raw(stack, b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")
    assert (answer["status"], answer["field"]) == (422, "Content-Length")


@pytest.mark.parametrize("twice", [b"Host: x\r\nHost: x\r\n", b"Host: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n"])
def test_a_host_or_a_length_that_comes_twice_is_no_http(stack: LocalStack, twice: bytes) -> None:
    """The server itself refuses it, before anything of ours sees it."""
    with socket.create_connection(("127.0.0.1", stack.api_port), timeout=20) as connection:
        connection.sendall(b"POST /v1/jobs HTTP/1.1\r\n" + twice + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_a_header_is_utf8(stack: LocalStack) -> None:
    """What is not is refused by the name of its header."""
    answer = raw(stack, b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nIdempotency-Key: \xff\r\n")
    assert (answer["status"], answer["field"]) == (422, "Idempotency-Key")


def raw(stack: LocalStack, head: bytes, body: bytes = b"") -> dict[str, Any]:
    """The problem that is answered to bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", stack.api_port), timeout=20) as connection:
        connection.sendall(head + b"Connection: close\r\n\r\n" + body)
        answer = b"".join(iter(partial(connection.recv, 2**16), b""))
    problem: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert answer.startswith(f"HTTP/1.1 {problem['status']} ".encode())
    assert "request_id" in problem
    return problem


@pytest.mark.parametrize("moment", ["0", "1767225600", "2026-01-01", "2026-01-01T00:00:00"])
def test_a_moment_is_no_number(api: Api, moment: str) -> None:
    """Filters by time take RFC 3339 with a time zone and nothing else."""
    answer = api.http.get("/v1/jobs", params={"created_from": moment})
    assert (answer.status_code, answer.json()["field"]) == (422, "created_from")


def test_a_header_is_blamed_by_its_name(api: Api) -> None:
    """An error about a header says which."""
    answer = api.http.get(f"/v1/jobs/{SOME_ID}/events", headers={"Last-Event-ID": "x"})
    assert (answer.status_code, answer.json()["field"]) == (422, "Last-Event-ID")


@pytest.mark.parametrize("more", [{"data": {"Note": "x"}}, {"data": {"file": "x"}}])
def test_an_upload_has_one_part_and_no_others(api: Api, more: dict[str, Any]) -> None:
    """A part that nobody would look at is refused."""
    answer = api.http.post("/v1/uploads", files={"file": b"x"} if "Note" in more["data"] else {"other": b"x"}, **more)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_field")


@pytest.mark.parametrize(
    ("said", "given"), [("integer", '"3"'), ("integer", "true"), ("integer", "2.5"), ("boolean", "1"), ("boolean", '"yes"')]
)
def test_values_are_of_the_type_that_the_document_says(said: str, given: str) -> None:
    """Text is no number, and a number is neither true nor false."""
    field = {"integer": "num_images", "boolean": "previews"}[said]
    with pytest.raises(ValidationError):
        job_request.validate_json(f'{{"operation": "erase", "image": "x", "mask": "y", "{field}": {given}}}', strict=True)


def bodies() -> list[type[BaseModel]]:
    """All parts of request bodies."""
    found = {kind for module in (requests, webhooks) for kind in vars(module).values() if isinstance(kind, type)}
    return sorted((kind for kind in found if issubclass(kind, requests.Body)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("body", bodies())
def test_every_integer_may_be_written_with_a_point(body: type[BaseModel]) -> None:
    """8.0 is an integer by JSON Schema, wherever the document asks for one."""
    for name, schema in body.model_json_schema()["properties"].items():
        kinds = [schema, *schema.get("anyOf", ())]
        if "integer" in [kind.get("type") for kind in kinds]:
            with pytest.raises(ValidationError) as caught:
                body.model_validate_json(f'{{"{name}": 8.0, "no such field": 1}}', strict=True)
            assert (name,) not in [fault["loc"] for fault in caught.value.errors()]


def test_null_is_offered_only_where_it_is_taken() -> None:
    """A change of an endpoint takes no null, and its schema offers none; that of a repetition does both."""
    for name in webhooks.EndpointChanges.model_fields:
        assert "null" not in str(DOCUMENT["components"]["schemas"]["EndpointChanges"]["properties"][name])
        with pytest.raises(ValidationError):
            webhooks.EndpointChanges.model_validate_json(f'{{"{name}": null}}')
    for name in RepeatRequest.model_fields:
        assert "null" in str(DOCUMENT["components"]["schemas"]["RepeatRequest"]["properties"][name])
        RepeatRequest.model_validate_json(f'{{"{name}": null}}', strict=True)


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Of a schema of the document."""
    return jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def examples() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """All of the document: where, the schema beside it, and the value."""
    sent = ((name, "told", operation["post"]["requestBody"]) for name, operation in DOCUMENT["webhooks"].items())
    asked = ((said["operationId"], "request", said["requestBody"]) for _, _, said in OPERATIONS if "requestBody" in said)
    answers = ((said["operationId"], status, answer) for _, _, said in OPERATIONS for status, answer in said["responses"].items())
    for operation, what, holder in (*sent, *asked, *answers):
        for media in holder.get("content", {}).values():
            for name, example in media.get("examples", {}).items():
                yield f"{operation} {what} {name}", media["schema"], example["value"]
            if "example" in media and media["schema"]:
                yield f"{operation} {what}", media["schema"], media["example"]


@pytest.mark.parametrize(("schema", "value"), [pytest.param(*rest, id=name) for name, *rest in examples()])
def test_every_example_is_valid(schema: dict[str, Any], value: Any) -> None:
    """By the schema beside it."""
    assert [error.message for error in validator(schema).iter_errors(value)] == []


def test_there_is_an_example_of_every_answer() -> None:
    """Every 2xx with a body of JSON has one, but those for machines; and so has the problem."""
    shown = {name.rpartition(" ")[0] for name, _, _ in examples()}
    wanted = {
        f"{said['operationId']} {status}"
        for path, _, said in OPERATIONS
        for status, answer in said["responses"].items()
        if path.startswith("/v1/") and status < "300" and "application/json" in answer.get("content", {})
    }
    assert wanted <= shown
    problem = DOCUMENT["components"]["schemas"]["Problem"]
    assert [error.message for example in problem["examples"] for error in validator(problem).iter_errors(example)] == []


def test_an_example_of_a_job_has_what_a_job_has(api: Api) -> None:
    """The fields of the examples are those that the service answers with, all the way down; so they stay true as it changes."""
    request = EXAMPLES["white_background"]["value"]
    job = api.http.post("/v1/jobs", json=request, headers={"Prefer": "wait=55"}).json()
    for live, kept in (
        (job, prose.EXAMPLES["succeeded"]),
        (api.http.post("/v1/jobs", params={"dry_run": True}, json=request).json(), prose.EXAMPLES["dry_run"]),
        (api.http.post("/v1/uploads/presigned").json(), prose.EXAMPLES["presigned"]),
    ):
        assert shape(live) == shape(kept)


def shape(value: Any) -> Any:
    """The names in a value of JSON."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items() if name != "metadata"}
    return [shape(inner) for inner in value] if isinstance(value, list) else None


def test_every_operation_has_a_title_of_its_own() -> None:
    """Under which the reference lists it; there is a first page, and a word on each group."""
    titles = [said["summary"] for _, _, said in OPERATIONS]
    assert len(set(titles)) == len(titles)
    assert set(prose.TITLES) == {said["operationId"] for _, _, said in OPERATIONS}
    assert {tag["name"] for tag in DOCUMENT["tags"]} == {name for _, _, said in OPERATIONS for name in said["tags"]}
    assert "Idempotency-Key" in DOCUMENT["info"]["description"]


def test_the_document_tells_of_every_webhook() -> None:
    """Each event that is sent is among the webhooks, with its body and the headers of its signature."""
    assert set(DOCUMENT["webhooks"]) == {*requests.JobEvent, "webhook.ping"}
    for event, operation in DOCUMENT["webhooks"].items():
        assert {parameter["name"] for parameter in operation["post"]["parameters"]} == {
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
        }
        schema = operation["post"]["requestBody"]["content"]["application/json"]["schema"]
        body = {**schema, **resolved(DOCUMENT, schema["$ref"])}["properties"]["type"] | schema.get("properties", {}).get("type", {})
        assert body["const"] == event


def test_rules_over_several_fields_are_in_the_document() -> None:
    """A validator refuses what the service refuses: `expand` beside `canvas`, a quality of a PNG."""
    image = EXAMPLES["outpaint"]["value"]["image"]
    schema = {"$ref": "#/components/schemas/OutpaintRequest"}
    good = {"operation": "outpaint", "image": image, "expand": {"left": 8}}
    bad = ({**good, "canvas": {"ratio": "4:5"}}, {**good, "output": {"quality": 90}}, {**good, "expand": {}})
    assert validator(schema).is_valid(good)
    assert not any(validator(schema).is_valid(each) for each in bad)
