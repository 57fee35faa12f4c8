"""The published OpenAPI documents are what the code serves."""

import json
import re
from typing import Any

import msgspec
import pytest

from pingfeed.core.events import CLIENT_TYPES
from tests import openapi_documents


@pytest.mark.parametrize("service", openapi_documents.SERVICES)
def test_the_document_is_current(service: str) -> None:
    published = (openapi_documents.FOLDER / f"{service}.json").read_bytes()
    assert published == openapi_documents.document(service), "run `make openapi`"


@pytest.mark.parametrize("service", openapi_documents.SERVICES)
def test_every_reference_leads_somewhere(service: str) -> None:
    text = (openapi_documents.FOLDER / f"{service}.json").read_text()
    schemas = json.loads(text)["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', text)) <= schemas.keys()


def ingest() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((openapi_documents.FOLDER / "ingest.json").read_text())
    return document


def test_every_event_type_and_field_is_documented() -> None:
    schemas = ingest()["components"]["schemas"]
    for kind, struct in CLIENT_TYPES.items():
        properties = schemas[struct.__name__]["properties"]
        assert properties["event_type"] == {"enum": [kind]}
        assert set(struct.__struct_fields__) <= properties.keys()
    assert "FeedServed" not in schemas


@pytest.mark.parametrize("path", ["/track-event", "/track-events"])
def test_every_status_of_the_contract_is_documented(path: str) -> None:
    answers = ingest()["paths"][path]["post"]["responses"]
    assert set(answers) == {"202", "400", "401", "403", "413", "422", "429", "503"}


def test_the_examples_would_be_accepted() -> None:
    post = ingest()["paths"]["/track-event"]["post"]
    examples = post["requestBody"]["content"]["application/json"]["examples"]
    assert len(examples) == 3
    for example in examples.values():
        msgspec.convert(example["value"], CLIENT_TYPES[example["value"]["event_type"]])
