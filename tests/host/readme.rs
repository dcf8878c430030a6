//! README.md shows a newcomer what kubectl prints: its commands are run as they stand there, against a
//! daemon of `examples/repo`, and must print what stands there.

use std::process::Command;

use crate::harness::{Daemon, Engine, Repo, await_that, run};

const SECTION: &str = "### Five commands that a kubectl user tries first";

/// A line that begins with this is a command.
const PROMPT: &str = "$ ";

/// Stands for what is left out.
const ELISION: &str = "…";

/// A command of the page, and the lines that the page shows below it.
#[derive(Debug)]
struct Shown {
    command: String,
    lines: Vec<String>,
}

/// The commands of the section's `console` blocks, in order.
fn shown(page: &str) -> Vec<Shown> {
    let (_, section) = page.split_once(SECTION).expect("README.md has the section");
    let section = section.split("\n#").next().expect("a section ends");
    let blocks = section.split("```console\n").skip(1);
    let blocks = blocks.map(|block| block.split("\n```").next().expect("a block ends"));
    let mut all: Vec<Shown> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        match (line.strip_prefix(PROMPT), all.last_mut()) {
            (Some(command), _) => {
                all.push(Shown { command: command.to_owned(), lines: Vec::new() });
            }
            (None, Some(last)) => last.lines.push(line.to_owned()),
            (None, None) => panic!("{line:?} stands before the first command"),
        }
    }
    all
}

/// A line's words, with what differs from host to host and from run to run levelled.
fn shape(line: &str) -> Vec<String> {
    line.split_whitespace().map(level).collect()
}

fn level(word: &str) -> String {
    let all = |word: &str, good: fn(char) -> bool| !word.is_empty() && word.chars().all(good);
    let lower = |word: &str| all(word, |one| one.is_ascii_lowercase() || one.is_ascii_digit());
    if word.contains('.') && all(word, |one| one.is_ascii_digit() || one == '.') {
        return "<address>".to_owned();
    }
    // 41s, 2m10s
    if word.ends_with(['s', 'm', 'h', 'd'])
        && word.starts_with(|first: char| first.is_ascii_digit())
        && all(word, |one| one.is_ascii_digit() || "smhd".contains(one))
    {
        return "<age>".to_owned();
    }
    if word.trim_start_matches('(').starts_with('/') {
        return "<path>".to_owned();
    }
    let parts: Vec<&str> = word.rsplitn(3, '-').collect();
    match parts.as_slice() {
        // web-fcc5f578f-2dw5s
        [random, hash, name] if random.len() == 5 && (8..=10).contains(&hash.len()) => {
            match lower(random) && lower(hash) {
                true => format!("{name}-<hash>-<random>"),
                false => word.to_owned(),
            }
        }
        _ => word.to_owned(),
    }
}

/// Every shown line was printed, in order; other lines only where the page leaves some out.
fn prints(shown: &Shown, printed: &str) {
    let context =
        || format!("{}\nREADME.md shows {:#?}\nprinted:\n{printed}", shown.command, shown.lines);
    let mut left = printed.lines().map(shape).filter(|words| !words.is_empty()).peekable();
    let mut leaves_out = false;
    for line in shown.lines.iter().filter(|line| !line.trim().is_empty()) {
        if line.trim() == ELISION {
            leaves_out = true;
            continue;
        }
        let wanted = shape(line);
        let found = match leaves_out {
            true => left.by_ref().any(|words| words == wanted),
            false => left.next().is_some_and(|words| words == wanted),
        };
        assert!(found, "no line is {line:?}: {}", context());
        leaves_out = false;
    }
    assert!(
        leaves_out || left.peek().is_none(),
        "it prints more: {:?}: {}",
        left.peek(),
        context()
    );
}

#[test]
fn the_readmes_kubectl_commands_print_what_it_shows() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let shown = shown(&page.expect("README.md"));
    let kubectl = shown.iter().filter(|one| one.command.starts_with("kubectl ")).count();
    assert_eq!((kubectl, shown.len()), (5, 6), "five commands, and the kubeconfig: {shown:?}");

    let engine = Engine::with_images();
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let daemon = Daemon::start(&engine, &[&repo.dir.to_string_lossy()]);
    daemon.rolled_out("shop", "web");
    daemon.rolled_out("shop", "api");
    await_that("the world matches the commit", &daemon, || {
        let status = daemon.ballast(&["status"]);
        if status.status.success() { Ok(()) } else { Err(status) }
    });
    let home = engine.dir.join("newcomer");
    std::fs::create_dir(&home).expect("a folder");
    // One shell, so that an `export` counts on. The page's daemon has the default data directory, which
    // this one must leave alone.
    let data_dir = daemon.data_dir.display();
    let ballast = env!("CARGO_BIN_EXE_ballast");
    let mut script =
        format!("ballast() {{ {ballast} \"$@\" --data-dir {data_dir}; }}\nexec 2>&1\n");
    const MARK: &str = "--- the next command";
    for one in &shown {
        script += &format!("echo '{MARK}'\n{}\n", one.command);
    }
    // The last command is refused, and so would the shell's exit be.
    script += "true\n";
    let mut shell: Command = engine.inside("sh");
    shell.arg("-c").arg(script).current_dir(&home).env("HOME", &home).env_remove("KUBECONFIG");
    let printed = run(&mut shell);
    let printed: Vec<&str> = printed.split(&format!("{MARK}\n")).skip(1).collect();
    assert_eq!(printed.len(), shown.len(), "{printed:?}");
    for (one, printed) in shown.iter().zip(printed) {
        prints(one, printed);
    }
}

#[test]
fn what_differs_from_run_to_run_is_levelled_and_nothing_else() {
    let same = |one: &str, other: &str| shape(one) == shape(other);
    assert!(same("web-fcc5f578f-2dw5s  1/1 41s", "web-6c9b7d8f5c-abcde 1/1   2m10s"));
    assert!(same("to main (/srv/shop, branch main)", "to main (/tmp/x/repo, branch main)"));
    assert!(same("10.43.0.9 80:30080/TCP", "10.43.7.1 80:30080/TCP"));
    for (one, other) in [
        ("web-fcc5f578f-2dw5s", "api-fcc5f578f-2dw5s"),
        ("1/1", "0/1"),
        ("Running", "Pending"),
        ("80:30080/TCP", "80:30081/TCP"),
        ("STATUS", "STATE"),
        ("10.43.0.9", "<none>"),
    ] {
        assert!(!same(one, other), "{one} {other}");
    }
}
