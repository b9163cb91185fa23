"""The annotation that orders what a pod answers."""

import re
from typing import Any

import pytest

from kproxy.simulator.kinds.behaviour import answers


def pod(text: str) -> dict[str, Any]:
    return {"metadata": {"annotations": {answers.ANNOTATION_ANSWERS: text}}}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/users", 201),
        ("/users/", 202),
        ("/users/1", 202),
        ("/users/old/1", 203),
        ("/usersx", 200),
        ("/", 200),
    ],
)
def test_the_longest_key_that_fits_counts(path: str, status: int) -> None:
    given = pod("{/users: {status: 201}, /users/: {status: 202}, /users/old/: {status: 203}}")
    assert answers.answer_to(given, path).status == status


def test_json_is_read_as_well() -> None:
    text = '{"/a": {"status": 404, "body": "no", "delay": 1.5, "headers": {"X-A": "b"}}}'
    (answer,) = answers.parse(text).values()
    assert answer == answers.Answer(404, "no", 1.5, {"X-A": "b"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be one map of paths"),
        ("a: {}\n---\nb: {}", "must be one map of paths"),
        ("[", "not valid YAML: line 2"),
        ("{users: {}}", "must name paths that begin with '/', unlike 'users'"),
        ("{/a: {status: 99}}", "Expected `int` >= 200"),
        ("{/a: {statuz: 200}}", "unknown field `statuz`"),
        ("{/a: {body: 3}}", "Expected `str | null`, got `int`"),
        ("{/a: {delay: -1}}", "Expected `float` >= 0"),
        ("{/a: {headers: {Content-Length: '3'}}}", "must not set the header 'Content-Length'"),
        ("{/a: {headers: {'a b': c}}}", "must not set the header 'a b'"),
        ('{/a: {headers: {a: "b\\r\\nc: d"}}}', "must not have control characters"),
        ("x" * 70_000, "must have no more than 65536 characters"),
    ],
)
def test_what_is_wrong_is_said(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        answers.parse(text)
