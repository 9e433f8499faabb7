"""The catalogue as JSON, and the JSON Schema of its file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from resnext_convert.converter.releases import Release


def to_json(releases: Release | tuple[Release, ...]) -> bytes:
    """One release, or several as a list, as the schema's ``Release`` says."""
    kind: Any = Release if isinstance(releases, Release) else tuple[Release, ...]
    return TypeAdapter[Any](kind).dump_json(releases, indent=1) + b"\n"


class _Schema(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> bytes:
    """The JSON Schema of ``schemas/releases.toml``; ``schemas/releases.schema.json`` holds it."""
    made = TypeAdapter(_Document).json_schema(schema_generator=_Schema)
    for definition in (made, *made["$defs"].values()):
        definition["additionalProperties"] = False
        definition.pop("description", None)  # the docstring, which pydantic puts here since 2.13
        definition.pop("title", None)
    heading = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "releases.toml",
        "description": "The published releases; the dataclasses of converter/releases.py say what each key means.",
    }
    return (json.dumps(heading | made, indent=1, sort_keys=True) + "\n").encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    release: tuple[Release, ...]


if __name__ == "__main__":  # python -m resnext_convert.converter.release_schema > schemas/releases.schema.json
    sys.stdout.buffer.write(schema())
