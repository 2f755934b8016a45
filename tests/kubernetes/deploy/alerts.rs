//! Alerts and dashboard ask for metrics that there are.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::deploy;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// Prometheus' own: whether a target was scraped.
const OF_PROMETHEUS: &str = "up";

/// Words of the language that stand where a metric could.
const WORDS: [&str; 4] = ["and", "or", "unless", "bool"];

/// What is followed by a list of labels.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Of Prometheus and its operator, beside what the document names.
const LABELS: [&str; 4] = ["job", "pod", "namespace", "le"];

/// The names of metrics, as they are asked for: a histogram's are three.
fn metrics() -> BTreeSet<String> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut names = BTreeSet::from([OF_PROMETHEUS.to_owned()]);
    for (name, what) in rows {
        if what.starts_with("histogram") {
            names.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        } else {
            names.insert(name.to_owned());
        }
    }
    names
}

/// The labels that the document names, in code type and small letters.
fn labels() -> BTreeSet<&'static str> {
    let code = DOCUMENT.split('`').skip(1).step_by(2);
    code.filter(|word| word.chars().all(|one| one.is_ascii_lowercase())).chain(LABELS).collect()
}

/// What an expression asks for.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    metrics: Vec<String>,
    labels: Vec<String>,
}

/// Where in an expression a word stands.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Query,
    /// In braces or in a list of labels.
    Labels,
    /// In brackets.
    Range,
}

/// Reads as much of it as tells metrics, labels and functions apart.
fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let mut at = At::Query;
    let mut list = false;
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let word = rest.split(|one: char| !one.is_ascii_alphanumeric() && one != '_').next().unwrap();
        match first {
            '"' => rest = rest[1..].split_once('"').unwrap().1,
            _ if word.is_empty() => {
                at = match first {
                    '{' => At::Labels,
                    '(' if list => At::Labels,
                    '[' => At::Range,
                    '}' | ']' => At::Query,
                    ')' if at == At::Labels => At::Query,
                    _ => at,
                };
                list = list && first.is_whitespace();
                rest = &rest[first.len_utf8()..];
            }
            _ => {
                rest = &rest[word.len()..];
                list = at == At::Query && LISTS.contains(&word);
                let is_name = !first.is_ascii_digit() && !list && !WORDS.contains(&word);
                match at {
                    At::Labels => asked.labels.push(word.to_owned()),
                    At::Query if is_name && !rest.trim_start().starts_with('(') && !before_list(rest) => {
                        asked.metrics.push(word.to_owned());
                    }
                    At::Query | At::Range => {}
                }
            }
        }
    }
    asked
}

/// Whether a list of labels comes next: what stands before it is an aggregation.
fn before_list(rest: &str) -> bool {
    let next = rest.trim_start().split(|one: char| !one.is_ascii_alphabetic()).next();
    next.is_some_and(|word| ["by", "without"].contains(&word))
}

/// All expressions of alerts and dashboard, each with where it stands.
fn expressions() -> Vec<(String, String)> {
    let read = |name: &str| fs::read_to_string(deploy("monitoring").join(name)).unwrap();
    let alerts: Value = serde_saphyr::from_str(&read("alerts.yaml")).unwrap();
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let groups = list(&alerts["spec"]["groups"]);
    let rules = groups.iter().flat_map(|group| list(&group["rules"]));
    let alerts = rules.map(|rule| (text(&rule["alert"]), text(&rule["expr"])));
    let panels = list(&dashboard["panels"]).into_iter();
    let targets = panels.flat_map(|panel| {
        list(&panel["targets"]).into_iter().map(move |target| (text(&panel["title"]), text(&target["expr"])))
    });
    alerts.chain(targets).collect()
}

#[test]
fn an_expression_is_read_as_prometheus_reads_it() {
    let read = asked(
        "time() - max by (vm) (some_seconds{job=\"a b{c\", kind!~\"x\"}) > 26 * 3600 or rate(other[1h]) unless up",
    );
    assert_eq!(read.metrics, ["some_seconds", "other", "up"]);
    assert_eq!(read.labels, ["vm", "job", "kind"]);
    assert_eq!(asked("sum(a) without (b, c) / on (d) group_left e").metrics, ["a", "e"]);
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_and_labels_that_there_are() {
    let (metrics, labels) = (metrics(), labels());
    let expressions = expressions();
    assert!(expressions.len() > 15, "{expressions:#?}");
    for (place, expression) in expressions {
        let asked = asked(&expression);
        assert!(!asked.metrics.is_empty(), "{place}: {expression}");
        for metric in asked.metrics {
            assert!(metrics.contains(&metric), "{place} asks for {metric}, which docs/metrics.md does not list");
        }
        for label in asked.labels {
            assert!(labels.contains(label.as_str()), "{place} asks for the label {label}, which no metric has");
        }
    }
}

/// By what their targets are called.
#[test]
fn what_is_scraped_is_what_is_deployed() {
    let monitors = super::built(crate::api(), "monitoring");
    let objects = super::built(crate::api(), "overlays/plain");
    for (kind, name) in [("DaemonSet", "remora-agent"), ("Deployment", "remora-controller")] {
        let monitor = super::find(&monitors, "PodMonitor", name);
        let template = &super::find(&objects, kind, name)["spec"]["template"];
        assert_eq!(monitor["metadata"]["namespace"], "remora");
        assert_eq!(monitor["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
        assert_eq!(monitor["spec"]["jobLabel"], "app.kubernetes.io/name");
        let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
        let ports = template["spec"]["containers"][0]["ports"].as_array().unwrap();
        assert!(ports.iter().any(|one| one["name"] == *port), "{name}: {port} is none of {ports:?}");
    }
}
