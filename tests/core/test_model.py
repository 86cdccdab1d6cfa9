"""The nouns: requests, origins, checkpoints, reports."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.model import (
    NOTHING,
    Checkpoint,
    Drop,
    Position,
    Reading,
    Report,
    RequestPlan,
    from_header,
    origin,
    resolve,
    to_header,
    without_credentials,
)

PLAN = RequestPlan(
    "POST",
    "https://api.example/v1/runs?tenant=a&stream=true#part",
    (("Authorization", "Bearer x"), ("Content-Type", "application/json"), ("X-Trace", "1"), ("Content-Length", "2")),
    b"{}",
)


def test_ids_are_utf8_on_the_wire() -> None:
    assert to_header("\u20ac").encode("latin-1") == b"\xe2\x82\xac"
    assert from_header(to_header("\u20ac")) == "\u20ac"
    assert from_header("\xff") == "\ufffd"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("/x", "https://api.example/x"),
        ("https://API.example:443/x", "https://API.example:443/x"),
        ("//other.example/x", None),
        ("http://api.example/x", None),
        ("http://[", None),
    ],
)
def test_resolve_never_leaves_the_origin(reference: str, expected: str | None) -> None:
    assert resolve("https://api.example/v1/runs", reference) == expected


class TestRequestPlan:
    def test_header_by_lower_case_name(self) -> None:
        assert PLAN.header("authorization") == "Bearer x"
        assert PLAN.header("accept") is None

    def test_with_headers_replaces_whatever_the_case(self) -> None:
        changed = PLAN.with_headers(
            ("AUTHORIZATION", "Bearer y"), ("Accept", "text/event-stream"), without=("x-trace",)
        )
        assert changed.headers == (
            ("Content-Type", "application/json"),
            ("Content-Length", "2"),
            ("AUTHORIZATION", "Bearer y"),
            ("Accept", "text/event-stream"),
        )
        assert PLAN.header("x-trace") == "1"

    def test_path_and_query(self) -> None:
        assert PLAN.path == "/v1/runs"
        assert PLAN.query == {"tenant": "a", "stream": "true"}

    def test_get_has_no_body_and_none_of_its_headers(self) -> None:
        keyed = PLAN.with_headers(
            ("Idempotency-Key", "k"), ("Transfer-Encoding", "chunked"), ("Expect", "100-continue")
        )
        got = keyed.get("/v1/runs/7", after=3)
        assert (got.method, got.url, got.body) == ("GET", "https://api.example/v1/runs/7?after=3", b"")
        assert got.headers == (("Authorization", "Bearer x"), ("X-Trace", "1"))

    @pytest.mark.parametrize(
        ("location", "expected"),
        [
            ("/v2/x", "https://api.example/v2/x"),
            ("x?q=1", "https://api.example/v1/x?q=1"),
            ("https://other.example/x", "https://other.example/x"),
            ("//other.example/x", "https://api.example//other.example/x"),
            ("?a=&b=2#here", "https://api.example/v1/runs?a=&b=2"),
        ],
    )
    def test_get_of_a_relative_url(self, location: str, expected: str) -> None:
        assert PLAN.get(location).url == expected

    def test_with_body(self) -> None:
        keyed = PLAN.with_headers(("Transfer-Encoding", "chunked"))
        changed = keyed.with_body(b'{"a": 1}')
        assert (changed.method, changed.url, changed.body) == (PLAN.method, PLAN.url, b'{"a": 1}')
        assert changed.headers == (
            ("Authorization", "Bearer x"),
            ("Content-Type", "application/json"),
            ("X-Trace", "1"),
            ("Content-Length", "8"),
        )
        assert PLAN.body == b"{}"

    def test_post_has_a_body_of_its_own(self) -> None:
        keyed = PLAN.with_headers(("Idempotency-Key", "k"))
        posted = keyed.post("/v1/runs/7/cancel", b"[]", "application/json")
        assert (posted.method, posted.url, posted.body) == ("POST", "https://api.example/v1/runs/7/cancel", b"[]")
        assert posted.headers == (
            ("Authorization", "Bearer x"),
            ("X-Trace", "1"),
            ("Content-Type", "application/json"),
            ("Content-Length", "2"),
        )

    def test_post_of_nothing(self) -> None:
        posted = PLAN.post("runs/7/cancel?wait=1")
        assert (posted.url, posted.body) == ("https://api.example/v1/runs/7/cancel?wait=1", b"")
        assert (posted.header("content-length"), posted.header("content-type")) == ("0", None)

    def test_get_replaces_fields_of_the_query(self) -> None:
        assert PLAN.get("/x?from=1&conv_id=a&from=2", **{"from": 9}).url == "https://api.example/x?conv_id=a&from=9"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://API.example/v1", ("https", "api.example", 443)),
        ("HTTPS://api.example:443/", ("https", "api.example", 443)),
        ("http://api.example", ("http", "api.example", 80)),
        ("http://user:pass@api.example:8080/", ("http", "api.example", 8080)),
        ("http://[::1]:8080/", ("http", "::1", 8080)),
        ("ftp://api.example/", ("ftp", "api.example", None)),
        ("/relative", ("", "", None)),
    ],
)
def test_origin(url: str, expected: tuple[str, str, int | None]) -> None:
    assert origin(url) == expected


CHECKPOINT = Checkpoint(
    "openai_responses",
    "POST",
    "https://api.example/v1/responses",
    last_event_id="é\u2028\n",
    sequence=12,
    offset=2**40,
    cursor="\u20ac 1",
    behind=3,
    behind_checksum=2**32 - 2,
    events=13,
    checksum=2**32 - 1,
    first_id="0",
    handle="resp_1",
    location="/v1/x",
    idempotency_key="k",
    complete=True,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


class TestCheckpoint:
    @pytest.mark.parametrize("checkpoint", [CHECKPOINT, Checkpoint("last_event_id", "GET", "https://x.example/")])
    def test_round_trip(self, checkpoint: Checkpoint) -> None:
        line = checkpoint.to_json()
        assert "\n" not in line
        assert Checkpoint.from_json(line) == checkpoint
        assert Checkpoint.from_json(line.encode()) == checkpoint

    @given(
        st.builds(
            Checkpoint,
            TEXT,
            TEXT,
            TEXT,
            TEXT,
            st.none() | st.integers(),
            st.integers(),
            TEXT,
            st.integers(),
            st.integers(),
        )
    )
    def test_round_trip_of_anything(self, checkpoint: Checkpoint) -> None:
        assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint

    @pytest.mark.parametrize("text", ["", "x", "null", "[]", "{}", '"x"', "7", b"\xff", '{"dialect": "x"}'])
    def test_what_is_no_checkpoint(self, text: str | bytes) -> None:
        with pytest.raises(ValueError, match="not a checkpoint"):
            Checkpoint.from_json(text)

    def test_what_is_nested_without_end_is_no_checkpoint(self) -> None:
        with pytest.raises(ValueError, match="not a checkpoint"):
            Checkpoint.from_json("[" * 100_000)

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_another_version(self, version: object) -> None:
        with pytest.raises(ValueError, match=f"version {version!r}"):
            Checkpoint.from_json(json.dumps({**json.loads(CHECKPOINT.to_json()), "version": version}))

    def test_unknown_fields(self) -> None:
        with pytest.raises(ValueError, match="does not know: a, b"):
            Checkpoint.from_json(json.dumps({**json.loads(CHECKPOINT.to_json()), "b": 1, "a": 2}))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("dialect", None),
            ("method", 1),
            ("url", ["x"]),
            ("last_event_id", None),
            ("sequence", "7"),
            ("sequence", 1.5),
            ("sequence", True),
            ("offset", None),
            ("cursor", None),
            ("behind", "3"),
            ("behind_checksum", 1.5),
            ("events", "3"),
            ("checksum", {}),
            ("first_id", 3),
            ("handle", 3),
            ("location", False),
            ("idempotency_key", 1),
            ("complete", 1),
            ("complete", None),
        ],
    )
    def test_wrong_types(self, name: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"{name}' is"):
            Checkpoint.from_json(json.dumps({**json.loads(CHECKPOINT.to_json()), name: value}))

    @pytest.mark.parametrize("name", ["dialect", "method", "url"])
    def test_what_must_not_lack(self, name: str) -> None:
        found = json.loads(CHECKPOINT.to_json())
        del found[name]
        with pytest.raises(ValueError, match="lacks"):
            Checkpoint.from_json(json.dumps(found))

    def test_every_field_has_its_type_checked(self) -> None:
        for name in json.loads(CHECKPOINT.to_json()):
            with pytest.raises(ValueError, match=r"version|cannot be right"):
                Checkpoint.from_json(json.dumps({**json.loads(CHECKPOINT.to_json()), name: [object.__name__]}))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:pass@api.example/x", "https://api.example/x"),
        ("https://user@api.example:8443/x", "https://api.example:8443/x"),
        ("https://u:p%40@[::1]:80/x", "https://[::1]:80/x"),
        ("https://api.example/x?key=1&a=2", "https://api.example/x?a=2"),
        ("https://api.example/x?api_key=1&access_token=2&API-KEY=3&token=4", "https://api.example/x"),
        ("https://api.example/x?sig=1&signature=2&design=3", "https://api.example/x?design=3"),
        (
            "https://api.example/x?X-Amz-Credential=1&X-Amz-Signature=2&password=3&client_secret=4&auth=5",
            "https://api.example/x",
        ),
        ("https://api.example/x?a=&b=%20&alt=sse#token=1", "https://api.example/x?a=&b=+&alt=sse"),
        ("/relative?token=1&x=2", "/relative?x=2"),
    ],
)
def test_without_credentials(url: str, expected: str) -> None:
    assert without_credentials(url) == expected


class TestPosition:
    def test_at_first(self) -> None:
        assert Position() == ("", None, 0, "", 0)
        assert Reading() == NOTHING
        assert not any(NOTHING)

    def test_a_checkpoint_has_all_of_it(self) -> None:
        fields = {field.name: field.default for field in dataclasses.fields(Checkpoint)}
        assert {name: fields[name] for name in Position._fields} == Position()._asdict()

    def test_a_checkpoint_of_an_earlier_release(self) -> None:
        """It knew of no cursors."""
        found = json.loads(CHECKPOINT.to_json())
        for name in ("cursor", "behind", "behind_checksum"):
            del found[name]
        read = Checkpoint.from_json(json.dumps(found))
        assert (read.cursor, read.behind, read.behind_checksum) == ("", 0, 0)


class TestReport:
    def test_summary(self) -> None:
        assert Report(attempts=1, events=1).summary() == "1 request, 1 event delivered"
        assert Report(attempts=2, events=0).summary() == "2 requests, 0 events delivered"

    def test_in_a_notebook(self) -> None:
        table = Report(attempts=3, drops=(Drop("broke", "resume", 1, 0.0),), seconds_lost=1.234)._repr_html_()
        assert table.startswith("<table>")
        assert ">attempts</th><td>3<" in table
        assert ">drops</th><td>1<" in table
        assert ">seconds lost</th><td>1.23<" in table
