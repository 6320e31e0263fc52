"""The layout: nothing lies upon anything else, whatever the program."""

from itertools import combinations

import pytest

from fraud.pipeline import app as fraud
from streams.web.layout import NODE_HEIGHT, NODE_WIDTH, Layout, place
from tests.kill.program import app as kill

APPS = {"fraud": fraud, "kill": kill}


@pytest.fixture(params=APPS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return place(APPS[request.param].topology())


def test_nodes_lie_apart_and_within_the_box(layout: Layout) -> None:
    for one, other in combinations(layout.nodes, 2):
        assert abs(one.x - other.x) >= NODE_WIDTH or abs(one.y - other.y) >= NODE_HEIGHT, (one.ids, other.ids)
    for node in layout.nodes:
        around = [
            b for b in layout.boxes if b.y < node.y - NODE_HEIGHT / 2 and node.y + NODE_HEIGHT / 2 < b.y + b.height
        ]
        assert len(around) == 1
        assert around[0].x < node.x
        assert node.x + NODE_WIDTH < around[0].x + around[0].width <= layout.width


def test_every_node_is_drawn_once(layout: Layout) -> None:
    drawn = sorted(id for node in layout.nodes for id in node.ids)
    assert drawn in [sorted(app.graph.nodes) for app in APPS.values()]


def test_no_edge_runs_behind_a_node(layout: Layout) -> None:
    """Between layers edges are free; where one passes a layer it is level, so it is enough to look at its bends."""
    for line in layout.lines:
        for x, y in line.points[1:-1]:
            for node in layout.nodes:
                assert not (node.x < x < node.x + NODE_WIDTH and abs(y - node.y) < NODE_HEIGHT / 2)
                assert not (x in (node.x, node.x + NODE_WIDTH) and abs(y - node.y) < NODE_HEIGHT / 2)


def test_edges_go_to_the_right(layout: Layout) -> None:
    for line in layout.lines:
        assert line.points[0][0] < line.points[-1][0]
