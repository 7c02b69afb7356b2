"""The dashboard and the alerts, held to what the service really exports: Grafana itself is not run here."""

import json
import re
from pathlib import Path

import pytest
import yaml

from service.metrics import Metrics

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "whisperloop.json").read_text())
ALERTS = yaml.safe_load((ROOT / "docker" / "prometheus" / "alerts.yml").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())
DATASOURCES = ROOT / "docker" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SUFFIXES = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_sum", "_count"],
    "summary": ["_sum", "_count"],
}
SCRAPED = {"instance", "job", "le"}  # what Prometheus adds


def instruments():
    """Return what is exported: the names of its samples, and their labels."""
    exported = {}
    for instrument in vars(Metrics()).values():
        if hasattr(instrument, "_labelnames"):
            for suffix in SUFFIXES[instrument._type]:
                exported[instrument._name + suffix] = set(instrument._labelnames)
    return exported


EXPORTED = instruments()


def expressions():
    """Return every expression of the dashboard and the alerts, with its place."""
    found = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    found += [(note["name"], note["expr"]) for note in DASHBOARD["annotations"]["list"]]
    found += [(one["name"], one["query"]["query"]) for one in DASHBOARD["templating"]["list"]]
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    return found + [(rule["alert"], rule["expr"]) for rule in rules]


@pytest.mark.parametrize("expression", [pytest.param(expression, id=place) for place, expression in expressions()])
def test_every_metric_is_exported_with_its_labels(expression):
    """What is asked for is there: no panel is empty for a name that is no longer, or never was."""
    named = re.findall(r"whisperloop_\w+", expression)
    assert named or "up{" in expression
    assert set(named) <= set(EXPORTED)
    known = SCRAPED.union(*(EXPORTED[name] for name in named))
    asked = {label for inner in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)(?:=|!)", inner)}
    asked |= {label.strip() for inner in re.findall(r"by \(([^)]*)\)", expression) for label in inner.split(",")}
    assert asked <= known


def test_every_metric_is_on_the_dashboard_or_in_an_alert():
    """Nothing is measured that nobody looks at."""
    shown = " ".join(expression for _, expression in expressions())
    for instrument in vars(Metrics()).values():
        if hasattr(instrument, "_labelnames"):
            assert instrument._name in shown


def test_every_metric_is_in_the_table_of_the_operators():
    """docs/operations.md names all of them."""
    page = (ROOT / "docs" / "operations.md").read_text()
    for instrument in vars(Metrics()).values():
        if hasattr(instrument, "_labelnames"):
            assert f"`{instrument._name}" in page


def test_every_panel_is_in_the_table_of_the_operators():
    """docs/operations.md says of all of them what they tell, in the dashboard's order, and of none that is gone."""
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = re.search(r"^\| panel \| what it tells \|\n\|---\|---\|\n((?:\|.*\n)+)", page, re.MULTILINE)[1].splitlines()
    assert [row.split("|")[1].strip() for row in rows] == [panel["title"] for panel in DASHBOARD["panels"]]
    assert all(row.split("|")[2].strip() for row in rows)


def test_panels_explain_themselves_and_do_not_overlap():
    """Each has a description, a number of its own and a place of its own in 24 columns."""
    taken = set()
    for panel in DASHBOARD["panels"]:
        assert panel["description"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert taken.isdisjoint(cells)
        assert max(x for x, _ in cells) < 24
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_the_datasource_is_the_one_that_is_provisioned():
    """Panels ask the datasource that Grafana finds in its folder, which asks the composition's `prometheus`."""
    (source,) = yaml.safe_load(DATASOURCES.read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    host, port = source["url"].removeprefix("http://").split(":")
    assert COMPOSE["services"][host]["ports"][0].endswith(f":{port}")


def test_prometheus_asks_the_service_by_its_name():
    """The address that is scraped is a service of the composition, and the port that it publishes."""
    (job,) = PROMETHEUS["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert COMPOSE["services"][host]["ports"][0].endswith(f":{port}")
    assert host in COMPOSE["services"]["service-gpu"]["networks"]["default"]["aliases"]


def test_every_alert_has_its_place_in_the_runbook():
    """Whoever is woken finds what to do: the alert names a heading that is there."""
    headings = {
        line[3:].strip() for line in (ROOT / "docs" / "alerts.md").read_text().splitlines() if line.startswith("## ")
    }
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert rule["alert"] in headings
            assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
            assert rule["annotations"]["summary"]
