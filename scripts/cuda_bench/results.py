"""The results of scripts/bench-cuda: a file of JSON lines, to which every figure is added as soon as it is measured, and
a table of them for docs/performance.md."""
import contextlib
import io
import json
import pathlib
import tempfile


class Results:
    """What was measured, in `results.jsonl` of a directory; `results.md` is written out of it."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.records = read(directory)

    def add(self, part, what, value, unit, **more):
        """`limit` is what `value` could be; `goal` is what its share of that should be; `note` is for people."""
        record = {"part": part, "what": what, "value": value, "unit": unit, **more}
        if more.get("limit"):
            record["share"] = value / more["limit"]
        if more.get("goal") is not None:
            record["met"] = record.get("share", value) >= more["goal"]
        self.records.append(record)
        with open(self.directory / "results.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        print("  " + line(record), flush=True)
        (self.directory / "results.md").write_text(table(self.records))

    def latest(self, part, what):
        found = [record for record in self.records if (record["part"], record["what"]) == (part, what)]
        return found[-1]["value"] if found else None


def read(directory):
    file = directory / "results.jsonl"
    return [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []


def number(value):
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cells(record):
    spread = f" ({number(record['least'])} to {number(record['most'])})" if "least" in record else ""
    goal = record.get("goal")
    met = "" if goal is None else ("met" if record["met"] else "**not met**")
    wanted = "" if goal is None else (f"{goal:.0%}" if "share" in record else f"{number(goal)} {record['unit']}".strip())
    return [
        record["part"],
        record["what"],
        f"{number(record['value'])}{spread} {record['unit']}".strip(),
        number(record["limit"]) if record.get("limit") else "",
        f"{record['share']:.1%}" if "share" in record else "",
        f"{wanted}: {met}" if goal is not None else "",
        record.get("note", ""),
    ]


def line(record):
    part, what, value, limit, share, goal, note = cells(record)
    text = f"{part}: {what}: {value}"
    if limit:
        text += f", limit {limit} ({share})"
    return text + (f", goal {goal}" if goal else "") + (f"; {note}" if note else "")


def table(records):
    lines = ["| part | what | measured | limit | share | goal | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(cells(record)) + " |" for record in records]
    return "\n".join(lines) + "\n"


def self_test():
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        results = Results(pathlib.Path(directory))
        results.add("bf16", "decode", 70.0, "tokens/s", limit=100.0, goal=0.7)
        results.add("bf16", "many", 24.9, "x", goal=25)
        again = Results(pathlib.Path(directory))
        assert [record["met"] for record in again.records] == [True, False]
        assert again.latest("bf16", "decode") == 70.0 and again.latest("q4", "decode") is None
        assert "| 70 tokens/s | 100 | 70.0% | 70%: met |" in table(again.records), table(again.records)


if __name__ == "__main__":
    self_test()
