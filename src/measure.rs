//! What rooms count with: families of counters, gauges and histograms with a fixed list of labels.
//!
//! A label's value is a word of ours, or a name of which there are few: a source, a controller, a
//! table. Never text that a client or a manifest chose: every value is a series that Prometheus keeps.
//! A handle is cheap to clone and counts whether or not anybody registered it, so that a room needs
//! nobody to show its figures. What is shown is put together in `metrics.rs`.

use std::borrow::Cow;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// A label's name and value.
pub type Label = (&'static str, Cow<'static, str>);
/// The labels of one series.
pub type Labels<const N: usize> = [Label; N];
/// Counters with `N` labels.
pub type Counters<const N: usize> = Family<Labels<N>, Counter>;
/// Gauges with `N` labels.
pub type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
/// Histograms of seconds with `N` labels.
pub type Timers<const N: usize> = Family<Labels<N>, Histogram>;

/// For what takes milliseconds when all is well: a request, a reconcile, a call to an engine.
const QUICK: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
/// For what takes seconds and may take minutes: a fetch, a pull, a pod's start.
const SLOW: [f64; 10] = [0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// One label.
pub fn label(name: &'static str, value: impl Into<Cow<'static, str>>) -> Label {
    (name, value.into())
}

/// A histogram of seconds, 1 ms to 10 s.
pub fn quick() -> Histogram {
    Histogram::new(QUICK)
}

/// A histogram of seconds, 50 ms to 5 min.
pub fn slow() -> Histogram {
    Histogram::new(SLOW)
}

/// [`quick`] ones with labels.
pub fn quick_timers<const N: usize>() -> Timers<N> {
    Family::new_with_constructor(quick as fn() -> Histogram)
}

/// [`slow`] ones with labels.
pub fn slow_timers<const N: usize>() -> Timers<N> {
    Family::new_with_constructor(slow as fn() -> Histogram)
}

/// The label that says how something ended.
pub fn result<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "failed" }
}

/// Makes one series of each value, at zero: a rate over a series that appears with its first failure
/// misses that failure.
pub fn at_zero(counters: &Counters<1>, name: &'static str, values: &[&'static str]) {
    for value in values {
        drop(counters.get_or_create(&[label(name, *value)]));
    }
}
