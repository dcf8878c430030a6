//! A strict reader of the OpenMetrics 1.0 text format, as far as `/metrics` uses it: what it does not
//! know is an error, never skipped. Own code, because the one crate that is strict enough
//! (openmetrics-parser) is under the LGPL, which `deny.toml` does not allow.

use std::collections::{BTreeMap, BTreeSet};

/// All families, by name as it stands behind `# TYPE`.
#[derive(Debug, Default)]
pub struct Exposition {
    pub families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
pub struct Family {
    /// `counter`
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

const KINDS: [&str; 4] = ["counter", "gauge", "histogram", "info"];

impl Exposition {
    /// # Errors
    /// The first line that is not as it must be, with its number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("the last line is not # EOF")?;
        if !body.is_empty() && !body.ends_with('\n') {
            return Err("# EOF begins no line".to_owned());
        }
        let mut found = Self::default();
        let mut open: Option<(String, Family)> = None;
        for (index, line) in body.split_terminator('\n').enumerate() {
            let at = |fault: String| format!("line {}: {fault}: {line}", index + 1);
            if let Some(meta) = line.strip_prefix("# ") {
                found.meta(&mut open, meta).map_err(at)?;
            } else {
                let sample = Sample::parse(line).map_err(at)?;
                let (name, family) = open.as_mut().ok_or_else(|| at("no family".to_owned()))?;
                if family.kind.is_empty() {
                    return Err(at("a sample before its # TYPE".to_owned()));
                }
                family.take(name, sample).map_err(at)?;
            }
        }
        found.close(open)?;
        found.names_are_unique()?;
        Ok(found)
    }

    /// The value of the one series with these labels and no others.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let all = self.families.values().flat_map(|family| &family.samples);
        let mut matching = all.filter(|sample| sample.name == name && sample.labels == wanted);
        matching.next().map(|sample| sample.value)
    }

    fn meta(&mut self, open: &mut Option<(String, Family)>, meta: &str) -> Result<(), String> {
        let mut words = meta.splitn(3, ' ');
        let (Some(keyword), Some(name), Some(text)) = (words.next(), words.next(), words.next())
        else {
            return Err("a comment that is none of HELP, TYPE and UNIT with a text".to_owned());
        };
        is_name(name, true)?;
        if open.as_ref().is_none_or(|(before, _)| before != name) {
            self.close(open.take())?;
            *open = Some((name.to_owned(), Family::default()));
        }
        let (_, family) = open.as_mut().expect("just opened");
        if !family.samples.is_empty() {
            return Err("a family is described behind its samples".to_owned());
        }
        match keyword {
            "HELP" if family.help.is_empty() => family.help = unescaped(text)?,
            "TYPE" if family.kind.is_empty() && KINDS.contains(&text) => {
                family.kind = text.to_owned();
            }
            "UNIT" if name.ends_with(&format!("_{text}")) => {}
            _ => return Err(format!("{keyword} twice, unknown or wrong")),
        }
        Ok(())
    }

    fn close(&mut self, family: Option<(String, Family)>) -> Result<(), String> {
        let Some((name, family)) = family else { return Ok(()) };
        if family.kind.is_empty() || family.help.trim().is_empty() || family.samples.is_empty() {
            return Err(format!("{name} has no TYPE, no HELP or no sample"));
        }
        if family.kind == "histogram" {
            family.histograms_add_up(&name)?;
        }
        match self.families.insert(name.clone(), family) {
            Some(_) => Err(format!("{name} is there twice")),
            None => Ok(()),
        }
    }

    /// No sample's name may be read as one of another family.
    fn names_are_unique(&self) -> Result<(), String> {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, family) in &self.families {
            let names: BTreeSet<&str> =
                family.samples.iter().map(|sample| sample.name.as_str()).collect();
            for sample in names {
                if let Some(other) = owners.insert(sample, name) {
                    return Err(format!("{sample} belongs to {name} and to {other}"));
                }
            }
        }
        Ok(())
    }
}

impl Family {
    fn take(&mut self, name: &str, sample: Sample) -> Result<(), String> {
        let suffix = sample.name.strip_prefix(name).ok_or("a sample of another family")?;
        let fits = match self.kind.as_str() {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            "info" => suffix == "_info" && sample.value == 1.0,
            "histogram" => ["_bucket", "_count", "_sum"].contains(&suffix),
            _ => false,
        };
        if !fits {
            return Err(format!("no sample of a {}", self.kind));
        }
        if sample.labels.contains_key("le") != (suffix == "_bucket") {
            return Err("le is the label of buckets".to_owned());
        }
        if sample.value.is_nan() || (self.kind != "gauge" && sample.value < 0.0) {
            return Err("a value that cannot be".to_owned());
        }
        let same = |other: &Sample| other.name == sample.name && other.labels == sample.labels;
        if self.samples.iter().any(same) {
            return Err("the series is there twice".to_owned());
        }
        self.samples.push(sample);
        Ok(())
    }

    /// Every series has a sum, a count, and buckets that grow to it.
    fn histograms_add_up(&self, name: &str) -> Result<(), String> {
        let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let le = labels.remove("le");
            let series = buckets.entry(labels).or_default();
            if let Some(le) = le {
                let bound = number(&le).ok_or_else(|| format!("{name}: le={le} is no number"))?;
                series.push((bound, sample.value));
            }
        }
        for (labels, series) in buckets {
            let labels: Vec<(&str, &str)> =
                labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let of = |suffix: &str| {
                let wanted = format!("{name}{suffix}");
                self.samples.iter().find(|sample| {
                    sample.name == wanted
                        && sample.labels.len() == labels.len()
                        && labels.iter().all(|(k, v)| sample.labels.get(*k).is_some_and(|x| x == v))
                })
            };
            let (Some(count), Some(_)) = (of("_count"), of("_sum")) else {
                return Err(format!("{name}{labels:?} has no count or no sum"));
            };
            let grows =
                series.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            if !grows || series.last() != Some(&(f64::INFINITY, count.value)) {
                return Err(format!("{name}{labels:?} does not add up: {series:?}"));
            }
        }
        Ok(())
    }
}

impl Sample {
    /// `name{label="value",…} number`: timestamps and exemplars are not ours.
    fn parse(line: &str) -> Result<Self, String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, mut rest) = line.split_at(end);
        is_name(name, true)?;
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
                is_name(label, false)?;
                let end = closing_quote(after).ok_or("a label's value has no end")?;
                let value = unescaped(&after[..end])?;
                if labels.insert(label.to_owned(), value).is_some() {
                    return Err(format!("{label} twice"));
                }
                rest = &after[end + 1..];
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                    break;
                }
                rest = rest.strip_prefix(',').ok_or("no comma between labels")?;
            }
        }
        let text = rest.strip_prefix(' ').ok_or("no space before the value")?;
        let value = number(text).ok_or("no number")?;
        Ok(Self { name: name.to_owned(), labels, value })
    }
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        // Rust reads more words than the format has.
        _ if text.contains(|c: char| c.is_ascii_alphabetic() && c != 'e') => None,
        _ => text.parse().ok(),
    }
}

fn is_name(name: &str, colons: bool) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let begins = name.starts_with(|c: char| !c.is_ascii_digit());
    if begins && name.chars().all(fits) && !name.starts_with("__") {
        return Ok(());
    }
    Err(format!("{name:?} is no name"))
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut all = text.chars();
    while let Some(c) = all.next() {
        plain.push(match c {
            '\\' => match all.next() {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                _ => return Err("an unknown escape".to_owned()),
            },
            '"' | '\n' => return Err("an unescaped quote".to_owned()),
            c => c,
        });
    }
    Ok(plain)
}

#[test]
fn the_reader_takes_what_is_right() {
    let text = "# HELP a_b Help \\\"x\\\".\n# TYPE a_b counter\na_b_total{x=\"1,\\\"}\\\\\",y=\"\"} 3\na_b_total 0\n\
        # HELP h_seconds H.\n# TYPE h_seconds histogram\n# UNIT h_seconds seconds\nh_seconds_sum 0.5\nh_seconds_count 2\n\
        h_seconds_bucket{le=\"0.1\"} 1\nh_seconds_bucket{le=\"+Inf\"} 2\n\
        # HELP i I.\n# TYPE i info\ni_info{version=\"1\"} 1\n# EOF\n";
    let read = Exposition::parse(text).expect("right");
    assert_eq!(read.families.len(), 3);
    assert_eq!(read.families["a_b"].help, "Help \"x\".");
    assert_eq!(read.value("a_b_total", &[("x", "1,\"}\\"), ("y", "")]), Some(3.0));
    assert_eq!(read.value("a_b_total", &[]), Some(0.0));
    assert_eq!(read.value("a_b_total", &[("x", "1")]), None);
}

#[test]
fn the_reader_refuses_what_is_wrong() {
    let head = "# HELP a A.\n# TYPE a gauge\n";
    let histogram = "# HELP h H.\n# TYPE h histogram\n";
    for (what, text) in [
        ("no end", format!("{head}a 1\n")),
        ("text behind the end", format!("{head}a 1\n# EOF\na 2\n")),
        ("no help", "# TYPE a gauge\na 1\n# EOF\n".to_owned()),
        ("no type", "# HELP a A.\na 1\n# EOF\n".to_owned()),
        ("no sample", format!("{head}# EOF\n")),
        ("no family", "a 1\n# EOF\n".to_owned()),
        ("an unknown type", "# HELP a A.\n# TYPE a thing\na 1\n# EOF\n".to_owned()),
        ("another family's sample", format!("{head}b 1\n# EOF\n")),
        (
            "a family twice",
            format!("{head}a 1\n# HELP b B.\n# TYPE b gauge\nb 1\n{head}a 2\n# EOF\n"),
        ),
        ("a series twice", format!("{head}a{{x=\"1\"}} 1\na{{x=\"1\"}} 2\n# EOF\n")),
        ("a label twice", format!("{head}a{{x=\"1\",x=\"2\"}} 1\n# EOF\n")),
        ("a bad label", format!("{head}a{{x-y=\"1\"}} 1\n# EOF\n")),
        ("an open label", format!("{head}a{{x=\"1}} 1\n# EOF\n")),
        ("a bad escape", format!("{head}a{{x=\"\\t\"}} 1\n# EOF\n")),
        ("no number", format!("{head}a one\n# EOF\n")),
        ("a word that Rust reads", format!("{head}a infinity\n# EOF\n")),
        ("a timestamp", format!("{head}a 1 1700000000\n# EOF\n")),
        ("an empty line", format!("{head}\na 1\n# EOF\n")),
        ("a counter without _total", "# HELP a A.\n# TYPE a counter\na 1\n# EOF\n".to_owned()),
        ("a negative counter", "# HELP a A.\n# TYPE a counter\na_total -1\n# EOF\n".to_owned()),
        (
            "a wrong unit",
            "# HELP a_s A.\n# TYPE a_s gauge\n# UNIT a_s seconds\na_s 1\n# EOF\n".to_owned(),
        ),
        (
            "no last bucket",
            format!("{histogram}h_sum 1\nh_count 1\nh_bucket{{le=\"1.0\"}} 1\n# EOF\n"),
        ),
        (
            "a count that is not the last bucket's",
            format!("{histogram}h_sum 1\nh_count 2\nh_bucket{{le=\"+Inf\"}} 1\n# EOF\n"),
        ),
        (
            "buckets that shrink",
            format!(
                "{histogram}h_sum 1\nh_count 1\nh_bucket{{le=\"1.0\"}} 2\nh_bucket{{le=\"+Inf\"}} 1\n# EOF\n"
            ),
        ),
        ("no sum", format!("{histogram}h_count 1\nh_bucket{{le=\"+Inf\"}} 1\n# EOF\n")),
        (
            "one name for two",
            "# HELP a A.\n# TYPE a counter\na_total 1\n# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n# EOF\n".to_owned(),
        ),
    ] {
        assert!(Exposition::parse(&text).is_err(), "{what} is taken:\n{text}");
    }
}
