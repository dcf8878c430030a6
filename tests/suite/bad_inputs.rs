//! Hostile and clumsy input, walked through row by row: what a repository may look like, what YAML
//! may hold, what manifests may say, what a webhook and the API may be sent. [`ROWS`] maps every row to the test
//! that proves it; what no other file proves is proved here.
//!
//! Every row ends in a sentence that names file, line and field, or in a stated meaning; nothing
//! panics, and the last good commit runs on.

use std::path::Path;

use ballast::offline::validate;
use ballast::offline_report::Report;
use ballast::ranges::Ranges;

/// Group and row, the function of the test, and what happens.
const ROWS: &[(u8, &str, &str, &str)] = &[
    // Links. Nothing is checked out, so a link is a name in a tree and leads nowhere.
    (1, "link to a file of the system", "every_kind_of_link_is_refused_by_name", "refused by name"),
    (1, "link to ../../x", "every_kind_of_link_is_refused_by_name", "refused by name"),
    (
        1,
        "absolute link inside the root",
        "every_kind_of_link_is_refused_by_name",
        "refused by name",
    ),
    (1, "link to a folder", "every_kind_of_link_is_refused_by_name", "refused by name"),
    (1, "link to itself", "every_kind_of_link_is_refused_by_name", "refused by name"),
    (1, "cycle of two links", "every_kind_of_link_is_refused_by_name", "refused by name"),
    (1, "chain of 1000 links", "every_kind_of_link_is_refused_by_name", "refused by name"),
    (
        1,
        "parent is a link",
        "a_path_that_does_not_exist_is_an_error_never_an_empty_set",
        "the path is refused by name",
    ),
    (
        1,
        "link put there between check and read",
        "what_became_a_link_or_a_pipe_is_neither_followed_nor_waited_for",
        "blobs are read by id; files on disk are opened without following",
    ),
    (
        1,
        "link only in the second commit",
        "links_and_submodules_are_refused_by_name_also_in_the_second_commit",
        "refused by name",
    ),
    (1, "links on disk, for validate", "on_disk_only_files_are_read", "refused by name"),
    // Size and shape.
    (
        6,
        "100,000 files",
        "a_hundred_thousand_files_that_are_no_manifests_cost_their_names",
        "applied",
    ),
    (
        6,
        "more manifests than are read",
        "twenty_thousand_files_are_read_and_one_more_is_a_problem",
        "refused",
    ),
    (
        6,
        "more files than are looked at",
        "half_a_million_files_are_looked_at_and_no_more",
        "refused",
    ),
    (
        6,
        "5 GB blob",
        "a_blob_of_five_gigabytes_is_refused_by_its_head",
        "refused by name, not read",
    ),
    (
        6,
        "one file of 200 MB",
        "a_file_of_200_megabytes_is_refused_and_the_last_commit_runs_on",
        "refused by name, not read",
    ),
    (
        6,
        "200 MB in small files",
        "manifests_of_200_megabytes_together_are_refused",
        "refused, not read",
    ),
    (
        6,
        "path 5000 folders deep",
        "folders_5000_deep_are_refused_where_they_become_too_deep",
        "refused by name",
    ),
    (
        6,
        "only files that are ignored",
        "a_repository_without_manifests_is_an_empty_wish",
        "applied: nothing is wanted",
    ),
    (6, "all manifests deleted", "an_emptied_repository_is_held_until_it_is_confirmed", "held"),
    (6, "path renamed", "a_renamed_folder_keeps_every_object", "objects are not touched"),
    (
        6,
        "object renamed",
        "a_renamed_object_enters_before_the_old_one_leaves",
        "created, then removed, at once",
    ),
    // One object, several claims.
    (
        7,
        "two sources claim one object",
        "two_sources_that_claim_one_object_are_told_both_places",
        "the later one is refused, both places named",
    ),
    (
        7,
        "one object twice, same content",
        "one_object_twice_is_refused_whatever_it_says",
        "refused, both places named",
    ),
    (
        7,
        "one object twice, other content",
        "one_object_twice_is_refused_whatever_it_says",
        "refused, both places named",
    ),
    (
        7,
        "object moves between sources",
        "an_object_that_moves_between_sources_changes_hands",
        "refused until the other source let it go, then made anew",
    ),
    // YAML.
    (12, "alias bomb", "bombs_end_early", "refused"),
    (
        12,
        "alias bomb, as told",
        "yaml_that_is_no_manifest_is_told_with_its_line",
        "refused, with the line",
    ),
    (12, "nesting 10,000 deep", "bombs_end_early", "refused"),
    (
        12,
        "10 MB scalar",
        "a_scalar_of_10_megabytes_is_refused_by_the_size_of_its_file",
        "refused by name",
    ),
    (12, "merge key cycle", "bombs_end_early", "refused"),
    (12, "merge keys", "yaml_that_means_something_is_read", "expanded"),
    (
        12,
        "anchors across documents",
        "yaml_that_is_no_manifest_is_told_with_its_line",
        "refused, with the line",
    ),
    (
        12,
        "duplicate keys",
        "yaml_that_is_no_manifest_is_told_with_its_line",
        "refused, with the line",
    ),
    (12, "tabs", "yaml_that_is_no_manifest_is_told_with_its_line", "refused, with the line"),
    (12, "byte order mark", "byte_order_mark_and_crlf_are_harmless", "skipped"),
    (12, "UTF-16", "what_cannot_be_read_is_told_with_its_place", "refused"),
    (
        12,
        "100,000 empty documents",
        "documents_are_separated_and_empty_ones_are_nothing",
        "nothing",
    ),
    (12, "empty documents", "documents_are_separated_and_empty_ones_are_nothing", "nothing"),
    (12, "comments only", "shapes_of_manifests", "nothing"),
    (12, "no as a boolean", "scalars_are_read_as_kubectl_reads_them", "false, as kubectl reads it"),
    (12, "octal", "scalars_are_read_as_kubectl_reads_them", "octal, as kubectl reads it"),
    (12, "1e3", "scalars_are_read_as_kubectl_reads_them", "1000"),
    (12, ".inf", "yaml_that_is_no_manifest_is_told_with_its_line", "refused, with the line"),
    (12, ".nan", "yaml_that_is_no_manifest_is_told_with_its_line", "refused, with the line"),
    (
        12,
        "integer above 2^63",
        "yaml_that_is_no_manifest_is_told_with_its_line",
        "refused, with the line",
    ),
    (12, "!!binary", "bytes_are_text_or_refused", "refused, or the text that the bytes are"),
    (12, "!!python", "yaml_that_is_no_manifest_is_told_with_its_line", "refused, with the line"),
    (12, "timestamp", "scalars_are_read_as_kubectl_reads_them", "text"),
    (12, "key that is no text", "scalars_are_read_as_kubectl_reads_them", "a number becomes text"),
    (
        12,
        "key that is a list",
        "yaml_that_is_no_manifest_is_told_with_its_line",
        "refused, with the line",
    ),
    (12, "CRLF", "byte_order_mark_and_crlf_are_harmless", "a line end"),
    (
        12,
        "trailing garbage",
        "yaml_that_is_no_manifest_is_told_with_its_line",
        "refused, with the line",
    ),
    (
        12,
        "half-written file",
        "a_file_that_is_half_written_hides_no_other_problem",
        "refused; other problems are told too",
    ),
    // Manifests.
    (13, "unknown field", "shapes_of_manifests", "refused, with the field meant"),
    (13, "wrong type", "a_wrong_type_is_said_in_words_of_yaml", "refused, in words of YAML"),
    (13, "unknown kind", "every_problem_stands_at_its_place", "refused, with the kind meant"),
    (
        13,
        "unknown apiVersion",
        "every_problem_stands_at_its_place",
        "refused, with the version served",
    ),
    (13, "List", "a_list_is_its_items", "its items"),
    (13, "no name", "every_problem_stands_at_its_place", "refused"),
    (13, "long name", "shapes_of_manifests", "refused"),
    (13, "bad characters in a name", "shapes_of_manifests", "refused"),
    (13, "../x as a name", "shapes_of_manifests", "refused"),
    (
        13,
        "namespace of nothing",
        "a_namespace_that_nobody_declared_is_asked_for",
        "refused, with the manifest to add",
    ),
    (13, "long label", "shapes_of_manifests", "refused"),
    (13, "large annotation", "shapes_of_manifests", "refused"),
    (13, "generateName", "shapes_of_manifests", "refused"),
    (13, "status in the commit", "every_problem_stands_at_its_place", "refused"),
    (
        13,
        "uid, resourceVersion, owners, finalizers",
        "every_problem_stands_at_its_place",
        "refused, each by name",
    ),
    (13, "JSON file", "json_is_json", "read"),
    (13, ".yml", "only_manifests_are_taken", "read"),
    (13, "template {{ }}", "a_template_is_told_as_one", "refused"),
    (
        13,
        "unrendered ${VAR}",
        "every_problem_stands_at_its_place",
        "refused where it can only be a mistake",
    ),
    (13, "still encrypted (SOPS)", "every_problem_stands_at_its_place", "refused"),
    // Values.
    (14, "replicas -1", "values_of_workloads", "refused"),
    (14, "replicas 2^31", "values_of_workloads", "refused"),
    (14, "replicas as text", "values_of_workloads", "refused"),
    (14, "port 0", "values_of_services", "refused"),
    (14, "port 65536", "values_of_services", "refused"),
    (14, "port twice", "values_of_services", "refused"),
    (
        14,
        "host port taken on the node",
        "host_ports_conflict_by_wildcard",
        "Pending, with the reason",
    ),
    (
        14,
        "quantity 1e-9",
        "values_at_the_edge_have_a_stated_meaning",
        "rounded up, as in Kubernetes",
    ),
    (14, "quantity -1", "values_of_workloads", "refused"),
    (
        14,
        "quantity 9E99",
        "values_at_the_edge_have_a_stated_meaning",
        "the largest there is, as in Kubernetes",
    ),
    (14, "negative duration", "values_at_the_edge_are_refused", "refused"),
    (14, "duration overflow", "values_at_the_edge_are_refused", "refused"),
    (
        14,
        "probe of 0 s",
        "values_at_the_edge_have_a_stated_meaning",
        "the default, as in Kubernetes",
    ),
    (14, "maxSurge and maxUnavailable 0", "values_of_workloads", "refused"),
    (14, "selector without its labels", "values_of_workloads", "refused"),
    (
        14,
        "changed selector",
        "a_changed_selector_is_refused_and_the_last_commit_runs_on",
        "refused",
    ),
    (14, "NUL in an environment variable", "values_at_the_edge_are_refused", "refused"),
    (14, "newline in an environment variable", "values_at_the_edge_have_a_stated_meaning", "kept"),
    (14, "empty command", "values_at_the_edge_have_a_stated_meaning", "the image's own"),
    (14, "image ''", "values_of_workloads", "refused"),
    (14, "image in upper case", "values_at_the_edge_are_refused", "refused"),
    (14, "malformed digest", "values_at_the_edge_are_refused", "refused"),
    (14, "image of 1 MB", "values_at_the_edge_are_refused", "refused, shortened"),
    (14, "host path /", "values_at_the_edge_are_refused", "refused"),
    (14, "the engine's socket", "values_at_the_edge_are_refused", "refused in every spelling"),
    (14, "host path ..", "values_of_workloads", "refused"),
    (14, "privileged", "what_opens_the_host_takes_two_keys", "refused, with both keys"),
    (14, "capabilities", "what_opens_the_host_takes_two_keys", "refused, with both keys"),
    (14, "hostNetwork", "what_opens_the_host_takes_two_keys", "refused, with both keys"),
    (14, "hostPID", "what_opens_the_host_takes_two_keys", "refused, with both keys"),
    (14, "workingDir /proc/self/fd/7", "values_at_the_edge_are_refused", "refused"),
    // Webhooks: the body is hashed and nothing else.
    (
        17,
        "no, empty, short, long, sha1=, double signature",
        "only_one_whole_signature_is_one",
        "401",
    ),
    (17, "upper case", "a_webhook_wakes_and_believes_nothing", "the digits may be, the scheme not"),
    (17, "right code over another body", "a_webhook_wakes_and_believes_nothing", "401"),
    (17, "content type, form", "a_webhook_wakes_and_believes_nothing", "not looked at"),
    (
        17,
        "empty secret configured",
        "what_opens_a_repository_fits_its_address_and_can_be_read",
        "the daemon does not start",
    ),
    (17, "replay", "a_webhook_wakes_and_believes_nothing", "one more look"),
    (
        17,
        "body of 0 B, 1 GB, endless",
        "a_webhook_wakes_and_believes_nothing",
        "hashed; refused before or while it comes",
    ),
    (17, "slow-loris", "the_listener_bounds_what_a_stranger_costs", "the connection is ended"),
    (17, "gzip bomb", "a_webhook_wakes_and_believes_nothing", "hashed, never unpacked"),
    (17, "head of 1 MB", "the_listener_bounds_what_a_stranger_costs", "refused"),
    (
        17,
        "HTTP/2 rapid reset",
        "the_listener_bounds_what_a_stranger_costs",
        "HTTP/1.1 is all there is",
    ),
    (17, "GET", "a_webhook_wakes_and_believes_nothing", "405"),
    (
        17,
        "unknown provider, two providers' headers",
        "a_webhook_wakes_and_believes_nothing",
        "401 without ours",
    ),
    (18, "every shape of JSON", "a_webhook_wakes_and_believes_nothing", "hashed, never parsed"),
    // Requests, over a socket; the table in `bad_requests.rs` has a row for each spelling.
    (
        20,
        "every recorded refusal",
        "recorded_refusals_are_the_same_over_a_socket",
        "the same Status",
    ),
    (20, "paths that climb, NUL, overlong", STRANGERS, "400 or 404"),
    (20, "heads, paths and numbers that are too long", STRANGERS, "431, 400"),
    (20, "continue tokens, huge and forged", STRANGERS, "400"),
    (20, "bodies of 1 GiB", STRANGERS, "413 after 3 MiB"),
    (20, "JSON and YAML of great depth, alias bombs", STRANGERS, "400"),
    (20, "annotations of 1 MiB", STRANGERS, "422"),
    (20, "malformed patches", STRANGERS, "400, 413, 422"),
    (20, "wrong content types and codings", STRANGERS, "415, 400"),
    (20, "two requests in one", STRANGERS, "400, one answer"),
    (20, "10,000 connections", "ten_thousand_connections_leave_the_others_unharmed", "closed"),
    (20, "readers that do not read", "a_list_and_a_watch_that_nobody_reads_are_given_up", "closed"),
    (20, "circles of owners", "a_circle_of_owners_ends", "collected"),
    (20, "every mutation of them", "every_answer_is_what_was_asked_for_or_a_status", "2xx or 4xx"),
];
const STRANGERS: &str = "what_strangers_send_ends_in_a_4xx_and_costs_nobody_else";

/// The table is worth as much as the tests behind it.
#[test]
fn every_row_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    let mut folders = vec![root.join("src"), root.join("tests/suite")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).expect("UTF-8"));
            }
        }
    }
    let missing: Vec<_> =
        ROWS.iter().filter(|(_, _, test, _)| !text.contains(&format!("fn {test}("))).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    for group in [1, 6, 7, 12, 13, 14, 17, 18, 20] {
        assert!(ROWS.iter().any(|(of, _, _, _)| *of == group), "group {group} has rows");
    }
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
  - name: a
    image: example/a:1
";
const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

async fn validated(name: &str, text: &[u8]) -> Report {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(name), text).expect("written");
    validate(folder.path(), &Ranges::default()).await.expect("readable")
}

/// `line field: message (hint)` of every problem.
fn told(report: &Report) -> Vec<String> {
    let show = |shown: &ballast::offline_report::Shown| {
        let problem = &shown.problem;
        format!("{} {}: {} ({})", problem.line, problem.field, problem.message, problem.hint)
    };
    report.problems.iter().map(show).collect()
}

/// Rows of name, manifest and the beginning of the one sentence that is told.
async fn assert_told(rows: Vec<(&str, String, &str)>) {
    let rows = rows.into_iter().map(|(name, text, expected)| {
        let is_told = move |report: &Report| {
            let found = told(report);
            found.len() == 1 && found[0].starts_with(expected)
        };
        (name, text, expected.to_owned(), is_told)
    });
    assert_reports(rows).await;
}

/// Rows of name, manifest, what is wanted in words, and whether a report says it.
async fn assert_reports<'a>(
    rows: impl Iterator<Item = (&'a str, String, String, impl Fn(&Report) -> bool)>,
) {
    let mut wrong = Vec::new();
    for (name, text, wanted, is_told) in rows {
        let report = validated("a.yaml", text.as_bytes()).await;
        if !is_told(&report) {
            wrong.push(format!("{name}: wanted {wanted}, got {:#?}", told(&report)));
        }
        // What is shown with an excerpt is as bounded as the sentence.
        assert!(report.text().len() < 4000, "{name}: {} bytes", report.text().len());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn on_disk_only_files_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("sub")).expect("a folder");
    std::fs::write(at("sub/a.yaml"), CONFIG).expect("written");
    for (name, target) in [
        ("system.yaml", "/etc/passwd"),
        ("up.yaml", "../../x"),
        ("self.yaml", "self.yaml"),
        ("one.yaml", "two.yaml"),
        ("two.yaml", "one.yaml"),
        ("folder", "sub"),
        ("sub/loop", ".."),
    ] {
        std::os::unix::fs::symlink(target, at(name)).expect("a link");
    }
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe.yaml"), mode).expect("a pipe");
    let report = validate(folder.path(), &Ranges::default()).await.expect("readable");
    let files: Vec<&str> =
        report.problems.iter().map(|shown| shown.problem.file.as_str()).collect();
    assert_eq!(
        files,
        [
            "folder",
            "one.yaml",
            "pipe.yaml",
            "self.yaml",
            "sub/loop",
            "system.yaml",
            "two.yaml",
            "up.yaml"
        ]
    );
    assert_eq!(report.objects, 1);
}

#[tokio::test]
async fn yaml_that_is_no_manifest_is_told_with_its_line() {
    let data = |lines: &str| format!("{CONFIG}data:\n{lines}");
    let mut bomb = "bomb:\n- &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let uses = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("- &a{level} [{uses}]\n"));
    }
    let across = format!("{CONFIG}data: &a {{b: c}}\n---\n{}", data("  k: *a\n"));
    let rows = [
        ("alias bomb", format!("{CONFIG}{bomb}"), 6, ""),
        ("anchor of another document", across, 10, "the alias refers to no anchor"),
        ("duplicate key", data("  a: x\n  a: y\n"), 6, "the key \"a\" stands twice"),
        ("tab", data("\ta: x\n"), 5, ""),
        (".inf", data("  a: .inf\n"), 5, ""),
        (".nan", data("  a: .nan\n"), 5, ""),
        ("large integer", data("  a: 99999999999999999999\n"), 5, ""),
        ("!!python", data("  a: !!python/object:os.system x\n"), 5, ""),
        ("list as a key", data("  ? [a, b]\n  : c\n"), 5, ""),
        ("trailing garbage", format!("{CONFIG}]\n"), 4, ""),
    ];
    let rows = rows.into_iter().map(|(name, text, line, words): (&str, String, u32, &str)| {
        // Where one alias too many stands depends on the limit that is reached first.
        let at = move |found: u32| if name == "alias bomb" { found >= line } else { found == line };
        let is_told = move |report: &Report| {
            let mut problems = report.problems.iter().map(|shown| &shown.problem);
            problems.any(|problem| at(problem.line) && problem.message.contains(words))
        };
        (name, text, format!("{line} {words:?}"), is_told)
    });
    assert_reports(rows).await;
}

#[tokio::test]
async fn yaml_that_means_something_is_read() {
    let merged = "apiVersion: v1
kind: ConfigMap
metadata: &meta
  name: a
  labels: &labels {app: a}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  selector: &selector {app: a}
  ports:
  - &port {name: http, port: 80}
  - {<<: *port, name: more, port: 81}
";
    assert_eq!(told(&validated("a.yaml", merged.as_bytes()).await), Vec::<String>::new());
}

#[tokio::test]
async fn bytes_are_text_or_refused() {
    let tagged = |text: &str| format!("{CONFIG}data:\n  a: !!binary {text}\n");
    let report = validated("a.yaml", tagged("///").as_bytes()).await;
    assert!(report.problems.iter().all(|shown| shown.problem.line == 5));
    assert!(!report.problems.is_empty(), "these are no bytes");
    // `hi`: read as what it says, or refused; never as its base64.
    let report = validated("a.yaml", tagged("aGk=").as_bytes()).await;
    assert!(report.problems.iter().all(|shown| shown.problem.line == 5), "{:?}", told(&report));
}

#[tokio::test]
async fn a_scalar_of_10_megabytes_is_refused_by_the_size_of_its_file() {
    let text = format!("{CONFIG}data:\n  a: {}\n", "x".repeat(10 * 1024 * 1024));
    let report = validated("large.yaml", text.as_bytes()).await;
    assert_eq!(report.problems.len(), 1);
    let problem = &report.problems[0].problem;
    assert_eq!(problem.file, "large.yaml");
    let size = format!("the file has {} bytes, at most 4194304 are read", text.len());
    assert_eq!(problem.message, size);
    // Below that, Kubernetes' own limit tells the field.
    let text = format!("{CONFIG}data:\n  a: {}\n", "x".repeat(2 * 1024 * 1024));
    let report = validated("large.yaml", text.as_bytes()).await;
    assert_eq!(report.problems.len(), 1, "{:?}", told(&report));
    assert!(report.text().len() < 2000);
}

#[tokio::test]
async fn a_template_is_told_as_one() {
    let chart =
        "{{- if .Values.on }}\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n{{- end }}\n";
    let found = told(&validated("a.yaml", chart.as_bytes()).await);
    assert!(found[0].contains("render it before committing"), "{found:?}");
}

#[tokio::test]
async fn one_object_twice_is_refused_whatever_it_says() {
    for second in [CONFIG.to_owned(), format!("{CONFIG}data: {{a: b}}\n")] {
        let text = format!("{CONFIG}---\n{second}");
        assert_told(vec![(
            "twice",
            text,
            "7 metadata.name: ConfigMap default/a is declared twice: first at a.yaml:1, again here (keep one of the two)",
        )])
        .await;
    }
}

#[tokio::test]
async fn values_at_the_edge_are_refused() {
    let container = |line: &str| format!("{POD}    {line}\n");
    let image = |image: &str| POD.replace("example/a:1", image);
    let host_path =
        |path: &str| format!("{POD}  volumes: [{{name: v, hostPath: {{path: {path}}}}}]\n");
    let mut rows = vec![
        (
            "negative probe",
            container("livenessProbe: {timeoutSeconds: -1, tcpSocket: {port: 80}}"),
            "8 spec.containers[0].livenessProbe.timeoutSeconds",
        ),
        (
            "overflowing probe",
            container("livenessProbe: {periodSeconds: 99999999999, tcpSocket: {port: 80}}"),
            "8 spec.containers[0].livenessProbe.periodSeconds: the number 99999999999 is out of range",
        ),
        (
            "NUL",
            container("env: [{name: A, value: \"a\\0b\"}]"),
            "8 spec.containers[0].env[0].value",
        ),
        ("NUL in a command", container("command: [\"a\\0b\"]"), "8 spec.containers[0].command[0]"),
        ("upper case", image("Example/A:1"), "7 spec.containers[0].image"),
        ("digest", image("example/a@sha256:12"), "7 spec.containers[0].image"),
        (
            "working directory of the host",
            container("workingDir: /proc/self/fd/7"),
            "8 spec.containers[0].workingDir",
        ),
    ];
    let megabyte = "a".repeat(1024 * 1024);
    rows.push(("1 MB", image(&megabyte), "7 spec.containers[0].image"));
    for path in [
        "/",
        "/var/run/docker.sock",
        "/run/docker.sock",
        "//var//run/./docker.sock",
        "/proc/1/root",
        "/etc",
    ] {
        rows.push((path, host_path(path), "8 spec.volumes[0].hostPath.path"));
    }
    assert_told(rows).await;
}

#[tokio::test]
async fn volumes_that_contradict_themselves_are_refused() {
    let pod = |line: &str| format!("{POD}  {line}\n");
    let volume = |text: &str| pod(&format!("volumes: [{{name: v, {text}}}]"));
    let mount = |text: &str| {
        let volumes = "  volumes: [{name: v, emptyDir: {}}]\n";
        format!("{POD}    volumeMounts: [{{name: v, mountPath: /a, {text}}}]\n{volumes}")
    };
    let items = "items: [{key: k, path: p}]";
    let twice = format!(
        "projected: {{sources: [{{configMap: {{name: a, {items}}}}}, {{secret: {{name: b, {items}}}}}]}}"
    );
    let of_node = "downwardAPI: {items: [{path: p, fieldRef: {fieldPath: status.podIP}}]}";
    let of_nobody = "downwardAPI: {items: [{path: p, resourceFieldRef: {resource: limits.cpu}}]}";
    let token = "projected: {sources: [{serviceAccountToken: {path: t}}]}";
    let trust = "projected: {sources: [{clusterTrustBundle: {name: a, path: t}}]}";
    let first = "8 spec.containers[0].volumeMounts[0]";
    let field = |name: &str| format!("{first}.{name}");
    let named: Vec<(&str, String, String)> = vec![
        ("a part above", mount("subPath: ../b"), field("subPath")),
        ("an absolute part", mount("subPath: /b"), field("subPath")),
        ("an expression above", mount("subPathExpr: $(A)/../b"), field("subPathExpr")),
        ("two parts", mount("subPath: a, subPathExpr: b"), field("subPathExpr")),
        ("no privilege", mount("mountPropagation: Bidirectional"), field("mountPropagation")),
        ("not read-only", mount("recursiveReadOnly: Enabled"), field("recursiveReadOnly")),
    ];
    let mut rows: Vec<(&str, String, &str)> =
        named.iter().map(|(what, text, place)| (*what, text.clone(), &**place)).collect();
    rows.extend([
        ("one path twice", volume(&twice), "8 spec.volumes[0].projected"),
        (
            "the address",
            volume(of_node),
            "8 spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath",
        ),
        (
            "whose limit",
            volume(of_nobody),
            "8 spec.volumes[0].downwardAPI.items[0].resourceFieldRef.containerName",
        ),
        ("a token", volume(token), "8 spec.volumes[0].projected.sources[0].serviceAccountToken"),
        ("authorities", volume(trust), "8 spec.volumes[0].projected.sources[0].clusterTrustBundle"),
        (
            "a claim without a name",
            volume("persistentVolumeClaim: {readOnly: true}"),
            "8 spec.volumes[0].persistentVolumeClaim",
        ),
        (
            "a claim of the pod's own",
            volume("ephemeral: {volumeClaimTemplate: {spec: {}}}"),
            "8 spec.volumes[0].ephemeral",
        ),
        (
            "a group's policy",
            pod("securityContext: {fsGroupChangePolicy: Sometimes}"),
            "8 spec.securityContext.fsGroupChangePolicy",
        ),
    ]);
    assert_told(rows).await;
}

#[tokio::test]
async fn storage_that_nobody_runs_is_refused_by_name() {
    let claim = |line: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: c}}\nspec:\n  accessModes: [ReadWriteOnce]\n  resources: {{requests: {{storage: 1Gi}}}}\n  {line}\n"
        )
    };
    let class = |provisioner: &str, line: &str| {
        format!(
            "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: s}}\nprovisioner: {provisioner}\n{line}\n"
        )
    };
    let pv = |source: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: v}}\nspec:\n  accessModes: [ReadWriteOnce]\n  capacity: {{storage: 1Gi}}\n  {source}\n  {more}\n"
        )
    };
    let node = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1]}]}]}}";
    let (ours, waits) = ("ballast.dev/local-path", "volumeBindingMode: WaitForFirstConsumer");
    assert_told(vec![
        ("a block device", claim("volumeMode: Block"), "7 spec.volumeMode"),
        ("a clone", claim("dataSource: {kind: PersistentVolumeClaim, name: a}"), "7 spec.dataSource"),
        ("a stranger's mode", claim("selector: {matchLabels: {a b: c}}"), "7 spec.selector.matchLabels"),
        ("a stranger's provisioner", class("ebs.csi.aws.com", waits), "4 provisioner"),
        ("a volume before its pod", class(ours, ""), "1 volumeBindingMode"),
        ("growth", class(ours, &format!("{waits}\nallowVolumeExpansion: true")), "6 allowVolumeExpansion"),
        ("parameters", class(ours, &format!("{waits}\nparameters: {{a: b}}")), "6 parameters"),
        ("another host's", pv("nfs: {server: a, path: /}", node), "7 spec.nfs"),
        ("no node", pv("hostPath: {path: /srv/a}", "storageClassName: s"), "4 spec.nodeAffinity"),
        ("no node of a folder", pv("local: {path: /srv/a}", "storageClassName: s"), "4 spec.nodeAffinity"),
        ("the host's own", pv("local: {path: /etc}", node), "7 spec.local.path"),
        ("to be wiped", pv("local: {path: /srv/a}", &format!("{node}\n  persistentVolumeReclaimPolicy: Recycle")), "9 spec.persistentVolumeReclaimPolicy"),
        ("to be deleted", pv("local: {path: /srv/a}", &format!("{node}\n  persistentVolumeReclaimPolicy: Delete")), "9 spec.persistentVolumeReclaimPolicy"),
        ("a driver's options", pv("csi: {driver: docker-volume.ballast.dev, volumeHandle: a, volumeAttributes: {device: /etc}}", node), "7 spec.csi.volumeAttributes"),
        ("a driver", pv("csi: {driver: a.example.com, volumeHandle: a}", node), "7 spec.csi.driver"),
        ("no amount", claim("storageClassName: s").replace("1Gi", "much"), "6 spec.resources.requests.storage"),
        (
            "who made it",
            pv("local: {path: /srv/a}", node).replace("{name: v}", "{name: v, annotations: {pv.kubernetes.io/provisioned-by: ballast.dev/local-path}}"),
            "3 metadata.annotations.pv.kubernetes.io/provisioned-by",
        ),
    ])
    .await;
}

#[tokio::test]
async fn values_at_the_edge_have_a_stated_meaning() {
    let container = |line: &str| format!("{POD}    {line}\n");
    for text in [
        container("resources: {requests: {cpu: 1e-9}}"),
        container("resources: {limits: {memory: \"9E99\"}}"),
        container("livenessProbe: {periodSeconds: 0, timeoutSeconds: 0, tcpSocket: {port: 80}}"),
        container("env: [{name: A, value: \"a\\nb\"}]"),
        container("command: []"),
        container("securityContext: {capabilities: {add: [CHOWN], drop: [ALL]}}"),
    ] {
        assert_eq!(told(&validated("a.yaml", text.as_bytes()).await), Vec::<String>::new());
    }
}
