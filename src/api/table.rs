//! Pure: `meta.k8s.io/v1 Table`, the answer behind `kubectl get`, as text: a list of thousands is
//! written row by row, with no JSON value of it in between.

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::Serialize;
use serde_json::Value;

use super::table_columns::Column;

/// What each row carries beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

const VERSION: &str = "meta.k8s.io/v1";

/// A table up to the bracket that its rows stand in, with commas between them; `]}` ends it. In a
/// watch each event carries a table of one row, and only the first of them the columns.
///
/// # Errors
/// None: it is a number and a few words.
pub fn head(
    list: &ListMeta,
    columns: &'static [Column],
    with_columns: bool,
) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(&whole(list, columns, &[], with_columns))?;
    text.truncate(text.len() - "]}".len());
    Ok(text)
}

/// A row, and what it carries of its object, as text.
///
/// # Errors
/// None of our kinds fails to serialise.
pub fn row_text<K>(cells: Vec<Value>, object: &K, include: Include) -> serde_json::Result<Vec<u8>>
where
    K: Metadata<Ty = ObjectMeta> + Serialize,
{
    serde_json::to_vec(&Row { cells, object: carried(object, include) })
}

/// The same as a value.
pub fn row<K>(cells: Vec<Value>, object: &K, include: Include) -> Value
where
    K: Metadata<Ty = ObjectMeta> + Serialize,
{
    let row = Row { cells, object: carried(object, include) };
    serde_json::to_value(row).unwrap_or_default()
}

/// A Table of rows that are made already.
pub fn of_rows(
    list: &ListMeta,
    columns: &'static [Column],
    rows: &[Value],
    with_columns: bool,
) -> Value {
    serde_json::to_value(whole(list, columns, rows, with_columns)).unwrap_or_default()
}

fn whole<'a>(
    metadata: &'a ListMeta,
    columns: &'static [Column],
    rows: &'a [Value],
    with_columns: bool,
) -> Whole<'a> {
    let column_definitions = with_columns.then_some(columns);
    Whole { kind: "Table", api_version: VERSION, metadata, column_definitions, rows }
}

fn carried<K: Metadata<Ty = ObjectMeta>>(object: &K, include: Include) -> Carried<'_, K> {
    match include {
        Include::None => Carried::Nothing(()),
        Include::Object => Carried::Object(object),
        Include::Metadata => Carried::Metadata {
            kind: "PartialObjectMetadata",
            api_version: VERSION,
            metadata: object.metadata(),
        },
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: &'a ListMeta,
    column_definitions: Option<&'static [Column]>,
    rows: &'a [Value],
}

#[derive(Serialize)]
struct Row<'a, K> {
    cells: Vec<Value>,
    object: Carried<'a, K>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Carried<'a, K> {
    Nothing(()),
    #[serde(rename_all = "camelCase")]
    Metadata {
        kind: &'static str,
        api_version: &'static str,
        metadata: &'a ObjectMeta,
    },
    Object(&'a K),
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use crate::api::table_cells::Tabular;
    use crate::api::table_columns::columns;
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
                if matches!(kind, Kind::ConfigMap | Kind::Secret | Kind::Event | Kind::EndpointSlice | Kind::StorageClass) {
                    empty.as_object_mut().expect("an object").remove("spec");
                }
                let object: K = serde_json::from_value(empty).expect("an empty object decodes");
                assert_eq!(object.cells(Timestamp::UNIX_EPOCH).len(), columns(kind).len(), "{kind}");
            });
        }
    }
}
