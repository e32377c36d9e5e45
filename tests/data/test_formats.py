"""Files as people have them: separators, encodings, sheets and nested fields are read, and what was assumed is said."""

import io
import json
import re
import sys
import zipfile

import openpyxl
import pytest

from lorahub.config import DataConfig
from lorahub.data import claims, table_check, tables
from lorahub.errors import DataError, MissingPackageError
from lorahub.serving import files

CITIES = ("Leeds", "Perth", "Osaka", "Delhi", "Lagos", "Oslo")
ROWS = [(f"{CITIES[place % 6]} spent {place}0 million on trams.", ("true", "false")[place % 2]) for place in range(60)]


def text(separator=",", header=("claim", "label"), start=""):
    lines = [header, *((start + claim, label) for claim, label in ROWS)]
    return "".join(separator.join(line) + "\n" for line in lines)


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def load(path, **settings):
    return claims.load(DataConfig(id=str(path), **settings), compare=False)


def notes(path, **settings):
    return [line for line in load(path, **settings).warnings if "one file: split" not in line]


def sheets(path, **content):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in content.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    book.save(path)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return load(write(tmp_path_factory.mktemp("plain") / "a.csv", text())).source.sha256


READ = {
    "semicolons": ("a.csv", text(";"), "utf-8", "a.csv: read with semicolons between columns."),
    "bars": ("a.csv", text("|"), "utf-8", "a.csv: read with vertical bars between columns."),
    "tabs as csv": ("a.csv", text("\t"), "utf-8", "a.csv: read with tabs between columns."),
    "commas as tsv": ("a.tsv", text(","), "utf-8", "a.tsv: read with commas between columns."),
    "a mark": ("a.csv", "\ufeff" + text(), "utf-8", None),
    "UTF-16": ("a.tsv", text("\t"), "utf-16", "a.tsv: read as UTF-16."),
    "UTF-16 of the other order": ("a.csv", "\ufeff" + text(), "utf-16-be", "a.csv: read as UTF-16."),
    "both": ("a.csv", text(";"), "utf-16", "a.csv: read as UTF-16, semicolons between columns."),
    "UTF-16 jsonl": ("a.jsonl", "".join(json.dumps({"claim": c, "label": v}) + "\n" for c, v in ROWS), "utf-16",
                     "a.jsonl: read as UTF-16."),
    "an array": ("a.json", json.dumps([{"claim": c, "label": v} for c, v in ROWS], indent=1), "utf-8", None),
    "lines": ("a.json", "".join(json.dumps({"claim": c, "label": v}) + "\n" for c, v in ROWS), "utf-8", None),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_a_format_gives_the_same_claims_and_a_note(kind, tmp_path, expected):
    name, content, encoding, note = READ[kind]
    found = load(write(tmp_path / name, content, encoding))
    assert found.source.sha256 == expected
    assert found.warnings[:-1] == ([note] if note else [])


def test_a_text_with_other_separators_is_read_by_the_one_that_fits(tmp_path):
    path = write(tmp_path / "a.csv", text(";", start="Yes, well, | and "))
    assert list(tables.open_table(path).rows())[3]["claim"] == "Yes, well, | and " + ROWS[3][0]
    # Of two that fit, the one with known names.
    path = write(tmp_path / "b.csv", text(header=("id;claim", "label"), start="3;"))
    assert tables.open_table(path).columns == ("id;claim", "label")


WESTERN = ["Orléans’ trams", "Köln größer", "São Paulo", "København", "£5", "“quoted” words", "La città è più povera"]
OTHERS = {
    "cp1250": ["Rząd wydał 470 milionów złotych.", "Vláda utratila 470 milionů korun, řekl ministr."],
    "cp1251": ["Правительство потратило деньги.", "Уряд витратив 470 мільйонів."],
    "cp1253": ["Η κυβέρνηση ξόδεψε χρήματα."],
    "cp1254": ["Aşılar geri çekildi, belediye başkanı yalanladı."],
    "shift_jis": ["政府は学校に4億円を費やした。"],
    "mac_roman": ["Les élèves ont été retirés à l’école, a dépêché la préfète."],
    "cp850": ["Les élèves ont été retirés en février."],
}


@pytest.mark.parametrize("words", WESTERN)
@pytest.mark.parametrize("lines", [1, 30])
def test_windows_1252_is_read_and_said_with_a_word(words, lines, tmp_path):
    content = text() + "".join(f"{words} and tram {line},true\n" for line in range(lines))
    path = write(tmp_path / "a.csv", content, "cp1252")
    table = tables.open_table(path)
    assert list(table.rows())[60]["claim"] == f"{words} and tram 0"
    assert table.notes[0].startswith("a.csv: read as Windows-1252 (line 62: ")


@pytest.mark.parametrize("encoding", OTHERS)
@pytest.mark.parametrize("lines", [1, 30])
def test_other_encodings_are_refused_with_the_line(encoding, lines, tmp_path):
    for words in OTHERS[encoding]:
        path = write(tmp_path / "a.csv", text() + f"{words},true\n" * lines, encoding)
        with pytest.raises(DataError, match=r"a\.csv, line 62: byte 0x.. is not UTF-8.*iconv"):
            tables.open_table(path)


def test_a_quote_that_swallows_rows_is_refused_and_lines_in_a_cell_are_not(tmp_path):
    head, rows = "claim,label\n", [f"{claim},{label}\n" for claim, label in ROWS]
    for start, end in (
        ('"He said no,false\n', 'a size of 5",true\n'),
        ('"He said no,false\n', 'she said "no" then,true\n'),
    ):
        path = write(tmp_path / "a.csv", head + "".join(rows[:30]) + start + "".join(rows[30:33]) + end)
        with pytest.raises(DataError, match=r"a\.csv, row 31: a quote .* swallow rows"):
            list(tables.open_table(path).rows())
    # Where the label comes first, and only one line is swallowed.
    flipped = "label,claim\n" + "".join(f"{label},{claim}\n" for claim, label in ROWS)
    path = write(tmp_path / "a.csv", flipped + 'true,"He said no\nfalse,a size of 5"\n')
    with pytest.raises(DataError, match=r"a\.csv, row 61: a quote"):
        list(tables.open_table(path).rows())
    cell = "Dear all,\nmany thanks, and more,\nyours"
    for content in (head + "".join(rows) + f'"{cell}",true\n', flipped + f'true,"{cell}"\n'):
        assert list(tables.open_table(write(tmp_path / "a.csv", content)).rows())[-1]["claim"] == cell


def test_quotes_of_a_file_that_quotes_nothing_are_text(tmp_path):
    content = "claim\tlabel\n" + "".join(f'"Masks" in {claim}\t{label}\n' for claim, label in ROWS)
    table = tables.open_table(write(tmp_path / "a.tsv", content))
    assert next(table.rows())["claim"] == f'"Masks" in {ROWS[0][0]}'
    assert table.notes == ("a.tsv: read with quotes as characters of the text",)
    # Beside cells that are quoted, it is an error.
    content = 'claim,label\n"a, b",true\n' + "".join(f'"Masks" in {claim},{label}\n' for claim, label in ROWS)
    with pytest.raises(DataError, match="row 2: text stands behind a closing quote"):
        list(tables.open_table(write(tmp_path / "a.csv", content)).rows())


def test_columns_are_named_by_position(tmp_path, expected):
    path = write(tmp_path / "a.csv", "".join(f"{claim},{label}\n" for claim, label in ROWS))
    with pytest.raises(DataError, match="the first row looks like data: add a header, or name columns by position"):
        load(path)
    found = load(path, claim="1", label="2")
    assert found.source.sha256 == expected
    assert found.warnings[0] == "a.csv: read without a header, because its first row looks like data."
    assert load(write(tmp_path / "b.csv", text(header=("c", "v"))), claim="1", label="2").source.sha256 == expected
    # The file has fourteen columns, two of its first cells are equal, and there are few rows.
    row = "{}.json\t{}\tWe have less Americans working now than in the 70s.\teconomy\t1\t0\t1\t0\n"
    path = write(tmp_path / "c.tsv", row.format(1, "false") + row.format(2, "true"))
    with pytest.raises(DataError, match="the first row looks like data"):
        load(path)
    assert [line["2"] for line in tables.open_table(path).headerless.rows()] == ["false", "true"]
    assert files.check(path, tmp_path / "out.csv", claim="3", evidence=None).claim == "3"
    assert table_check.read(path, claim="3", label="2").labels == {"false": 1, "true": 1}


@pytest.mark.parametrize("header", ["claim,label", "What is the claim that you read?,Is it true?", "statement text,x"])
def test_a_header_is_no_data(header, tmp_path):
    table = tables.open_table(write(tmp_path / "a.csv", text(header=header.split(","))))
    assert table.headerless is None


def test_fields_are_named_with_dots(tmp_path, expected):
    nested = [{"meta": {"claim": claim, "tags": []}, "out": [{"verdict": label}]} for claim, label in ROWS]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in nested))
    assert load(path, claim="meta.claim", label="out.0.verdict").source.sha256 == expected
    with pytest.raises(DataError, match=r"no column 'meta.clam'; it has meta.claim, meta.tags, out"):
        load(path, claim="meta.clam", label="out.0.verdict")
    copy = tmp_path / "a.parquet"
    with tables.Writer(copy, kind=".parquet") as writer:
        writer.write(nested)
    assert load(copy, claim="meta.claim", label="out.0.verdict").source.sha256 == expected
    assert files.check(path, tmp_path / "out.csv", claim="meta.claim", evidence=None).claim == "meta.claim"


def test_a_sheet_is_read(tmp_path, expected):
    rows = [("Claim", "Rating"), *ROWS]
    path = sheets(tmp_path / "a.xlsx", Claims=rows, Notes=[("a note",)])
    assert load(path).source.sha256 == expected
    assert notes(path) == [
        "a.xlsx: read from the sheet 'Claims', the first of 2 (Claims, Notes); data.sheet names another one."
    ]
    path = sheets(tmp_path / "b.xlsx", Notes=[("a note",)], Claims=[(), *rows[:3], (None, ""), *rows[3:]])
    assert load(path, sheet="Claims").source.sha256 == expected
    with pytest.raises(DataError, match="no sheet 'X'; it has Notes, Claims"):
        load(path, sheet="X")
    with pytest.raises(DataError, match="no column claim.*first of 2"):
        load(path)
    path = sheets(tmp_path / "c.xlsx", A=ROWS)
    assert load(path, claim="1", label="2").source.sha256 == expected
    path = sheets(
        tmp_path / "d.xlsx", A=[("claim", "label"), *((c, v == "true") for c, v in ROWS), ("x", True, "more")]
    )
    with pytest.raises(DataError, match="row 61 of the sheet 'A' has 3 cells"):
        load(path)


def test_formulas_of_a_sheet_are_read_as_their_values(tmp_path):
    path = sheets(tmp_path / "a.xlsx", A=[("claim", "label"), ("a", "=1+1"), ("b", "=HYPERLINK(1)")])
    stored = re.compile(rb"(<f>1\+1</f>)<v ?(/>|></v>)")
    _edit(path, "xl/worksheets/sheet1.xml", lambda xml: stored.sub(rb"\1<v>2</v>", xml))
    assert list(tables.open_table(path).rows()) == [{"claim": "a", "label": 2}, {"claim": "b", "label": None}]


def _edit(path, part, change):
    """Write the archive again with one part changed."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[part] = change(content[part])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def _bomb(path):
    """256 megabytes of zeros and a few more in a part of 300 kilobytes."""
    path = sheets(path, A=[("claim", "label"), *ROWS])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/worksheets/x.xml", "w") as part:
        for _ in range(16):
            part.write(bytes(2**24))
    return path


def _entities(xml):
    start = xml.index(b"<worksheet")
    bomb = b'<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    return xml[:start] + bomb + xml[start:].replace(b"<sheetData>", b"<sheetData><row><c><v>&b;</v></c></row>")


def test_a_hostile_sheet_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="unpacks to more than 256 MB"):
        tables.open_table(_bomb(tmp_path / "bomb.xlsx"))
    path = sheets(tmp_path / "styles.xlsx", A=[("claim", "label"), *ROWS])
    _edit(path, "xl/styles.xml", lambda xml: xml + b" " * 2**24)
    with pytest.raises(DataError, match=r"its part xl/styles\.xml unpacks to more than 8 MB"):
        tables.open_table(path)
    path = sheets(tmp_path / "entities.xlsx", A=[("claim", "label"), *ROWS])
    _edit(path, "xl/worksheets/sheet1.xml", _entities)
    with pytest.raises(DataError, match="not a readable xlsx file.*ntit"):
        list(tables.open_table(path).rows())
    # A cell in the last corner of the sheet, which would be filled up to it.
    far = [("claim", "label"), *ROWS]
    path = sheets(tmp_path / "far.xlsx", A=far)
    book = openpyxl.load_workbook(path)
    book["A"]["XFD9"] = "x"
    book.save(path)
    with pytest.raises(DataError, match="more than 2,000 columns"):
        list(tables.open_table(path).rows())
    monkeypatch.setattr("lorahub.data.spreadsheets._MOST_ROWS", 50)
    with pytest.raises(DataError, match="more than 50 rows"):
        list(tables.open_table(sheets(tmp_path / "long.xlsx", A=far)).rows())


def test_links_to_other_files_are_not_followed(tmp_path):
    path = sheets(tmp_path / "a.xlsx", A=[("claim", "label"), *ROWS])
    kind = b"http://schemas.openxmlformats.org/officeDocument/2006/relationships/externalLink"
    outside = b'<Relationship Id="rId99" Type="%s" Target="file:///etc/passwd" TargetMode="External"/>' % kind
    _edit(
        path, "xl/_rels/workbook.xml.rels", lambda xml: xml.replace(b"</Relationships>", outside + b"</Relationships>")
    )
    assert len(list(tables.open_table(path).rows())) == 60
    # A sheet whose part lies outside of the archive does not exist.
    _edit(
        path, "xl/_rels/workbook.xml.rels", lambda xml: xml.replace(b"/xl/worksheets/sheet1.xml", b"/../../etc/passwd")
    )
    with pytest.raises(DataError):
        list(tables.open_table(path).rows())


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"x" * 100, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)])
def test_a_file_that_is_no_xlsx_is_refused_in_a_line(content, tmp_path):
    with pytest.raises(DataError, match="not a readable xlsx file"):
        tables.open_table(write(tmp_path / "a.xlsx", content))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("a.txt", "x")
    with pytest.raises(DataError, match="not a readable xlsx file"):
        tables.open_table(write(tmp_path / "a.xlsx", archive.getvalue()))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = sheets(tmp_path / "a.xlsx", A=[("claim", "label"), *ROWS])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'hf-lorahub\[excel\]'"):
        tables.open_table(path)


def test_a_json_array_has_limits(tmp_path, monkeypatch):
    path = write(tmp_path / "a.json", '[{"claim": "a"}, "b"]')
    with pytest.raises(DataError, match=r"a\.json, row 2 is not a JSON object"):
        list(tables.open_table(path).rows())
    with pytest.raises(DataError, match="not a JSON array"):
        tables.open_table(write(tmp_path / "b.json", '[{"claim": "a"}'))
    monkeypatch.setattr("lorahub.data.json_rows._LARGEST_ARRAY", 10)
    with pytest.raises(DataError, match="Save it as jsonl"):
        tables.open_table(path)


def test_labels_are_looked_at(tmp_path):
    def labelled(*labels, copies=1):
        rows = [f"claim {place},{label}\n" for place in range(60) for label in [labels[place % len(labels)]]]
        return write(tmp_path / "a.csv", "claim,label\n" + "".join(rows * copies))

    (note,) = notes(labelled("yes", "no", "Yes", "yes", "no", " no "))
    assert "'yes' (20), 'Yes' (10)" in note
    assert "'no' (20), ' no ' (10), read as 'no'" in note
    assert note.endswith("""Join them with --set 'data.label_map={"Yes": "yes"}'.""")
    assert load(tmp_path / "a.csv", label_map={"Yes": "yes"}).labels.names == ("no", "yes")
    assert "Yes" not in " ".join(notes(tmp_path / "a.csv", label_map={"Yes": "yes"}))
    (note,) = notes(labelled("True", "false", "TRUE"))
    assert "read as 'true'" in note
    assert notes(labelled("half-true", "true")) == []
    twice = labelled("yes", "no")
    twice.write_text(twice.read_text() + "Claim 3,yes\nclaim  4,no\n")
    assert notes(twice) == ["2 claims have both labels: the same text occurs with each of them."]
    for labels in ([f"0,{place}" for place in range(60)], [f"{place}.5" for place in range(60)], list(range(60))):
        rows = "".join(f"claim {place};{label}\n" for place, label in enumerate(labels))
        with pytest.raises(DataError, match="label holds 60 different numbers: this looks like a score"):
            load(write(tmp_path / "b.csv", "claim;label\n" + rows))
    assert len(load(labelled(*(f"{place / 2}" for place in range(2, 8)))).labels) == 6


PUBLISHED = {
    "statement,truth": "truth", "Tweet_Text,Check-Worthiness": "Check-Worthiness", "text,our rating": "our rating",
    "claim_text,review_rating": "review_rating", "tweet,Stance": "Stance", "claim,Gold Label": "Gold Label",
    "sentence,class_label": "class_label", "claim,veracity": "veracity", "text,target": "target",
    "claim,truthfulness": "truthfulness",
}  # fmt: skip


@pytest.mark.parametrize("header", PUBLISHED)
def test_label_columns_of_the_field_are_known(header, tmp_path):
    path = write(tmp_path / "a.csv", text(header=header.split(",")))
    assert load(path).labels.names == ("false", "true")
    assert notes(path) == []


def test_of_several_label_columns_the_first_is_read_and_the_others_are_named(tmp_path):
    content = "claim,stance,verdict\n" + "".join(f"{claim},{'ab'[len(claim) % 2]},{label}\n" for claim, label in ROWS)
    (note,) = notes(write(tmp_path / "a.csv", content))
    assert "the label is read from 'verdict'; 'stance' may be labels too" in note
    assert load(tmp_path / "a.csv", label="stance").labels.names == ("a", "b")


def test_a_claim_column_of_flags_is_refused_or_said(tmp_path):
    rows = "".join(f"{place % 2},{claim},{label}\n" for place, (claim, label) in enumerate(ROWS))
    path = write(tmp_path / "a.csv", "claim,sentence,label\n" + rows)
    with pytest.raises(DataError, match=r"'claim' holds '0', '1' and no texts, while 'sentence' holds texts"):
        load(path)
    with pytest.raises(DataError, match="--claim sentence"):
        files.check(path, tmp_path / "out.csv", claim=None, evidence=None)
    assert any("'sentence' holds texts" in note for note in notes(path, claim="claim"))
    assert "'sentence' holds texts" in table_check.read(path, claim="claim").notes[0]
    assert notes(path, claim="sentence") == []
    # Short texts are texts.
    rows = "".join(f"{claim.split()[0]} {place},{claim},{label}\n" for place, (claim, label) in enumerate(ROWS))
    assert notes(write(tmp_path / "a.csv", "claim,sentence,label\n" + rows)) == []
