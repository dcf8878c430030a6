//! Pure: how a node takes care of itself: when images are collected, when pods are evicted, and what is
//! kept back from pods. Names, defaults and forms are those of the kubelet's configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::node::eviction::{self, Readings, Signal, Threshold};
use crate::node::image_gc;
use crate::object::quantity::Quantity;

/// What can be kept back from pods.
const RESERVABLE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What a person may write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CareSettings {
    pub image_gc: image_gc::Thresholds,
    pub eviction: eviction::Thresholds,
    /// `systemReserved`: nothing, for the daemon itself uses tens of megabytes, and a reserve nobody
    /// asked for would only hide resources of a small host.
    pub reserved: BTreeMap<String, Quantity>,
}

/// As it stands in the config file.
#[derive(Clone, Debug, Default)]
pub struct CareWritten {
    pub image_gc_high_percent: Option<u8>,
    pub image_gc_low_percent: Option<u8>,
    /// A signal to its threshold: replaces the default of this signal alone, `0%` switches it off.
    pub eviction_hard: BTreeMap<String, String>,
    pub system_reserved: BTreeMap<String, String>,
}

/// Reads the signals: of the disk with the node's own files, and of the one with the engine's.
pub type ReadSignals = Arc<dyn Fn(&Path, &Path) -> Readings + Send + Sync>;

/// The settings, and where the readings come from.
#[derive(Clone, Default)]
pub struct Care {
    pub settings: CareSettings,
    /// `None`: nothing can be read (the engine is on another host), so nothing is collected or evicted.
    pub signals: Option<ReadSignals>,
}

impl fmt::Debug for Care {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl CareSettings {
    /// The settings, and a sentence for everything that is wrong.
    pub fn of(written: CareWritten) -> (Self, Vec<String>) {
        let (mut settings, mut faults) = (Self::default(), Vec::new());
        let gc = &mut settings.image_gc;
        gc.high_percent = written.image_gc_high_percent.unwrap_or(gc.high_percent);
        gc.low_percent =
            written.image_gc_low_percent.unwrap_or(gc.low_percent.min(gc.high_percent.max(1) - 1));
        if gc.high_percent > 100 {
            faults
                .push(format!("imageGCHighThresholdPercent: {} is more than 100", gc.high_percent));
        }
        if gc.low_percent >= gc.high_percent {
            faults.push(format!(
                "imageGCLowThresholdPercent: {} must be below imageGCHighThresholdPercent, {}",
                gc.low_percent, gc.high_percent
            ));
        }
        for (name, text) in written.eviction_hard {
            let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.name() == name) else {
                let known = Signal::ALL.map(Signal::name).join(", ");
                faults.push(format!("evictionHard: {name:?} is no signal; there are {known}"));
                continue;
            };
            match Threshold::parse(&text) {
                Ok(threshold) => {
                    settings.eviction.0.insert(signal, threshold);
                }
                Err(why) => faults.push(format!("evictionHard[{name}]: {text:?}: {why}")),
            }
        }
        for (name, text) in written.system_reserved {
            if !RESERVABLE.contains(&&*name) {
                let known = RESERVABLE.join(", ");
                faults.push(format!(
                    "systemReserved: {name:?} cannot be kept back; there are {known}"
                ));
                continue;
            }
            match Quantity::parse(&text) {
                Ok(amount) if !amount.is_negative() => {
                    settings.reserved.insert(name, amount);
                }
                _ => faults.push(format!("systemReserved[{name}]: {text:?} is no quantity")),
            }
        }
        (settings, faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_changes_its_own_default_alone() {
        let pairs = |name: &str, text: &str| BTreeMap::from([(name.to_owned(), text.to_owned())]);
        let (settings, faults) = CareSettings::of(CareWritten {
            image_gc_high_percent: Some(70),
            image_gc_low_percent: None,
            eviction_hard: pairs("memory.available", "200Mi"),
            system_reserved: pairs("cpu", "100m"),
        });
        assert_eq!(faults, [""; 0]);
        assert_eq!((settings.image_gc.high_percent, settings.image_gc.low_percent), (70, 69));
        let thresholds = &settings.eviction.0;
        assert_eq!(thresholds[&Signal::MemoryAvailable], Threshold::Amount(200 << 20));
        assert_eq!(thresholds[&Signal::NodefsAvailable], Threshold::Percent(10.0));
        assert_eq!(settings.reserved["cpu"], Quantity::from_millis(100));
        assert_eq!(CareSettings::of(CareWritten::default()), (CareSettings::default(), vec![]));
    }

    #[test]
    fn everything_wrong_is_named() {
        let pairs = |name: &str, text: &str| BTreeMap::from([(name.to_owned(), text.to_owned())]);
        let mut eviction_hard = pairs("memory.free", "1Gi");
        eviction_hard.extend(pairs("nodefs.available", "lots"));
        let mut system_reserved = pairs("gpu", "1");
        system_reserved.extend(pairs("memory", "-1Gi"));
        let (_, faults) = CareSettings::of(CareWritten {
            image_gc_high_percent: Some(101),
            image_gc_low_percent: Some(101),
            eviction_hard,
            system_reserved,
        });
        let fields: Vec<&str> =
            faults.iter().filter_map(|fault| fault.split([':', '[']).next()).collect();
        assert_eq!(
            fields,
            [
                "imageGCHighThresholdPercent",
                "imageGCLowThresholdPercent",
                "evictionHard",
                "evictionHard",
                "systemReserved",
                "systemReserved"
            ]
        );
    }
}
