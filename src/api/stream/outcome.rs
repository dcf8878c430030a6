//! Pure: what a client is told at the end, as a `Status` on the error channel, in the reference
//! server's words (`streamtranslator.go`, and the kubelet's `remotecommand`).

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use crate::api::access::Part;
use crate::object::{ApiError, Reason};

/// How it ended: with an exit code, without one where it was attached to, or not as it should.
pub(crate) type Outcome = Result<Option<i64>, ApiError>;

/// The message of the error channel.
pub(crate) fn told(outcome: &Outcome) -> Bytes {
    let status = match outcome {
        Ok(None | Some(0)) => Status { status: Some("Success".to_owned()), ..Status::default() },
        Ok(Some(code)) => ended_with(*code),
        Err(error) => error.to_status(),
    };
    // `kind` and `apiVersion` are not there in the reference's either; `metadata` is.
    let mut value = serde_json::to_value(&status).expect("a Status has string keys only");
    if let Some(fields) = value.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
        fields.entry("metadata").or_insert_with(|| serde_json::json!({}));
    }
    Bytes::from(value.to_string())
}

fn ended_with(code: i64) -> Status {
    let cause = StatusCause {
        reason: Some("ExitCode".to_owned()),
        message: Some(code.to_string()),
        ..StatusCause::default()
    };
    Status {
        status: Some("Failure".to_owned()),
        reason: Some("NonZeroExitCode".to_owned()),
        message: Some(format!(
            "command terminated with non-zero exit code: command terminated with exit code {code}"
        )),
        details: Some(StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() }),
        ..Status::default()
    }
}

/// A failure of the node's, as the reference server tells its kubelet's: it could not be begun, or
/// it broke off.
pub(crate) fn failed(part: Part, error: ApiError, begun: bool) -> ApiError {
    if error.reason != Reason::InternalError {
        return error;
    }
    let what = match (begun, part) {
        (false, _) => "unable to upgrade connection",
        (true, Part::Attach) => "error attaching to container",
        (true, _) => "error executing command in container",
    };
    let cause = format!("{what}: {}", error.message);
    let mut told =
        ApiError::new(Reason::InternalError, format!("Internal error occurred: {cause}"));
    let cause = StatusCause { message: Some(cause), ..StatusCause::default() };
    let details = StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() };
    told.details = Some(Box::new(details));
    told
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(outcome: &Outcome) -> Value {
        serde_json::from_slice(&told(outcome)).expect("JSON")
    }

    #[test]
    fn an_exit_code_is_a_cause() {
        let success = json!({"metadata": {}, "status": "Success"});
        assert_eq!(value(&Ok(Some(0))), success);
        assert_eq!(value(&Ok(None)), success);
        assert_eq!(
            value(&Ok(Some(3))),
            json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": "command terminated with non-zero exit code: command terminated with exit code 3",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}})
        );
    }

    #[test]
    fn a_failure_says_what_failed() {
        let gone = || ApiError::internal("container not found (\"web\")");
        let words = "unable to upgrade connection: container not found (\"web\")";
        assert_eq!(
            value(&Err(failed(Part::Exec, gone(), false))),
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {words}"),
                "details": {"causes": [{"message": words}]}})
        );
        let attached = failed(Part::Attach, ApiError::internal("lost"), true).message;
        assert_eq!(attached, "Internal error occurred: error attaching to container: lost");
        let away = ApiError::new(Reason::ServiceUnavailable, "away");
        assert_eq!(failed(Part::Exec, away.clone(), true), away);
    }
}
