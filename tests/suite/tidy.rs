//! Reads the source tree and enforces the structural laws of ARCHITECTURE.md, so that the house
//! stays the house. Files are read as tokens: comments and strings cannot hide or fake an import.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, LineColumn, TokenStream, TokenTree};

/// Which other parts of the crate a part may name. Root files may name everything below them.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("object", &["object"]),
    ("store", &["store", "object", "clock", "signal", "task", "measure"]),
    ("api", &["api", "store", "object", "clock", "task", "telemetry", "measure"]),
    ("sync", &["sync", "object", "clock", "task", "drift_report", "telemetry", "measure"]),
    ("reconcile", &["reconcile", "object", "clock", "signal", "task", "telemetry", "measure"]),
    ("node", &["node", "object", "clock", "task", "drift_report", "telemetry", "measure"]),
    (
        "network",
        &["network", "object", "clock", "signal", "task", "drift_report", "telemetry", "measure"],
    ),
    ("web", &["web", "object", "clock", "telemetry"]),
    ("clock", &[]),
    ("measure", &[]),
    ("signal", &[]),
    ("task", &[]),
    ("telemetry", &["object"]),
    ("drift_report", &["object"]),
];

/// One external system, one file (law 2). A folder ends with a slash.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("git2", &["sync/git.rs", "sync/objects.rs"]),
    ("notify", &["sync/trigger.rs"]),
    ("rusqlite", &["store/sqlite.rs", "store/schema.rs"]),
    (
        "bollard",
        &[
            "node/docker.rs",
            "node/docker_images.rs",
            "node/docker_projection.rs",
            "node/docker_translation.rs",
            "node/docker_volumes.rs",
        ],
    ),
    ("iptables", &["network/iptables.rs"]),
    ("axum", &["api/", "web/", "daemon.rs"]),
    (
        "hyper",
        &[
            "api/",
            "node/grpc_health.rs",
            "node/hijack.rs",
            "node/http_get.rs",
            "node/prober.rs",
            "sync/https.rs",
        ],
    ),
    ("rustls", &["sync/https.rs", "api/gate/tls.rs", "node/http_get.rs"]),
    ("tokio_rustls", &["sync/https.rs", "api/gate/tls.rs", "node/http_get.rs"]),
    ("rcgen", &["api/gate/authority.rs"]),
    // The binary's own files.
    (
        "anyhow",
        &["main.rs", "daemon.rs", "access_commands.rs", "host_commands.rs", "offline_commands.rs"],
    ),
    ("flate2", &["api/compression.rs", "api/stream/spdy_header_block.rs"]),
    ("maud", &["web/"]),
    ("tokio_tungstenite", &["api/stream/websocket.rs", "api/stream/spdy_tunnel.rs"]),
    (
        "serde_saphyr",
        &["object/yaml.rs", "sync/manifest.rs", "sync/document.rs", "api/document_text.rs"],
    ),
    ("clap", &["cli.rs", "main.rs"]),
];

/// What a file marked `//! Pure:` may name beside std and the crate itself (law 3).
const VALUE_CRATES: &[&str] = &[
    "std",
    "core",
    "alloc",
    "serde",
    "serde_json",
    "serde_ignored",
    "serde_path_to_error",
    "serde_saphyr",
    "k8s_openapi",
    "schemars",
    "jiff",
    "ipnet",
    "sha2",
    "hmac",
    "hex",
    "base64",
    "thiserror",
    "json_patch",
    "bytes",
    "imbl",
    "strsim",
    // Bytes in, bytes out.
    "flate2",
    // Stream and its boxed form, for the traits in `object`.
    "futures",
];

/// Paths that no pure file may contain: clocks, randomness, locks, threads, files, sockets.
const IMPURE: &[&[&str]] = &[
    &["Timestamp", "now"],
    &["Zoned", "now"],
    &["SystemTime"],
    &["Instant"],
    &["Mutex"],
    &["RwLock"],
    &["std", "fs"],
    &["std", "net", "TcpStream"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "env"],
    &["File", "open"],
    &["thread_local"],
];

const FORBIDDEN_NAMES: &[&str] = &[
    "util",
    "utils",
    "helper",
    "helpers",
    "common",
    "misc",
    "manager",
    "handler",
    "processor",
    "base",
    "types",
    "data",
    "info",
];

/// A file above this many lines before its tests has two nouns in it.
const MOST_LINES: usize = 600;

struct SourceFile {
    /// Relative to `src/`.
    path: String,
    text: String,
    pure: bool,
    /// Without `#[cfg(test)]` items.
    tokens: Vec<Token>,
}

#[derive(Debug)]
enum Token {
    Word(String, LineColumn),
    PathSeparator,
    Open,
    Close,
    Comma,
    Other,
}

fn source_tree() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src is readable") {
            let path: PathBuf = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let stream: TokenStream =
                    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let mut tokens = Vec::new();
                flatten(stream, &mut tokens);
                let path =
                    path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
                files.push(SourceFile { pure: text.starts_with("//! Pure:"), path, text, tokens });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 20, "the walk found the tree");
    files
}

/// Groups become brackets, `::` one token, and whatever `#[cfg(test)]` stands on is left out.
fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut index = 0;
    while index < trees.len() {
        if is_test_attribute(&trees, index) {
            index += 2;
            while index < trees.len() && !ends_item(&trees[index]) {
                index += 1;
            }
            index += 1;
            continue;
        }
        match &trees[index] {
            TokenTree::Group(group) => {
                out.push(Token::Open);
                flatten(group.stream(), out);
                out.push(Token::Close);
            }
            TokenTree::Ident(word) => out.push(Token::Word(word.to_string(), word.span().start())),
            TokenTree::Punct(punct) if punct.as_char() == ':' && next_is_colon(&trees, index) => {
                out.push(Token::PathSeparator);
                index += 1;
            }
            TokenTree::Punct(punct) if punct.as_char() == ',' => out.push(Token::Comma),
            TokenTree::Punct(_) | TokenTree::Literal(_) => out.push(Token::Other),
        }
        index += 1;
    }
}

fn next_is_colon(trees: &[TokenTree], index: usize) -> bool {
    matches!((&trees[index], trees.get(index + 1)), (TokenTree::Punct(first), Some(TokenTree::Punct(second)))
        if first.spacing() == proc_macro2::Spacing::Joint && second.as_char() == ':')
}

fn is_test_attribute(trees: &[TokenTree], index: usize) -> bool {
    let TokenTree::Punct(hash) = &trees[index] else { return false };
    let Some(TokenTree::Group(attribute)) = trees.get(index + 1) else { return false };
    hash.as_char() == '#' && attribute.stream().to_string().replace(' ', "") == "cfg(test)"
}

fn ends_item(tree: &TokenTree) -> bool {
    match tree {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    }
}

/// Every path in the file as its first few segments: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths(file: &SourceFile) -> Vec<(Vec<String>, usize)> {
    let mut found = Vec::new();
    let tokens = &file.tokens;
    let mut index = 0;
    while index < tokens.len() {
        let begins = matches!(&tokens[index], Token::Word(..))
            && !(index > 0 && matches!(tokens[index - 1], Token::PathSeparator));
        if begins {
            read_path(tokens, index, &mut Vec::new(), &mut found);
        }
        index += 1;
    }
    found
}

fn read_path(
    tokens: &[Token],
    mut index: usize,
    prefix: &mut Vec<String>,
    found: &mut Vec<(Vec<String>, usize)>,
) {
    let depth = prefix.len();
    let mut line = 0;
    while let Some(Token::Word(word, at)) = tokens.get(index) {
        prefix.push(word.clone());
        line = at.line;
        if !matches!(tokens.get(index + 1), Some(Token::PathSeparator)) {
            break;
        }
        index += 2;
    }
    if matches!(tokens.get(index), Some(Token::Open))
        && index > 0
        && matches!(tokens[index - 1], Token::PathSeparator)
    {
        let (mut nesting, mut expects, mut at) = (1, true, index + 1);
        while nesting > 0 && at < tokens.len() {
            match &tokens[at] {
                Token::Open => nesting += 1,
                Token::Close => nesting -= 1,
                Token::Comma if nesting == 1 => expects = true,
                Token::Word(..) if nesting == 1 && expects => {
                    read_path(tokens, at, prefix, found);
                    expects = false;
                }
                _ => {}
            }
            at += 1;
        }
    } else if prefix.len() > depth {
        found.push((prefix.clone(), line));
    }
    prefix.truncate(depth);
}

fn part_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// The names behind `[dependencies]`, as Rust writes them.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .expect("Cargo.toml");
    let section = manifest
        .split("[dependencies]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .expect("dependencies");
    section
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().replace('-', "_"))
        .collect()
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn rooms_import_only_what_the_laws_allow() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut faults = Vec::new();
    for file in source_tree() {
        let Some(may) = allowed.get(part_of(&file.path)) else { continue };
        for (path, line) in paths(&file) {
            if path[0] == "crate"
                && path.len() > 1
                && !may.contains(&path[1].as_str())
                && path[1] != "with_kind"
            {
                faults.push(format!(
                    "src/{}:{line}: {} may not import crate::{}",
                    file.path,
                    part_of(&file.path),
                    path[1]
                ));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn one_external_system_one_file() {
    let mut faults = Vec::new();
    for file in source_tree() {
        for (path, line) in paths(&file) {
            let Some((_, homes)) =
                ONLY_IN.iter().find(|(name, _)| *name == path[0] && path.len() > 1)
            else {
                continue;
            };
            let at_home = homes.iter().any(|home| {
                file.path == *home || (home.ends_with('/') && file.path.starts_with(home))
            });
            if !at_home {
                faults.push(format!(
                    "src/{}:{line}: {} belongs to {homes:?}",
                    file.path,
                    path.join("::")
                ));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn pure_files_are_pure() {
    let files = source_tree();
    let purity: BTreeMap<String, bool> =
        files.iter().map(|file| (file.path.clone(), file.pure)).collect();
    let crates = dependencies();
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.pure) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (path, line) in paths(file) {
            let head = path[0].as_str();
            let mut fault = |what: String| faults.push(format!("src/{}:{line}: {what}", file.path));
            if path.len() > 1
                && crates.iter().any(|name| name == head)
                && !VALUE_CRATES.contains(&head)
            {
                fault(format!("{head} is no value crate"));
            }
            if path.iter().any(|word| word == "await" || word == "async") {
                fault("a pure file does not wait".to_owned());
            }
            for impure in IMPURE {
                if path
                    .windows(impure.len())
                    .any(|window| window.iter().zip(*impure).all(|(a, b)| a == b))
                {
                    fault(format!("{} is not pure", impure.join("::")));
                }
            }
            if let Some(module) = module_named(&path, folder, &purity)
                && !purity[&module]
            {
                fault(format!("names {module}, which is not pure"));
            }
        }
    }
    assert_none(faults);
}

/// The file behind `super::x`, `crate::room::x` or `self::x`, if there is one.
fn module_named(path: &[String], folder: &str, purity: &BTreeMap<String, bool>) -> Option<String> {
    let (base, rest) = match path[0].as_str() {
        "super" => (folder.to_owned(), &path[1..]),
        "crate" if path.len() > 1 => (String::new(), &path[1..]),
        _ => return None,
    };
    let mut at = base;
    let mut module = None;
    for word in rest {
        let below = if at.is_empty() { word.clone() } else { format!("{at}/{word}") };
        if purity.contains_key(&format!("{below}.rs")) {
            return Some(format!("{below}.rs"));
        }
        if !purity.contains_key(&format!("{below}/mod.rs")) {
            return module;
        }
        at = below;
        module = None;
    }
    module
}

#[test]
fn every_file_opens_with_its_page_and_has_a_name_of_the_domain() {
    let mut faults = Vec::new();
    for file in source_tree() {
        let stem = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if !file.text.starts_with("//!") {
            faults.push(format!("src/{}: begins without a page (//!)", file.path));
        }
        let words = file.path.trim_end_matches(".rs").split(['/', '_']);
        if let Some(word) = words.into_iter().find(|word| FORBIDDEN_NAMES.contains(word)) {
            faults.push(format!("src/{}: {word} is no noun of the domain", file.path));
        }
        if stem == "mod"
            && file.text.lines().any(|line| {
                line.starts_with("fn ") || line.starts_with("pub fn ") || line.starts_with("impl ")
            })
        {
            faults
                .push(format!("src/{}: mod.rs is a page, logic has a file of its own", file.path));
        }
        let code = file.text.split("\n#[cfg(test)]").next().unwrap_or_default().lines().count();
        if code > MOST_LINES {
            faults.push(format!(
                "src/{}: {code} lines above the tests, at most {MOST_LINES}",
                file.path
            ));
        }
    }
    assert_none(faults);
}

#[test]
fn time_tasks_and_leftovers_have_one_place() {
    let mut faults = Vec::new();
    for file in source_tree() {
        for (path, line) in paths(&file) {
            let has = |words: &[&str]| {
                path.windows(words.len())
                    .any(|window| window.iter().zip(words).all(|(a, b)| a == b))
            };
            let mut fault = |what: &str| faults.push(format!("src/{}:{line}: {what}", file.path));
            if (has(&["Timestamp", "now"]) || has(&["SystemTime", "now"]))
                && file.path != "clock.rs"
            {
                fault("the wall clock is read in clock.rs only");
            }
            if (has(&["tokio", "spawn"]) || has(&["task", "spawn"])) && file.path != "task.rs" {
                fault("tasks are spawned through task.rs only");
            }
        }
        for (number, line) in file.text.lines().enumerate() {
            let mut fault =
                |what: &str| faults.push(format!("src/{}:{}: {what}", file.path, number + 1));
            if ["TODO", "FIXME", "XXX", "unimplemented!", "todo!("]
                .iter()
                .any(|mark| line.contains(mark))
            {
                fault("unfinished work is finished or refused, not marked");
            }
            if line.contains("#[ignore") {
                fault("an ignored test hides a hole");
            }
        }
    }
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .expect("Cargo.toml");
    if manifest.replace(' ', "").contains("panic=\"abort\"") {
        faults.push(
            "Cargo.toml: panic = \"abort\" would let one poison object end the daemon".to_owned(),
        );
    }
    assert_none(faults);
}

#[test]
fn nothing_is_left_to_tokios_chance() {
    let mut faults = Vec::new();
    for file in source_tree() {
        for (index, token) in file.tokens.iter().enumerate() {
            let Token::Word(word, at) = token else { continue };
            let begins =
                matches!(file.tokens.get(index + 1..index + 3), Some([Token::Other, Token::Open]));
            let first = match file.tokens.get(index + 3) {
                Some(Token::Word(first, _)) => first.as_str(),
                _ => "",
            };
            if word == "select" && begins && first != "biased" {
                faults.push(format!(
                    "src/{}:{}: a select! says `biased` and has an order, so that a simulated run can be repeated",
                    file.path, at.line
                ));
            }
        }
    }
    assert_none(faults);
}

/// What stands in backticks and looks like a file or a folder of this repository.
fn places(text: &str) -> Vec<&str> {
    let plain = |place: &&str| {
        let ends = [".rs", ".sh", ".toml", ".md", "/"].iter().any(|end| place.ends_with(end));
        ends && !place.starts_with('/')
            && place.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c))
    };
    text.split('`').skip(1).step_by(2).filter(plain).collect()
}

#[test]
fn the_documents_name_files_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names: Vec<String> = source_tree()
        .iter()
        .map(|file| file.path.rsplit('/').next().unwrap_or_default().to_owned())
        .collect();
    let mut faults = Vec::new();
    for document in
        ["ARCHITECTURE.md", "CONTRIBUTING.md", "GLOSSARY.md", "README.md", "BENCHMARKS.md"]
    {
        let text = fs::read_to_string(root.join(document)).expect(document);
        for place in places(&text) {
            // A file beside the one that was named before it stands without its folder.
            let there =
                ["", "src", "tests/suite"].iter().any(|at| root.join(at).join(place).exists())
                    || names.iter().any(|name| name == place);
            if !there {
                faults.push(format!("{document}: there is no {place}"));
            }
        }
    }
    assert_none(faults);
    assert_eq!(places("`a/b.rs` and `x`, `/etc/y.toml`, `sim/`"), ["a/b.rs", "sim/"]);
}

/// What `deny.toml` says of crates and registries, checked with what is there: `cargo deny` itself is
/// not on every machine that runs the tests.
#[test]
fn no_banned_crate_and_no_second_registry() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file| fs::read_to_string(root.join(file)).expect(file);
    let (deny, lock) = (read("deny.toml"), read("Cargo.lock"));
    let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
    let banned: Vec<String> =
        deny.lines().filter(|line| line.contains("{ crate = ")).filter_map(quoted).collect();
    assert!(banned.contains(&"openssl-sys".to_owned()), "deny.toml is read: {banned:?}");
    let values = |field: &str| -> Vec<String> {
        lock.lines().filter(|line| line.starts_with(field)).filter_map(quoted).collect()
    };
    let names = values("name = ");
    assert!(names.len() > 100, "Cargo.lock is read");
    let faults = banned.iter().filter(|name| names.contains(name));
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let sources = values("source = ").into_iter().filter(|source| source != registry);
    assert_none(faults.map(|name| format!("{name} is banned")).chain(sources).collect());
}
