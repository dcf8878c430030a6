//! Pure: the one error that an API answers, in process and over HTTP: a Kubernetes `Status`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use crate::object::{Key, Kind};

/// Why a request failed, with the HTTP code that the reference server gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    /// The revision asked for is compacted: list again.
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
    /// A failure that the reference server gives no word: 500 without a reason on the wire.
    Unknown,
}

impl Reason {
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::Unknown => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// `NotFound`: the word on the wire; empty where there is none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Expired => "Expired",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
            Self::Unknown => "",
        }
    }

    /// The reason behind a word on the wire; an unknown word is judged by its code.
    pub fn of_wire(reason: Option<&str>, code: u16) -> Self {
        const ALL: [Reason; 16] = [
            Reason::BadRequest,
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Expired,
            Reason::RequestEntityTooLarge,
            Reason::UnsupportedMediaType,
            Reason::Invalid,
            Reason::TooManyRequests,
            Reason::InternalError,
            Reason::ServiceUnavailable,
            Reason::Timeout,
        ];
        let named = ALL.into_iter().find(|candidate| Some(candidate.as_str()) == reason);
        named
            .or_else(|| ALL.into_iter().find(|candidate| candidate.code() == code))
            .unwrap_or(Self::InternalError)
    }
}

/// A failed request. `message` is the sentence kubectl prints; `details` names the object and,
/// for `Invalid`, every field at fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<StatusDetails>>,
}

impl ApiError {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None }
    }

    fn about(reason: Reason, kind: Kind, name: &str, message: String) -> Self {
        let row = kind.row();
        let details = StatusDetails {
            name: Some(name.to_owned()),
            group: (!row.group.is_empty()).then(|| row.group.to_owned()),
            kind: Some(row.plural.to_owned()),
            ..StatusDetails::default()
        };
        Self { reason, message, details: Some(Box::new(details)) }
    }

    pub fn not_found(kind: Kind, name: &str) -> Self {
        Self::about(
            Reason::NotFound,
            kind,
            name,
            format!("{} \"{name}\" not found", kind.qualified_resource()),
        )
    }

    pub fn already_exists(kind: Kind, name: &str) -> Self {
        Self::about(
            Reason::AlreadyExists,
            kind,
            name,
            format!("{} \"{name}\" already exists", kind.qualified_resource()),
        )
    }

    /// A stale `resourceVersion`: read again, decide again.
    pub fn conflict(kind: Kind, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes to the latest version and try again",
            kind.qualified_resource()
        );
        Self::about(Reason::Conflict, kind, name, message)
    }

    /// A failed precondition of a delete, in the reference server's words (kind, not resource).
    pub fn precondition(kind: Kind, key: &Key, what: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": {what}",
            kind.qualified_kind(),
            key.name
        );
        let mut error = Self::about(Reason::Conflict, kind, &key.name, message);
        if let Some(details) = &mut error.details {
            details.kind = Some(kind.row().name.to_owned());
        }
        error
    }

    /// Every field at fault at once: `Kind "name" is invalid: [field: message, …]`.
    pub fn invalid(kind: Kind, name: &str, causes: Vec<StatusCause>) -> Self {
        let sentence = |cause: &StatusCause| {
            format!(
                "{}: {}",
                cause.field.as_deref().unwrap_or_default(),
                cause.message.as_deref().unwrap_or_default()
            )
        };
        let joined = match causes.as_slice() {
            [only] => sentence(only),
            many => format!("[{}]", many.iter().map(sentence).collect::<Vec<_>>().join(", ")),
        };
        let row = kind.row();
        let message = format!("{} \"{name}\" is invalid: {joined}", kind.qualified_kind());
        let details = StatusDetails {
            name: Some(name.to_owned()),
            group: (!row.group.is_empty()).then(|| row.group.to_owned()),
            kind: Some(row.name.to_owned()),
            causes: Some(causes),
            ..StatusDetails::default()
        };
        Self { reason: Reason::Invalid, message, details: Some(Box::new(details)) }
    }

    /// A policy's word: `pods "name" is forbidden: …`, with the fields at fault for whoever can show
    /// their place.
    pub fn forbidden(kind: Kind, name: &str, why: &str, causes: Vec<StatusCause>) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified_resource());
        let mut error = Self::about(Reason::Forbidden, kind, name, message);
        if let Some(details) = &mut error.details {
            details.causes = Some(causes).filter(|causes| !causes.is_empty());
        }
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::InternalError, message)
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    /// Whether a revision was asked for that the server has not reached: its history is another
    /// than the one the revision is from.
    pub fn is_too_large_revision(&self) -> bool {
        let causes = self.details.iter().filter_map(|details| details.causes.as_ref()).flatten();
        causes.into_iter().any(|cause| cause.reason.as_deref() == Some("ResourceVersionTooLarge"))
    }

    /// The wire form.
    pub fn to_status(&self) -> Status {
        Status {
            code: Some(i32::from(self.reason.code())),
            reason: Some(self.reason.as_str().to_owned()).filter(|word| !word.is_empty()),
            message: Some(self.message.clone()),
            status: Some("Failure".to_owned()),
            details: self.details.as_deref().cloned(),
            ..Status::default()
        }
    }
}
