"""The tree of modules of the heat-map: which groups there are, and which are open at first."""

from hypothesis import given
from hypothesis import strategies as st

from trainvitals_dashboard.figures.tree import GROUP_MIN, Group, tree_of

PARTS = ("self_attn.in_proj_weight", "self_attn.in_proj_bias", "self_attn.out_proj.weight")
LAYERS = [
    f"encoder.layers.{i}.{part}"
    for i in range(30)
    for part in (*PARTS, "linear1.weight", "linear1.bias")
]
NAMES = ["embed.weight", *LAYERS, "head.weight", "head.bias"]


def paths(tree, numbers):
    return [tree.groups[i].path for i in numbers]


def test_groups_follow_the_path_of_the_modules_and_one_that_has_only_another_is_one_row_with_it():
    tree = tree_of(NAMES)
    assert [g.path for g in tree.groups[:3]] == [
        "encoder.layers",
        "encoder.layers.0",
        "encoder.layers.0.self_attn",
    ]
    assert tree.groups[2].places == [f"encoder.layers.0.{part}" for part in PARTS]
    described = tree.described({LAYERS[0]: "error"})
    assert described[0] == ["embed.weight", ""]
    assert described[1][:2] == ["encoder.layers", "error"]
    assert described[1][2][0][2][0][2][2] == ["out_proj.weight", ""]
    assert described[1][2][1][:2] == ["1", ""]


def test_a_linear_layer_has_no_row_of_its_own():
    tree = tree_of(["0.weight", "0.bias", "2.weight", "2.bias"])
    assert tree.groups == []
    assert tree.described({})[0] == ["0.weight", ""]


def test_a_module_that_is_a_place_is_the_first_row_inside_its_group():
    names = ["layers.0", "layers.0.attn", "layers.0.mlp", "layers.1", "head"]
    tree = tree_of(names)
    assert [g.path for g in tree.groups] == ["layers", "layers.0"]
    assert tree.described({})[0][2][0] == ["0", "", [["", ""], ["attn", ""], ["mlp", ""]]]


def test_at_first_a_large_network_is_open_down_to_its_blocks_and_where_the_selected_tensor_is():
    tree = tree_of(NAMES)
    assert paths(tree, tree.opened(None, "")) == ["encoder.layers"]
    assert paths(tree, tree.opened(None, LAYERS[-5])) == [
        "encoder.layers",
        "encoder.layers.29",
        "encoder.layers.29.self_attn",
    ]
    small = tree_of(NAMES[:20])
    assert small.opened(None, "") == list(range(len(small.groups)))


def test_the_text_of_the_url_names_the_innermost_open_groups():
    tree = tree_of(NAMES)
    assert paths(tree, tree.opened("encoder.layers.3.self_attn,gone", "")) == [
        "encoder.layers",
        "encoder.layers.3",
        "encoder.layers.3.self_attn",
    ]
    assert tree.opened("none", "") == []
    assert len(tree.opened("all", "")) == len(tree.groups)


def test_the_first_rows_are_around_the_selected_tensor():
    tree = tree_of(NAMES)
    assert tree.first_rows([0], "", 4) == ["p0", "g0", "g1", "g3"]
    here = LAYERS[-5]
    assert f"p{tree.places.index(here)}" in tree.first_rows(tree.opened(None, here), here, 4)


def test_groups_that_are_blocks_of_the_network_are_known_by_the_name_of_the_block():
    tree = tree_of(NAMES)
    assert len(tree.blocks()) == 30
    assert tree.blocks()["g1"] == "encoder.layers.0"
    # The block "encoder" has only what is beside its numbered layers, the module has all.
    names = [*LAYERS, "encoder.norm.a", "encoder.norm.b", "encoder.norm.c"]
    assert "encoder" not in tree_of(names).blocks().values()


def test_an_id_names_a_module_or_a_place_and_another_text_names_nothing():
    tree = tree_of(NAMES)
    assert tree.name_of("g1") == "encoder.layers.0."
    assert tree.name_of("p0") == "embed.weight"
    for text in ("", "p", "p-1", "p999", "g99", "x1", "pp", "p²"):
        assert tree.name_of(text) is None


NAME = st.lists(st.sampled_from(["a", "b", "0", "1"]), min_size=1, max_size=4).map(".".join)


@given(st.lists(NAME, unique=True, max_size=20))
def test_every_place_is_in_one_row_and_every_group_is_large_enough(names):
    tree = tree_of(names)
    assert sorted(tree.places) == sorted(names)
    for group in tree.groups:
        assert len(group.places) >= GROUP_MIN
        assert all(p == group.path or p.startswith(f"{group.path}.") for p in group.places)
        assert len(group.rows) > 1 or not isinstance(group.rows[0], Group)
