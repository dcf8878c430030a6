//! Pure: a problem as a compiler shows it, with the line of the source and a caret. Lines of
//! Secrets are shown with their values hidden.

use crate::object::source::Problem;
use crate::sync::source::printable;

/// Columns of a source line that are shown.
const WIDTH: usize = 100;

/// Several lines, without a final newline. `source` is the file's text, where it is at hand.
pub fn excerpt(problem: &Problem, source: Option<&str>) -> String {
    let mut out = format!("error: {}", problem.message);
    if problem.file.is_empty() {
        push_notes(&mut out, problem, 1);
        return out;
    }
    let gutter = problem.line.to_string().len();
    let pad = " ".repeat(gutter);
    out.push_str(&format!("\n{pad}--> {}", problem.file));
    if problem.line > 0 {
        out.push_str(&format!(":{}:{}", problem.line, problem.column.max(1)));
    }
    let line = source
        .and_then(|text| text.lines().nth((problem.line as usize).checked_sub(1)?))
        .filter(|line| !line.trim().is_empty());
    if let (Some(line), Some(text)) = (line, source) {
        let column = (problem.column.max(1) as usize - 1).min(line.chars().count());
        let first =
            column.saturating_sub(WIDTH / 2).min(line.chars().count().saturating_sub(WIDTH));
        let first = if line.chars().count() <= WIDTH { 0 } else { first };
        let width = word_width(line, column);
        let shown = if holds_secrets(text) { hide_value(line) } else { line.to_owned() };
        let window: String = shown.chars().skip(first).take(WIDTH).collect();
        let window: String = window.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
        out.push_str(&format!("\n{pad} |\n{} | {}", problem.line, printable(&window)));
        let carets = width.clamp(1, WIDTH - (column - first).min(WIDTH - 1));
        let caret = format!("{}{}", " ".repeat(column - first), "^".repeat(carets));
        out.push_str(&format!("\n{pad} | {caret}"));
    }
    push_notes(&mut out, problem, gutter);
    out
}

fn push_notes(out: &mut String, problem: &Problem, gutter: usize) {
    let pad = " ".repeat(gutter);
    let notes = [("object", &problem.object), ("field", &problem.field), ("help", &problem.hint)];
    for (name, text) in notes.into_iter().filter(|(_, text)| !text.is_empty()) {
        out.push_str(&format!("\n{pad} = {name}: {text}"));
    }
}

/// The word at the column: up to a blank, or up to the colon that ends a key.
fn word_width(line: &str, column: usize) -> usize {
    let rest: Vec<char> = line.chars().skip(column).collect();
    if let Some(quote @ ('"' | '\'')) = rest.first() {
        let end = rest.iter().skip(1).position(|c| c == quote);
        return end.map_or(rest.len(), |end| end + 2);
    }
    let ends = |index: usize, c: char| {
        c.is_whitespace()
            || matches!(c, ',' | ']' | '}')
            || (c == ':' && rest.get(index + 1).is_none_or(|next| next.is_whitespace()))
    };
    rest.iter().enumerate().position(|(index, c)| ends(index, *c)).unwrap_or(rest.len()).max(1)
}

fn holds_secrets(text: &str) -> bool {
    text.contains("Secret")
}

/// Keeps the key, hides what follows it; a line without a key is hidden whole.
fn hide_value(line: &str) -> String {
    let harmless =
        ["apiVersion", "kind", "metadata", "name", "namespace", "type", "data", "stringData"];
    let trimmed = line.trim_start_matches([' ', '-']);
    let key = trimmed.split(':').next().unwrap_or_default();
    if harmless.contains(&key) && !trimmed.contains('{') {
        return line.to_owned();
    }
    match line.split_once(": ") {
        Some((key, _)) => format!("{key}: (hidden)"),
        None if line.trim_end().ends_with(':') => line.to_owned(),
        None => "(hidden)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: u32, column: u32) -> Problem {
        Problem {
            file: "web.yaml".into(),
            line,
            column,
            field: "spec.imagee".into(),
            object: "Pod web/a".into(),
            message: "unknown field \"imagee\"".into(),
            hint: "did you mean image?".into(),
        }
    }

    #[test]
    fn a_problem_looks_like_a_compilers() {
        let text = "kind: Pod\nspec:\n  imagee: b\n";
        let expected = "\
error: unknown field \"imagee\"
 --> web.yaml:3:3
  |
3 |   imagee: b
  |   ^^^^^^
  = object: Pod web/a
  = field: spec.imagee
  = help: did you mean image?";
        assert_eq!(excerpt(&problem(3, 3), Some(text)), expected);
    }

    #[test]
    fn places_outside_the_text_are_no_panic() {
        for (line, column) in [(0, 0), (1, 0), (1, 9999), (9999, 1), (2, 1)] {
            let shown = excerpt(&problem(line, column), Some("a: b\n\n"));
            assert!(shown.contains("web.yaml"));
        }
        let long = format!("{}x", "a".repeat(5000));
        assert!(excerpt(&problem(1, 5001), Some(&long)).lines().all(|line| line.len() < 140));
    }

    #[test]
    fn values_of_secrets_are_hidden() {
        let text = "kind: Secret\ndata:\n  key: hunter2\n  other\n";
        let shown = excerpt(&problem(3, 8), Some(text)) + &excerpt(&problem(4, 1), Some(text));
        assert!(shown.contains("key: (hidden)") && !shown.contains("hunter2"));
        assert!(!shown.contains("other"));
    }
}
