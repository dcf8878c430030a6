//! Pure: the rows of [`super::supported`].

use super::supported::{Part, Row, Support};

const fn pod(path: &'static str, support: Support) -> Row {
    Row { part: Part::PodSpec, path, support }
}

/// In the order of Kubernetes' own documentation.
pub static ROWS: &[Row] = &[pod("hostNetwork", Support::Refused("a pod has a network of its own"))];
