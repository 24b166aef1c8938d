"""A pipeline's page: one table of its stages, few calls, and whatever breaks is told in it."""

import json
from typing import Any
from uuid import UUID, uuid4

import prefect.artifacts
import prefect.client.orchestration
import pytest

from logitfuse.flows.pipeline_page import LONGEST, StageTable


class Api:
    """Stands in for Prefect and keeps the rows it is sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[list[dict[str, Any]]] = []
        monkeypatch.setattr(prefect.artifacts, "create_table_artifact", self.create)
        monkeypatch.setattr(prefect.client.orchestration, "get_client", lambda **_: self)

    def create(self, rows: list[dict[str, Any]], key: str, description: str) -> UUID:
        assert key == "my-run-stages" and description
        self.sent.append(json.loads(json.dumps(rows)))
        return uuid4()

    def update_artifact(self, made: UUID, update: Any) -> None:
        self.sent.append(json.loads(update.data))

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    return Api(monkeypatch)


def became(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["stage"]: row["what became of it"] for row in rows}


def test_stages_come_one_by_one(api: Api) -> None:
    table = StageTable("My run", print)
    with table.showing():
        table.up_to_date("prepare")
        assert not api.sent
        with table.at_work("encode") as note:
            assert became(api.sent[-1]) == {"prepare": "up to date", "encode": "at work"}
            note("encode: 3 done, 0 kept in 1.0 s")
        table.up_to_date("check")
    assert became(api.sent[-1]) == {"prepare": "up to date", "encode": "3 done, 0 kept in 1.0 s", "check": "up to date"}


def test_a_failure_is_the_last_that_is_shown(api: Api) -> None:
    table = StageTable("My run", print)
    with pytest.raises(OSError), table.showing(), table.at_work("encode"):
        raise OSError("disk " + "x" * 1000)
    assert len(api.sent) == 2
    said = became(api.sent[-1])["encode"]
    assert said.startswith("failed: OSError: disk x") and len(said) < LONGEST + 20


def test_nothing_to_do_costs_no_call_and_a_broken_server_one_warning(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    table = StageTable("My run", warnings.append)
    with table.showing():
        table.up_to_date("prepare")
    assert not api.sent

    def broken(*_: object, **__: object) -> UUID:
        raise ConnectionError("no route")

    monkeypatch.setattr(prefect.artifacts, "create_table_artifact", broken)
    with table.showing():
        for stage in ("encode", "check"):
            with table.at_work(stage) as note:
                note("done")
    assert warnings == ["the stages cannot be shown: ConnectionError: no route. The work goes on."]
