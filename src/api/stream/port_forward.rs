//! `kubectl port-forward`.

use axum::response::Response;

use crate::api::routes::no_such_resource;
use crate::api::stream::opening::Call;
use crate::api::stream::upgrade::Upgrade;
use crate::object::ApiError;
use crate::store::Store;

/// # Errors
/// `BadRequest` for a request that asks for no upgrade; `NotFound`: this version forwards no ports.
pub(crate) async fn open<S: Store>(call: Call<'_, S>) -> Result<Response, ApiError> {
    Upgrade::of(call.parts)?;
    Err(no_such_resource())
}
