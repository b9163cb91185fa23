"""How the tests are run: what the lanes rely on."""

import pytest


@pytest.mark.xdist_group("time")
def test_groups_are_kept_together(request: pytest.FixtureRequest) -> None:
    """pytest-xdist appends a group to a test's id, which some versions of pytest ignore."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs several processes: make test")
    assert request.node.nodeid.endswith("@time")
