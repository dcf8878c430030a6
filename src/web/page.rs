//! The page's markup. maud escapes every value: names, messages and commit subjects are a
//! stranger's text.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::web::facts::{DriftFacts, Fact, Facts, SourceFacts, Tone, Workload};

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn page(facts: &Facts) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="5";
                title { "Ballast" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { "Ballast" } p { "This cluster changes through Git. Everything here is read-only." } }
                main {
                    @if facts.sources.is_empty() { p.empty { "No source yet: start with " code { "ballast run <repository>" } "." } }
                    @for source in &facts.sources { (source_section(source)) }
                    (drifts_section(facts))
                    (workloads_section(&facts.workloads))
                    (services_section(facts))
                    (nodes_section(facts))
                }
                footer { a href="/api/v1/drift" { "drift as JSON" } " · " a href="/metrics" { "metrics" } " · " a href="/readyz?verbose" { "readiness" } }
            }
        }
    }
}

/// What a visitor sees when the cluster cannot be read.
pub fn failure(message: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; meta http-equiv="refresh" content="5"; title { "Ballast" } style { (PreEscaped(STYLE)) } }
            body { header { h1 { "Ballast" } } main { p.bad { "The cluster cannot be read: " (message) } } }
        }
    }
}

fn tone(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Waiting => "waiting",
        Tone::Bad => "bad",
        Tone::Stale => "stale",
    }
}

fn source_section(source: &SourceFacts) -> Markup {
    html! {
        section {
            h2 { "Source " (source.name) small { (source.url) " · " (source.branch) " · " (source.path) } }
            div.facts { @for fact in &source.facts { (fact_card(fact)) } }
            @if let Some((reason, removes)) = &source.held {
                div.held { strong { "Held. " } (reason) ul { @for object in removes { li { (object) } } } }
            }
            @if !source.problems.is_empty() {
                table {
                    caption { "Why the newest commit was refused" }
                    thead { tr { th { "Where" } th { "Field" } th { "Problem" } } }
                    tbody {
                        @for problem in &source.problems {
                            tr {
                                td { code { (problem.file) ":" (problem.line) ":" (problem.column) } }
                                td { code { (problem.field) } }
                                td { (problem.message) @if !problem.hint.is_empty() { br; span.hint { (problem.hint) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn fact_card(fact: &Fact) -> Markup {
    html! {
        div class={ "fact " (tone(fact.tone)) } {
            h3 { (fact.title) }
            p.line { (fact.line) }
            p.age { (fact.age) }
            @for line in &fact.detail { p.detail { (line) } }
        }
    }
}

fn workloads_section(workloads: &[Workload]) -> Markup {
    html! {
        section {
            h2 { "Workloads" small { (workloads.len()) } }
            @if workloads.is_empty() { p.empty { "None." } } @else {
                div.scroll { table {
                    thead { tr { th { "Workload" } th { "Ready" } th { "Image" } th { "State" } th { "Pods" } th { "Age" } } }
                    tbody {
                        @for workload in workloads {
                            tr class=(tone(workload.tone)) {
                                td { (workload.kind) br; (workload.namespace) "/" strong { (workload.name) } }
                                td.number { (workload.ready) "/" (workload.desired) }
                                td { @for image in &workload.images { code { (image) } " " } }
                                td { (workload.message) }
                                td.pods { @for pod in &workload.pods {
                                    span class=(if pod.ready { "pod good" } else { "pod waiting" }) title={ (pod.name) ": " (pod.phase) ", " (pod.restarts) " restarts" } { (pod.phase) @if pod.restarts > 0 { " ×" (pod.restarts) } }
                                    " "
                                } }
                                td.number { (workload.age) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn services_section(facts: &Facts) -> Markup {
    html! {
        section {
            h2 { "Services" small { (facts.services.len()) } }
            @if facts.services.is_empty() { p.empty { "None." } } @else {
                div.scroll { table {
                    thead { tr { th { "Service" } th { "Address" } th { "Ports" } } }
                    tbody { @for service in &facts.services {
                        tr { td { (service.namespace) "/" strong { (service.name) } } td { code { (service.address) } } td { code { (service.ports) } } }
                    } }
                } }
            }
        }
    }
}

fn nodes_section(facts: &Facts) -> Markup {
    html! {
        section {
            h2 { "Nodes" small { (facts.nodes.len()) } }
            @if facts.nodes.is_empty() { p.empty { "None yet." } } @else {
                div.scroll { table {
                    thead { tr { th { "Node" } th { "State" } th { "Engine" } th { "Address" } } }
                    tbody { @for node in &facts.nodes {
                        tr class=(tone(node.tone)) { td { strong { (node.name) } } td { (node.state) } td { code { (node.engine) } } td { code { (node.address) } } }
                    } }
                } }
            }
        }
    }
}

fn drifts_section(facts: &Facts) -> Markup {
    html! {
        section {
            h2 { "Open drifts" small { (facts.open_drifts.len()) } }
            @if facts.open_drifts.is_empty() { p.empty { (nothing_drifts(facts)) } } @else { (drift_table(&facts.open_drifts)) }
            @if !facts.closed_drifts.is_empty() {
                // No fold: the page reloads itself, and would close it under the reader's eyes.
                h3 { "Closed in the last 24 hours, the newest " (facts.closed_drifts.len()) }
                (drift_table(&facts.closed_drifts))
            }
        }
    }
}

/// A rollout that is under way is no drift, and not what Git says either.
fn nothing_drifts(facts: &Facts) -> &'static str {
    let mut verdicts = facts.sources.iter().flat_map(|source| &source.facts);
    if verdicts.all(|fact| fact.tone == Tone::Good) {
        "None: what runs is what Git says."
    } else {
        "None. What is still on its way stands above, under the source."
    }
}

fn drift_table(drifts: &[DriftFacts]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { "Object" } th { "Layer" } th { "Difference" } th { "Wanted" } th { "Actual" } th { "Cause" } th { "Action" } th { "Since" } } }
            tbody { @for drift in drifts {
                tr {
                    td { (drift.object) @if drift.count > 1 { " ×" (drift.count) } }
                    td { (drift.layer) }
                    td { (drift.class) br; code { (drift.field) } }
                    td { code { (drift.wanted) } @if !drift.origin.is_empty() { br; span.hint { (drift.origin) } } }
                    td { code { (drift.actual) } }
                    td { (drift.cause) }
                    td { (drift.action) }
                    td.number { (drift.since) }
                }
            } }
        } }
    }
}
