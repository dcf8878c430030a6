//! The table that a benchmark prints: a row a measurement, median and p99 over its samples.

use std::time::Duration;

/// Collects samples of one benchmark; rows stand in the order of their first sample.
#[derive(Debug, Default)]
pub struct Report {
    title: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
}

impl Report {
    pub fn begin(&mut self, title: &str) {
        title.clone_into(&mut self.title);
        self.rows.clear();
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

    pub fn print(&mut self) {
        println!("\n## {}\n\n| what | median | p99 | unit | samples |", self.title);
        println!("| --- | ---: | ---: | --- | ---: |");
        for Row { name, unit, samples } in &mut self.rows {
            samples.sort_by(f64::total_cmp);
            let (median, p99) = (quantile(samples, 0.5), quantile(samples, 0.99));
            println!("| {name} | {median:.2} | {p99:.2} | {unit} | {} |", samples.len());
        }
    }
}

/// Of sorted samples, the nearest one.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}
