"""While the collector only reads a damaged database, every page shows a warning."""

import pytest

from helpers.fake_runs import healthy_run


def banners(app):
    return [
        error.value for error in app.error if "database of the collector is damaged" in error.value
    ]


@pytest.mark.parametrize("page", ["fleet", "run", "layers"])
def test_each_page_shows_the_banner_and_what_to_do(open_page, collector, page):
    run = healthy_run()
    collector.runs, collector.rescue = [run], True
    query = {} if page == "fleet" else {"run": run.id}
    [shown] = banners(open_page(page, **query))
    assert "trainvitals db restore" in shown


def test_there_is_none_for_a_database_in_order_or_a_collector_that_is_away(open_page, collector):
    assert banners(open_page()) == []
    collector.down = True
    assert banners(open_page()) == []
