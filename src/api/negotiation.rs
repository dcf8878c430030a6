//! What a request's `Accept` header asks for: JSON, a Table, or metadata alone, under which of the names
//! that `meta.k8s.io` has had. Discovery and OpenAPI have forms of their own.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use futures::StreamExt;
use http_body_util::BodyExt;

use crate::api::admission::go_package;
use crate::api::reply::Form;
use crate::object::{ApiError, Kind, Reason};

const NAME: &[u8] = br#""apiVersion":"meta.k8s.io/v1""#;
const OLDER_NAME: &[u8] = br#""apiVersion":"meta.k8s.io/v1beta1""#;

/// The clause of the header that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clause {
    form: Form,
    /// `v=v1beta1`
    older: bool,
    /// `as=PartialObjectMetadataList`, and not the metadata of one.
    list: bool,
}

const PLAIN: Clause = Clause { form: Form::Json, older: false, list: false };

/// The first form offered that we have. A client that takes protobuf only gets JSON: all of them
/// read the content type. What can be neither is 406.
///
/// # Errors
/// `NotAcceptable`.
pub fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    clause(headers).map(|clause| clause.form)
}

fn clause(headers: &HeaderMap) -> Result<Clause, ApiError> {
    let mut offered = headers.get_all(header::ACCEPT).iter().peekable();
    if offered.peek().is_none() {
        return Ok(PLAIN);
    }
    let text: Vec<&str> = offered.filter_map(|value| value.to_str().ok()).collect();
    let mut understood = false;
    for media in text.iter().flat_map(|text| text.split(',')).map(str::trim) {
        let mut parts = media.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.collect();
        let said = |name: &str| parameters.iter().find_map(|one| one.strip_prefix(name));
        let ours =
            said("g=") == Some("meta.k8s.io") && matches!(said("v="), Some("v1" | "v1beta1"));
        let clause = |form, list| Ok(Clause { form, older: said("v=") == Some("v1beta1"), list });
        match (name, said("as=")) {
            ("application/json" | "*/*" | "application/*", None) => return Ok(PLAIN),
            ("application/json", Some("Table")) if ours => return clause(Form::Table, false),
            ("application/json", Some("PartialObjectMetadata")) if ours => {
                return clause(Form::Metadata, false);
            }
            ("application/json", Some("PartialObjectMetadataList")) if ours => {
                return clause(Form::Metadata, true);
            }
            ("application/vnd.kubernetes.protobuf" | "" | "text/plain", _) => understood = true,
            _ => {}
        }
    }
    if understood {
        return Ok(PLAIN);
    }
    Err(not_acceptable("only the following media types are accepted: application/json"))
}

/// Whether metadata is asked for of what is read: of a list or of one object.
///
/// # Errors
/// `NotAcceptable`, in the reference server's words.
pub fn fits(headers: &HeaderMap, kind: Kind, list: bool) -> Result<(), ApiError> {
    fits_kind(headers, go_package(kind), kind.row().name, list)
}

/// The same of a kind by its name, and the reference server's package of it.
///
/// # Errors
/// As [`fits`].
pub fn fits_kind(
    headers: &HeaderMap,
    package: &str,
    name: &str,
    list: bool,
) -> Result<(), ApiError> {
    let clause = clause(headers)?;
    if clause.form != Form::Metadata || clause.list == list {
        return Ok(());
    }
    Err(not_acceptable(&match list {
        true => format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{package}.{name}List)"
        ),
        false => format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{name})"
        ),
    }))
}

fn not_acceptable(message: &str) -> ApiError {
    ApiError::new(Reason::NotAcceptable, message)
}

/// The answer under the older name of its types where the client asks for that: a Table and metadata
/// of `v1beta1` never differed in anything else.
pub(crate) async fn in_version(asked: &HeaderMap, response: Response) -> Response {
    let older = clause(asked).is_ok_and(|clause| clause.older);
    if !older || !response.status().is_success() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = if axum::body::HttpBody::size_hint(&body).exact().is_some() {
        // A body of known length is in memory already, and cannot fail.
        let whole = body.collect().await.map(http_body_util::Collected::to_bytes);
        Body::from(renamed(&whole.unwrap_or_default()))
    } else {
        // A watch, and each of its chunks is a line.
        let lines = body.into_data_stream().map(|line| line.map(|line| renamed(&line)));
        Body::from_stream(lines)
    };
    Response::from_parts(parts, body)
}

/// Within a string the quotes would stand behind backslashes, so that no value is touched.
fn renamed(text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.windows(NAME.len()).position(|part| part == NAME) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(OLDER_NAME);
        rest = &rest[at + NAME.len()..];
    }
    out.extend_from_slice(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).expect("a header"));
        headers
    }

    fn asked(accept: &str) -> Result<Form, ApiError> {
        form(&headers(accept))
    }

    #[test]
    fn what_kubectl_and_others_ask_for() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(asked(table), Ok(Form::Table));
        assert_eq!(asked("application/json"), Ok(Form::Json));
        assert_eq!(asked("application/vnd.kubernetes.protobuf,application/json"), Ok(Form::Json));
        assert_eq!(asked("application/vnd.kubernetes.protobuf"), Ok(Form::Json));
        assert_eq!(asked("text/html, */*;q=0.8"), Ok(Form::Json));
        assert_eq!(
            asked("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok(Form::Metadata)
        );
        assert!(asked("image/png").is_err());
        assert_eq!(form(&HeaderMap::new()), Ok(Form::Json));
    }

    #[test]
    fn forms_of_no_version_that_was_are_not_acceptable() {
        for unknown in ["as=Table", "as=Table;g=meta.k8s.io;v=v2", "as=Table;g=x;v=v1", "as=Chair"]
        {
            let error = asked(&format!("application/json;{unknown}")).expect_err(unknown);
            assert_eq!(error.reason, Reason::NotAcceptable);
            let either = format!("application/json;{unknown},application/json");
            assert_eq!(asked(&either), Ok(Form::Json), "{unknown}");
        }
    }

    #[test]
    fn metadata_of_a_list_is_none_of_an_object() {
        let ask = |what: &str, list| {
            let accept = format!("application/json;as={what};g=meta.k8s.io;v=v1");
            fits(&headers(&accept), Kind::Deployment, list).map_err(|error| error.message)
        };
        assert_eq!(ask("PartialObjectMetadata", false), Ok(()));
        assert_eq!(ask("PartialObjectMetadataList", true), Ok(()));
        assert_eq!(
            ask("PartialObjectMetadata", true).unwrap_err(),
            "you requested PartialObjectMetadata, but the requested object is a list (*apps.DeploymentList)"
        );
        assert!(ask("PartialObjectMetadataList", false).is_err());
        assert_eq!(ask("Table", true), Ok(()));
    }

    #[test]
    fn a_name_inside_a_value_stays() {
        let text = br#"{"apiVersion":"meta.k8s.io/v1","x":"\"apiVersion\":\"meta.k8s.io/v1\""}"#;
        let wanted =
            br#"{"apiVersion":"meta.k8s.io/v1beta1","x":"\"apiVersion\":\"meta.k8s.io/v1\""}"#;
        assert_eq!(renamed(text), &wanted[..]);
    }
}
