//! What the daemon of a data directory serves, for `ballast kubeconfig` and `ballast token` on the
//! same host: `access/served.json`, written at each start.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::api::gate::credential_file::FOLDER;
use crate::api::gate::private_file;

const FILE: &str = "served.json";

/// How clients reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// `https://192.0.2.7:7440`
    pub server: String,
    /// Without TLS there are no credentials.
    pub tls: bool,
    /// Its certificate is of the installation's own authority.
    pub own_authority: bool,
    /// Whether the role operator is on.
    pub operator: bool,
}

impl Served {
    /// # Errors
    /// Of the file system.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_string(self).expect("it has string keys only") + "\n";
        private_file::write(&data_dir.join(FOLDER).join(FILE), text.as_bytes())
    }

    /// `None` where no daemon has run with this directory yet.
    ///
    /// # Errors
    /// Of the file system; a file that is damaged is an `InvalidData`.
    pub fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(data_dir.join(FOLDER).join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
