//! The tables that benchmarks print, as Markdown: a row a measurement or a contender, with the median
//! and the 99th percentile of its samples, and the ratio of medians where rows stand beside a peer.

use std::time::Duration;

/// Collects the samples of one table; rows stand in the order of their first sample.
#[derive(Debug)]
pub struct Report {
    title: String,
    against_first: bool,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
}

impl Report {
    /// Rows that have nothing to do with each other.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), against_first: false, rows: Vec::new() }
    }

    /// Rows of one unit, each compared with the first.
    pub fn against_first(title: &str) -> Self {
        Self { against_first: true, ..Self::new(title) }
    }

    /// One sample of a row.
    pub fn sample(&mut self, name: &str, unit: &'static str, value: f64) {
        self.samples(name, unit, [value]);
    }

    pub fn milliseconds(&mut self, name: &str, durations: impl IntoIterator<Item = Duration>) {
        let values = durations.into_iter().map(|duration| duration.as_secs_f64() * 1e3);
        self.samples(name, "ms", values);
    }

    fn samples(&mut self, name: &str, unit: &'static str, values: impl IntoIterator<Item = f64>) {
        let index = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), unit, samples: Vec::new() });
            self.rows.len() - 1
        });
        self.rows[index].samples.extend(values);
    }

    /// Nothing where nothing was sampled.
    pub fn print(mut self) {
        if self.rows.is_empty() {
            return;
        }
        let (head, line) = if self.against_first { (" ratio |", " ---: |") } else { ("", "") };
        println!("\n## {}\n\n| what | median | p99 | unit | samples |{head}", self.title);
        println!("| --- | ---: | ---: | --- | ---: |{line}");
        let mut first = None;
        for Row { name, unit, samples } in &mut self.rows {
            samples.sort_by(f64::total_cmp);
            let (median, p99) = (quantile(samples, 0.5), quantile(samples, 0.99));
            let first = *first.get_or_insert(median);
            let ratio = if self.against_first {
                format!(" {:.2} |", median / first)
            } else {
                String::new()
            };
            println!("| {name} | {median:.2} | {p99:.2} | {unit} | {} |{ratio}", samples.len());
        }
    }
}

/// Of sorted samples, the nearest one.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}
