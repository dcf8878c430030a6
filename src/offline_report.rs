//! Pure: what `validate` and `plan` answer, for people and as JSON.

use serde::Serialize;

use crate::object::counted;
use crate::object::source::Problem;

/// One problem with its excerpt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    pub problem: Problem,
    /// As a compiler shows it; several lines.
    pub excerpt: String,
}

/// The answer of `validate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub files: usize,
    pub objects: usize,
    pub problems: Vec<Shown>,
    /// What was assumed, one sentence each.
    pub notes: Vec<String>,
}

impl Report {
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// For people: every problem with its excerpt, then one line that sums up.
    pub fn text(&self) -> String {
        let mut out = problems_text(&self.problems);
        for note in &self.notes {
            out.push_str(&format!("note: {note}\n"));
        }
        let files = counted(self.files, "file");
        out.push_str(&match self.problems.len() {
            0 => format!("valid: {} in {files}\n", counted(self.objects, "object")),
            problems => format!(
                "{} in {files}; nothing of it would be applied\n",
                counted(problems, "problem")
            ),
        });
        out
    }
}

/// The answer of `plan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanReport {
    /// The full id; empty for files on disk.
    pub commit: String,
    pub changes: Vec<PlannedChange>,
    pub unchanged: usize,
    pub problems: Vec<Shown>,
    /// The commit would be held, with the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// What is not compared or not touched, one sentence each.
    pub notes: Vec<String>,
}

/// What would happen to one object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// `create`, `change` or `delete`
    pub action: &'static str,
    pub object: String,
    pub file: String,
    pub line: u32,
    pub reason: String,
    pub fields: Vec<FieldChange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    pub field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    pub line: u32,
}

impl PlanReport {
    /// 0: nothing to do, 1: changes, 2: problems (`plan`'s exit code).
    pub fn exit_code(&self) -> u8 {
        match (self.problems.is_empty(), self.changes.is_empty()) {
            (false, _) => 2,
            (true, false) => 1,
            (true, true) => 0,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = problems_text(&self.problems);
        for change in &self.changes {
            let sign = match change.action {
                "create" => '+',
                "delete" => '-',
                _ => '~',
            };
            let place = format!("{}:{}", change.file, change.line);
            out.push_str(&format!("{sign} {} {} ({place})\n", change.action, change.object));
            for field in &change.fields {
                let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".into());
                let (from, to) = (side(&field.from), side(&field.to));
                out.push_str(&format!("    {}: {from} -> {to}\n", field.field));
            }
        }
        if let Some(held) = &self.held {
            out.push_str(&format!("held: {held}\n"));
        }
        for note in &self.notes {
            out.push_str(&format!("note: {note}\n"));
        }
        let count =
            |action: &str| self.changes.iter().filter(|change| change.action == action).count();
        out.push_str(&match self.problems.len() {
            0 => format!(
                "{} to create, {} to change, {} to delete, {} as they are\n",
                count("create"),
                count("change"),
                count("delete"),
                self.unchanged
            ),
            problems => {
                format!("{}: nothing would be applied\n", counted(problems, "problem"))
            }
        });
        out
    }
}

fn problems_text(problems: &[Shown]) -> String {
    problems.iter().map(|shown| format!("{}\n\n", shown.excerpt)).collect()
}
