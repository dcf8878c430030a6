//! Pure: what every kind must know about its own admission.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;

use super::supported;
use crate::object::Object;

/// One field at fault, as the reference server words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `spec.template.spec.containers[0].image`
    pub field: String,
    pub fault: FaultType,
    /// Without the type's own words: `must be greater than or equal to 0`.
    pub detail: String,
    /// The offending value as Kubernetes prints it (`"x"`, `-1`, `{"app":"b"}`); empty where none is shown.
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultType {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    NotFound,
    TooLong,
    TooMany,
}

/// Every fault of an object, in the reference server's order.
pub type Faults = Vec<Fault>;

impl Fault {
    /// The wire form: reason `FieldValueInvalid`, message `Invalid value: -1: must be …`.
    pub fn to_cause(&self) -> StatusCause {
        let (reason, head) = match self.fault {
            FaultType::Required => ("FieldValueRequired", "Required value"),
            FaultType::Invalid => ("FieldValueInvalid", "Invalid value"),
            FaultType::NotSupported => ("FieldValueNotSupported", "Unsupported value"),
            FaultType::Duplicate => ("FieldValueDuplicate", "Duplicate value"),
            FaultType::Forbidden => ("FieldValueForbidden", "Forbidden"),
            FaultType::NotFound => ("FieldValueNotFound", "Not found"),
            FaultType::TooLong => ("FieldValueTooLong", "Too long"),
            FaultType::TooMany => ("FieldValueTooMany", "Too many"),
        };
        let mut message = head.to_owned();
        for part in [&self.value, &self.detail] {
            if !part.is_empty() {
                message.push_str(": ");
                message.push_str(part);
            }
        }
        StatusCause {
            field: Some(self.field.clone()),
            message: Some(message),
            reason: Some(reason.to_owned()),
        }
    }
}

/// The two parts of an object that are written apart: what is asked for, and how it is.
pub trait Parts: Object {
    /// A write of the object leaves the status as stored.
    fn keep_status(&mut self, old: &Self);

    /// A write of the status leaves everything else as stored, but for the precondition on the
    /// resourceVersion, which is the writer's.
    fn keep_all_but_status(&mut self, old: &Self);

    fn spec_differs(&self, old: &Self) -> bool;
}

/// A kind's admission. All functions are pure; the verbs call them in the order they stand here.
/// Metadata that is the same for all kinds (name, uid, times, generation, finalizers, owner
/// references) is `lifecycle`'s; allocation of addresses is `addresses`'.
pub trait Admit: Parts {
    /// Fills in every default the reference server fills in, and brings quantities into canonical
    /// form. Idempotent. Called on create and on update.
    fn fill_defaults(&mut self) {}

    /// Everything wrong with a new object, metadata included.
    fn faults(&self) -> Faults;

    /// Everything wrong with a change: the faults of the new state and the fields that may not change.
    fn update_faults(&self, _old: &Self) -> Faults {
        self.faults()
    }

    /// The second step: fields that this version does not run, each refused by name with the reason.
    fn unsupported(&self) -> Faults {
        supported::refusals(self)
    }

    /// A new object begins without status (or with the kind's first one: a Pod is `Pending`).
    fn prepare_create(&mut self) {}

    /// A write of the object takes over what a client may leave out (a Service's addresses). Runs
    /// before `fill_defaults`.
    fn prepare_update(&mut self, old: &Self) {
        self.keep_status(old);
    }

    /// What a manifest does not name and a controller wrote into the spec stays when a commit is
    /// applied; elsewhere an update that leaves it out takes it away.
    fn keep_unnamed(&mut self, _old: &Self) {}

    fn prepare_status_update(&mut self, old: &Self) {
        self.keep_all_but_status(old);
    }

    /// What the writer is told of an object that is taken all the same, as `Warning` headers; `old` is
    /// what it replaces.
    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        Vec::new()
    }

    /// Whether the part that `metadata.generation` counts differs; asked of kinds that have one.
    fn generation_differs(&self, old: &Self) -> bool {
        self.spec_differs(old)
    }
}
