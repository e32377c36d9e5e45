# ruff: noqa: E501, PT017
"""Any text and any file: an answer of finite numbers or a refusal in one line, and no text changes another's answer."""

import math

import numpy as np
import pytest
from conftest import LONG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorahub.errors import LorahubError
from lorahub.serving.engine.engine import Engine
from lorahub.serving.files import classify_file

pytestmark = pytest.mark.slow
EXAMPLES = settings(
    max_examples=500 if LONG else 40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
AWKWARD = st.sampled_from(
    ["\ud800", "a\udfff", "\0", "\x1b[2J", "\u202e", "", " ", "=1+1", "'=1", "<s> </s>", "a " * 500]
)
TEXT = st.text(st.characters()) | AWKWARD


@pytest.fixture(scope="module")
def engine(tiny_base, make_adapter):
    base = str(tiny_base("bert"))
    return Engine(
        base, [make_adapter("bert", name="two", labels=2), make_adapter("bert", name="five", labels=5, seed=1)]
    )


def is_unicode(text):
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


@EXAMPLES
@given(st.lists(TEXT, min_size=1, max_size=6))
def test_a_text_has_the_answer_that_it_has_alone(engine, texts):
    if not all(map(is_unicode, texts)):
        with pytest.raises(LorahubError, match="half a character") as caught:
            engine.classify(texts)
        str(caught.value).encode()
        return
    together = engine.logits(texts)
    for name, logits in together.items():
        assert np.isfinite(logits).all()
        alone = np.concatenate([engine.logits([text], [name])[name] for text in texts])
        np.testing.assert_allclose(logits, alone, atol=1e-3)


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FILES = st.one_of(
    st.binary(max_size=300).map(lambda data: (".csv", data)),
    st.binary(max_size=300).map(lambda data: (".jsonl", data)),
    st.binary(max_size=300).map(lambda data: (".parquet", b"PAR1" + data + b"PAR1")),
    CELL.map(lambda cell: (".csv", f"claim\n{cell}\nthe flu".encode())),
    CELL.map(lambda cell: (".tsv", f"claim\tx\n{cell}\t1\n".encode())),
    st.sampled_from([b'{"claim": "\\ud800"}', b'{"claim": ' + b"[" * 5000, b'{"claim": ' + b"9" * 5000 + b"}",
                     b'{"claim": "a", "claim": 1}', b'{"claim": NaN}', b'{"\\udfff": 1, "claim": "a"}', b"\xff\xfe{",
                     ]).map(lambda data: (".jsonl", data)),
)  # fmt: skip


@EXAMPLES
@given(FILES, st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
def test_a_file_is_answered_or_refused_whole(engine, tmp_path, file, kind):
    suffix, data = file
    source, output = tmp_path / f"in{suffix}", tmp_path / f"out{kind}"
    source.write_bytes(data)
    output.unlink(missing_ok=True)
    try:
        for _, verdicts in classify_file(engine, source, output):
            for answers in verdicts.values():
                assert all(math.isfinite(verdict.confidence) for verdict in answers)
    except LorahubError as error:
        assert "\n" not in str(error)
        assert not output.exists()
    else:
        assert output.exists()
