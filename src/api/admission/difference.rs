//! Pure: which fields of two objects differ, for people.

use serde::Serialize;
use serde_json::Value;

/// At most this many lines: an error is read by a person.
const MOST_LINES: usize = 20;

/// `-spec.hostNetwork: (absent)` and `+spec.hostNetwork: true`, a pair a field. The reference server
/// prints a diff of its Go structures here, which nothing but Go can make.
pub fn changed_lines(old: &impl Serialize, new: &impl Serialize, root: &str) -> String {
    let value = |of: Result<Value, serde_json::Error>| of.unwrap_or(Value::Null);
    let (old, new) = (value(serde_json::to_value(old)), value(serde_json::to_value(new)));
    let mut lines = Vec::new();
    walk(&old, &new, root, &mut lines);
    let hidden = lines.len().saturating_sub(MOST_LINES);
    lines.truncate(MOST_LINES);
    if hidden > 0 {
        lines.push(format!("… {hidden} more lines"));
    }
    lines.join("\n")
}

fn walk(old: &Value, new: &Value, path: &str, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
                let (old, new) = (before.get(key), after.get(key));
                let path = format!("{path}.{key}");
                walk(old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null), &path, lines);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (old, new)) in before.iter().zip(after).enumerate() {
                walk(old, new, &format!("{path}[{index}]"), lines);
            }
        }
        _ if old != new => {
            lines.push(format!("-{path}: {}", text(old)));
            lines.push(format!("+{path}: {}", text(new)));
        }
        _ => {}
    }
}

fn text(value: &Value) -> String {
    /// A value longer than a line helps nobody.
    const LONGEST: usize = 80;
    let full = if value.is_null() { "(absent)".to_owned() } else { value.to_string() };
    match full.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &full[..cut]),
        None => full,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let old = json!({"a": 1, "b": [{"c": 1}], "d": {"e": 1}});
        let new = json!({"a": 1, "b": [{"c": 2}], "d": {}});
        let lines = changed_lines(&old, &new, "spec");
        assert_eq!(lines, "-spec.b[0].c: 1\n+spec.b[0].c: 2\n-spec.d.e: 1\n+spec.d.e: (absent)");
    }
}
