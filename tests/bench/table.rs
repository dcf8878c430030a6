//! A row a contender: median and 99th percentile, and the ratio to the first row.

use std::time::{Duration, Instant};

/// One measurement, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Sample(pub f64);

impl Sample {
    pub fn since(begun: Instant) -> Self {
        Self::of(begun.elapsed())
    }

    pub fn of(time: Duration) -> Self {
        Self(time.as_secs_f64() * 1e3)
    }
}

/// Samples of several contenders in one run.
#[derive(Debug)]
pub struct Table {
    title: String,
    unit: &'static str,
    rows: Vec<(String, Vec<f64>)>,
}

impl Table {
    pub fn new(title: &str, unit: &'static str) -> Self {
        Self { title: title.to_owned(), unit, rows: Vec::new() }
    }

    pub fn add(&mut self, contender: &str, sample: Sample) {
        match self.rows.iter_mut().find(|(name, _)| name == contender) {
            Some((_, samples)) => samples.push(sample.0),
            None => self.rows.push((contender.to_owned(), vec![sample.0])),
        }
    }

    /// Prints the table; ratios are of medians, to the first contender.
    pub fn print(&mut self) {
        println!("\n{}", self.title);
        println!(
            "    {:<50} {:>10} {:>10} {:>7} {:>4}",
            "",
            format!("median {}", self.unit),
            format!("p99 {}", self.unit),
            "ratio",
            "n"
        );
        let mut first = None;
        for (name, samples) in &mut self.rows {
            samples.sort_by(f64::total_cmp);
            let median = percentile(samples, 0.5);
            let first = *first.get_or_insert(median);
            println!(
                "    {name:<50} {median:>10.1} {:>10.1} {:>7.2} {:>4}",
                percentile(samples, 0.99),
                median / first,
                samples.len()
            );
        }
    }
}

/// Of sorted samples; the nearest rank.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
