//! Pure: `meta.k8s.io/v1 Table`, the answer behind `kubectl get`.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::Serialize;
use serde_json::{Value, json};

use super::table_cells::Tabular;
use super::table_columns::{Column, columns};

/// What each row carries beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    None,
    /// `PartialObjectMetadata`, the default.
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// The query parameter; `None` where it is none of the three words.
    pub fn of_query(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "Metadata") => Some(Self::Metadata),
            Some("None") => Some(Self::None),
            Some("Object") => Some(Self::Object),
            Some(_) => None,
        }
    }
}

/// A Table of objects. In a watch each event carries a table of one row, and only the first of them
/// the columns.
pub fn table<K: Tabular>(
    list: &ListMeta,
    objects: &[Arc<K>],
    include: Include,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> =
        objects.iter().map(|object| row(object.cells(now), &**object, include)).collect();
    of_rows(list, columns(K::OBJECT_KIND), &rows, with_columns)
}

/// A row, and what it carries of its object.
pub fn row<K>(cells: Vec<Value>, object: &K, include: Include) -> Value
where
    K: Metadata<Ty = ObjectMeta> + Serialize,
{
    let object = match include {
        Include::None => Value::Null,
        Include::Object => serde_json::to_value(object).unwrap_or_default(),
        Include::Metadata => {
            json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata() })
        }
    };
    json!({ "cells": cells, "object": object })
}

/// A Table of rows that are made already.
pub fn of_rows(list: &ListMeta, columns: &[Column], rows: &[Value], with_columns: bool) -> Value {
    let definitions: Vec<Value> = columns.iter().map(|column| {
        json!({ "name": column.name, "type": column.kind, "format": column.format, "description": column.description, "priority": column.priority })
    }).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list,
        "columnDefinitions": if with_columns { Value::Array(definitions) } else { Value::Null },
        "rows": rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;
    use crate::with_kind;

    #[test]
    fn every_kind_fills_every_column() {
        for kind in Kind::all() {
            with_kind!(kind, K => {
                let mut empty = json!({ "apiVersion": kind.api_version(), "kind": kind.row().name, "metadata": { "name": "x" }, "spec": {} });
                if kind == Kind::Drift {
                    empty["spec"] = json!({ "object": { "kind": "Pod", "name": "p" }, "layer": "object", "class": "Changed", "field": "." });
                }
                if kind == Kind::Source {
                    empty["spec"] = json!({ "url": "u", "branch": "main", "path": ".", "pollSeconds": 60 });
                }
                if matches!(kind, Kind::ConfigMap | Kind::Secret | Kind::Event | Kind::EndpointSlice) {
                    empty.as_object_mut().expect("an object").remove("spec");
                }
                let object: K = serde_json::from_value(empty).expect("an empty object decodes");
                assert_eq!(object.cells(Timestamp::UNIX_EPOCH).len(), columns(kind).len(), "{kind}");
            });
        }
    }
}
