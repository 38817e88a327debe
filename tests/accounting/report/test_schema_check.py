"""The schema that is shipped, and the checker that reads it."""

import pytest
from dpjax_accounting.report.schema import report_schema
from dpjax_accounting.report.schema_check import violations


def parts(schema):
    yield schema
    for one in schema.get("properties", {}).values():
        assert one.get("description")
        yield from parts(one)
    if "items" in schema:
        yield from parts(schema["items"])


def test_every_field_is_described_and_no_object_is_open_by_accident():
    opened = []
    for part in parts(report_schema()):
        if "properties" in part:
            assert part["required"] == list(part["properties"])
            if part["additionalProperties"]:
                opened.append(part["description"])
    # Their fields are checked when the mechanism is read.
    assert len(opened) == 2 and all("mechanism" in text for text in opened)


def test_keywords_that_are_not_understood_are_refused():
    with pytest.raises(NotImplementedError, match="oneOf"):
        violations(1, {"oneOf": []})


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        (True, {"type": "integer"}, "must be integer; got True"),
        (1, {"type": "boolean"}, "must be boolean"),
        (True, {"const": 1}, "must be 1; got True"),
        (1.5, {"type": ["integer", "null"]}, "must be integer or null"),
        (2, {"maximum": 1}, "at most 1"),
        ([], {"minItems": 1}, "must not be empty"),
        ("xa", {"pattern": "^a"}, "must match"),
        ({"a": [1, "b"]}, {"properties": {"a": {"items": {"type": "integer"}}}}, r"a\[1\] must be"),
        ({"a": 1}, {"additionalProperties": {"type": "string"}}, "a must be string"),
    ],
)
def test_violations(value, schema, message):
    (found,) = violations(value, schema)
    with pytest.raises(ValueError, match=message):
        raise ValueError(found)


def test_what_fits():
    schema = {"type": ["object", "null"], "properties": {"a": {"type": "number", "minimum": 0}}}
    for value in (None, {}, {"a": 0}, {"a": 1.5, "b": 1}):
        assert violations(value, schema) == []
