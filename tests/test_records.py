"""What the dataclasses of a run directory's files write, they read, the same."""

import ast
import copy
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from run_files import GOOD as GOOD_FILES

import minipuzzle
from minipuzzle.arch import Selection
from minipuzzle.checked import fault, make, table
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS
from minipuzzle.memory import Workload
from minipuzzle.records import Distilled, Record, RunRecord, Scored, SearchResult
from minipuzzle.records.run_record import ParentPath, Stages
from minipuzzle.rundir import RunDir
from minipuzzle.settings import Generation


@dataclass(frozen=True, kw_only=True)
class Part:
    sizes: tuple[int, ...]
    pair: tuple[float, int] | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Whole(Record):
    schema: ClassVar[int] = 4
    again: ClassVar[str] = "Make it again."
    parts: dict[str, Part]
    share: float
    limit: int | None

    def contradiction(self):
        return "no parts" if not self.parts else ""


GOOD = Whole(
    parts={"a": Part(sizes=(1, 2)), "b": Part(sizes=(), pair=(0.5, 2), words=("x",))},
    share=1.0,
    limit=None,
)


def test_what_is_saved_is_loaded_and_none_by_default_is_left_out(tmp_path):
    GOOD.save(tmp_path / "whole.json")
    stored = json.loads((tmp_path / "whole.json").read_text())
    assert stored == {
        "schema": 4,
        "parts": {
            "a": {"sizes": [1, 2], "words": []},
            "b": {"sizes": [], "pair": [0.5, 2], "words": ["x"]},
        },
        "share": 1.0,
        "limit": None,
    }
    assert Whole.load(tmp_path / "whole.json") == GOOD
    (tmp_path / "whole.json").write_text(json.dumps({**stored, "share": 1, "more": 3}))
    assert type(Whole.load(tmp_path / "whole.json").share) is float


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 5}, "another schema"),
        ({"schema": None}, "another schema"),
        ({"parts": {}}, "contradicts itself"),
        ({"parts": {"a": {"sizes": [1, 2.5]}}}, r"at parts.'a'.sizes\[1\]"),
        ({"parts": {"a": {}}}, "at parts.'a'"),
        ({"parts": {"a": {"sizes": [], "pair": [1.0]}}}, "at parts.'a'.pair"),
        ({"share": math.nan}, "at share"),
    ],
)
def test_what_is_no_such_record_is_refused_with_what_to_do(change, words, tmp_path):
    (tmp_path / "whole.json").write_text(json.dumps({**GOOD.json(), **change}))
    with pytest.raises(UserError, match=words) as caught:
        Whole.load(tmp_path / "whole.json")
    assert caught.value.next == "Make it again."


def test_a_file_without_a_number_is_of_schema_1(tmp_path):
    class Old(Whole):
        schema = 1

    stored = Old(**vars(GOOD)).json()
    assert stored.pop("schema") == 1
    (tmp_path / "old.json").write_text(json.dumps(stored))
    assert Old.load(tmp_path / "old.json").share == 1.0
    with pytest.raises(UserError, match="another schema") as caught:
        Whole.load(tmp_path / "old.json")
    assert caught.value.got == "none"


def test_what_loading_would_refuse_is_refused_before_it_is_written():
    assert GOOD.checked() is GOOD
    with pytest.raises(UserError, match=r"What was measured .* at share") as caught:
        Whole(parts=GOOD.parts, share=math.inf, limit=None).checked()
    assert "weights" in caught.value.next


def test_making_and_unmaking_are_inverse():
    part = GOOD.parts["b"]
    assert make(Part, table(part)) == part
    assert fault(table(part), Part) is None
    assert make(dict[str, Part | None], {"x": None, "y": table(part)}) == {"x": None, "y": part}


def distilled(**changes):
    return Distilled(
        key="k",
        search="s",
        winner="c001",
        short_validation_loss={"c001": 3.0},
        final_kl=math.nan,
        tokens=5,
        short_tokens=0,
        **changes,
    )


def test_a_run_is_read_as_it_was_recorded(tmp_path):
    run = RunDir(tmp_path)
    run.set_parent(tmp_path, "f")
    run.mark(Scored(key="1"))
    run.mark(distilled(long_validation_loss=(3.0, 2.0)))
    again = RunDir(tmp_path)
    assert again.record.parent == ParentPath(path=str(tmp_path.resolve()), fingerprint="f")
    assert again.record.stages.names == ["score", "distill"]
    found = again.stage(Distilled)
    assert math.isnan(found.final_kl), "of a training that broke down"
    assert found.long_validation_loss == (3.0, 2.0)
    assert found.finished > "2026"
    stored = json.loads((tmp_path / "run.json").read_text())
    assert list(stored) == ["schema", "parent", "stages"]
    assert set(stored["stages"]) == {"score", "distill"}
    again.unmark("distill")
    assert RunDir(tmp_path).record.stages.names == ["score"]
    with pytest.raises(UserError, match="'distill' has not run"):
        RunDir(tmp_path).stage(Distilled)


def test_a_mark_replaces_the_last_one_of_its_stage():
    record = RunRecord(parent=None, stages=Stages().having(Scored(key="1")))
    assert record.stages.having(Scored(key="2")).score.key == "2"
    assert record.stages.having(distilled()).score.key == "1"
    assert record.stages.lacking("score") == Stages()


def test_a_search_is_read_as_it_was_written(tmp_path):
    found = SearchResult.read(GOOD_FILES["search.json"][1], tmp_path / "search.json")
    kept = found.selections["c001"]
    assert kept == Selection(blocks=({"heads": (0, 2)}, None), hidden=(0, 1))
    assert found.budget.workload == Workload(context=8)
    assert found.budget.asked == [(Generation(batch=1, prompt=8, output=1), "decode")]
    assert found.hidden_sizes == (8,)
    assert found.candidate("c001") is found.candidates[0]
    whole = replace(found, selections={"c001": replace(kept, hidden=None)})
    whole.save(tmp_path / "search.json")
    assert SearchResult.load(tmp_path / "search.json") == whole
    stored = json.loads((tmp_path / "search.json").read_text())
    assert stored["selections"] == {"c001": {"blocks": [{"heads": [0, 2]}, None], "hidden": None}}
    assert "tasks" not in stored["candidates"][0]
    assert stored["budget"]["bytes"] is None
    grid = replace(found, solver=None, front=None).json()
    assert not {"solver", "front"} & set(grid)


@pytest.mark.parametrize("indices", [[1, 1], [2, 1], [-1, 2]])
def test_kept_indices_ascend_from_0(indices, tmp_path):
    stored = copy.deepcopy(GOOD_FILES["search.json"][1])
    for place in (stored["selections"]["c001"]["blocks"][0], stored["selections"]["c001"]):
        name, before = next((n, v) for n, v in place.items() if n in ("heads", "hidden"))
        place[name] = indices
        with pytest.raises(UserError, match=r"at selections.'c001'") as caught:
            SearchResult.read(stored, tmp_path)
        assert caught.value.allowed == "ascending indices from 0"
        place[name] = before
    assert SearchResult.read(stored, tmp_path)


def test_the_letters_of_a_pattern_are_those_of_the_kinds(tmp_path, monkeypatch):
    stored = copy.deepcopy(GOOD_FILES["search.json"][1])
    stored["candidates"][0].update(pattern="Q", strip="Q.")
    with pytest.raises(UserError, match="pattern"):
        SearchResult.read(stored, tmp_path)
    monkeypatch.setitem(KINDS, "toy", SimpleNamespace(letter="Q"))
    assert SearchResult.read(stored, tmp_path).candidates[0].strip == "Q."
    stored["candidates"][0].update(pattern="Q.")
    with pytest.raises(UserError, match="pattern"):
        SearchResult.read(stored, tmp_path)


PLAIN = {"json", "inspect_json", "front_matter", "markdown"}
"""What is for JSON, YAML or a template: tables by nature."""


def test_rooms_hand_over_types():
    """No ``Any`` in what nas/, runs/, report/ and the API take and give, but matplotlib's axes."""
    room = Path(minipuzzle.__file__).parent
    files = [room / "api.py", room / "pipeline.py"]
    files += [p for name in ("nas", "runs", "report") for p in sorted((room / name).glob("*.py"))]
    found, seen = [], 0
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            seen += 1
            taken = [*node.args.args, *node.args.kwonlyargs]
            said = [a.annotation for a in taken if a.arg not in ("axes", "draw")]
            words = {ast.unparse(each) for each in (*said, node.returns) if each is not None}
            if node.name not in PLAIN and any("Any" in word for word in words):
                found.append(f"{file.relative_to(room)}: {node.name}")
    assert found == []
    assert seen > 150
