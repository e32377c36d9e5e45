"""The search space: ranges are read by their field's own type, and what cannot be searched is refused in one line."""

import pytest

from lorahub import config as configs
from lorahub.errors import ConfigError
from lorahub.experiments.sweep import search_space
from lorahub.experiments.sweep.search_space import Choices, Numbers, parse
from lorahub.method_names import METHODS

CONFIG = configs.load()


def read(*texts, config=CONFIG):
    return parse(texts, config, projections=True)


def test_a_range_is_read_by_the_type_of_its_field():
    rank, rate, dropout, weights, targets = read(
        "adapter.rank=2..64:log",
        "train.learning_rate=1e-4..1e-2:log",
        "adapter.dropout=0,0.1",
        "train.class_weights=none,sqrt",
        "adapter.targets=all-linear,q_proj+v_proj",
    )
    assert rank == Numbers(field="adapter.rank", low=2, high=64, log=True)
    assert rank.whole
    assert rate == Numbers(field="train.learning_rate", low=1e-4, high=1e-2, log=True)
    assert not rate.whole
    assert dropout == Choices(field="adapter.dropout", choices=(0.0, 0.1))
    assert weights.choices == ("none", "sqrt")
    assert targets.choices == ("all-linear", "q_proj+v_proj")
    for item in (rank, rate, dropout, weights, targets):
        assert read(str(item)) == (item,), "what a study says it was made with can be given again"


def test_the_default_space_is_that_of_the_method():
    fields = [item.field for item in read()]
    assert fields == [
        "adapter.rank", "adapter.alpha", "adapter.dropout", "adapter.targets", "train.learning_rate",
        "train.class_weights",
    ]  # fmt: skip
    prompt = configs.load("prompt")
    assert [item.field for item in read(config=prompt)] == [
        "adapter.prompt_tokens", "train.learning_rate", "train.class_weights"
    ]  # fmt: skip
    full = configs.load("full")
    rate = read(config=full)[0]
    assert (rate.low, rate.high) == (5e-6, 5e-4), "a decade to both sides of the method's own"
    assert "adapter.targets" not in [item.field for item in parse((), CONFIG, projections=False)]


@pytest.mark.parametrize("method", METHODS)
def test_every_default_space_holds_the_method_s_own_values(method):
    config = configs.load(method)
    own = search_space.own_values(read(config=config), config)
    assert own is not None
    assert configs.from_dict(search_space.recipe_with({"adapter": {"method": method}}, own)) == config


def test_the_word_default_can_be_combined_with_ranges():
    space = {item.field: item for item in read("default", "adapter.rank=4,8", "train.weight_decay=0..0.1")}
    assert space["adapter.rank"] == Choices(field="adapter.rank", choices=(4, 8))
    assert list(space)[-1] == "train.weight_decay"
    assert len(space) == len(read()) + 1


def test_values_are_put_into_the_recipe():
    recipe = {"adapter": {"rank": 4}, "data": {"id": "x"}}
    values = {"adapter.targets": "q_proj+v_proj", "adapter.rank": 16, "train.learning_rate": 0.5}
    found = search_space.recipe_with(recipe, values)
    assert found == {
        "adapter": {"rank": 16, "targets": ["q_proj", "v_proj"]}, "data": {"id": "x"}, "train": {"learning_rate": 0.5}
    }  # fmt: skip
    assert recipe == {"adapter": {"rank": 4}, "data": {"id": "x"}}
    assert configs.from_dict(found).adapter.targets == ("q_proj", "v_proj")


def test_a_grid_lists_the_values_of_each_field():
    values = search_space.grid(read("adapter.rank=2..3", "train.class_weights=none,sqrt"))
    assert values == {"adapter.rank": [2, 3], "train.class_weights": ["none", "sqrt"]}
    with pytest.raises(ConfigError, match=r"adapter.dropout=0..0.3 holds infinitely many values"):
        search_space.grid(read("adapter.rank=2..3", "adapter.dropout=0..0.3"))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["adapter.rnak=2..4"], "there is no field adapter.rnak. Did you mean adapter.rank?"),
        (["adaptor.rank=2..4"], "there is no section adaptor. Did you mean adapter?"),
        (["rank=2..4"], "there is no section rank"),
        (["adapter.rank"], "--range takes section.field=low..high"),
        (["adapter.rank="], "--range takes section.field=low..high"),
        (["adapter.rank=64..2"], "ends at 2, which is not above 64. Write the smaller number first"),
        (["adapter.rank=8..8"], "which is not above 8"),
        (["adapter.rank=8"], "holds one value. Give two or more, or fix it with --set adapter.rank=8"),
        (["adapter.rank=8,8"], "holds one value"),
        (["adapter.rank=2.5..8"], "adapter.rank takes a whole number or auto; found 2.5"),
        (["adapter.rank=0..8"], "adapter.rank must be at least 1; found 0"),
        (["adapter.rank=2..many"], "adapter.rank takes a whole number or auto; found 'many'"),
        (["adapter.rank=2..8:lin"], "only log may follow the colon; found 'lin'"),
        (["adapter.rank=,4"], "has an empty value"),
        (["adapter.rank=..4"], "has an empty value"),
        (["adapter.dropout=0..0.3:log"], "0 has no logarithm"),
        (
            ["train.class_weights=none..sqrt"],
            "is not between two numbers. List the choices, as in train.class_weights=a,b",
        ),
        (["adapter.rank=4..auto"], "--range adapter.rank=4..auto is not between two numbers"),
        (["train.class_weights=none,sqr"], "train.class_weights is one of none, sqrt, balanced; found 'sqr'"),
        (["adapter.rank=2..4", "adapter.rank=8,16"], "--range adapter.rank is given twice"),
        (["data.split_seed=1,2"], "this field is not searched: trials are compared on the same claims"),
        (["train.metric=accuracy,f1_macro"], "this field is not searched: trials are compared by the same metric"),
        (["train.seed=0..9"], "the best of several seeds is luck"),
        (["adapter.prompt_tokens=5..9"], "has no effect for lora; only prompt, prefix, p-tuning use it"),
    ],
)
def test_what_cannot_be_searched_is_refused(texts, words):
    with pytest.raises(ConfigError) as caught:
        read(*texts)
    assert words in str(caught.value)


def test_a_field_of_a_searched_method_may_be_searched():
    assert len(read("adapter.method=lora,prompt", "adapter.prompt_tokens=5..9")) == 2
