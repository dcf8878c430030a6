//! The installation's own certificate authority: made at the first start that needs one, and kept
//! in `access/` of the data directory. It signs the listener's certificate and those that
//! `ballast kubeconfig --certificate` gives to people. rcgen is named here alone.

use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use crate::api::gate::credential::fingerprint;
use crate::api::gate::credential_file::FOLDER;
use crate::api::gate::private_file;

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
/// Ten years, as kubeadm's: longer than the machines.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// A year, as kubeadm's. It is made anew at each start, and in a daemon that runs for months.
const SERVER_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Clocks differ: a certificate counts from a day before it was made.
const EARLIER: SignedDuration = SignedDuration::from_hours(24);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path} is no private key of ours: remove it and ca.pem, and print the kubeconfigs anew"
    )]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("a certificate cannot be made for {subject}")]
    Make { subject: String, source: rcgen::Error },
}

/// A certificate and its key, as PEM text.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
    /// The certificate's DER form.
    pub der: Vec<u8>,
}

/// Signs for one installation.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What clients are to trust.
    pub pem: String,
}

impl Authority {
    /// The authority of a data directory, made where there is none.
    ///
    /// # Errors
    /// Its files cannot be read or written.
    pub fn open(data_dir: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let folder = data_dir.join(FOLDER);
        let (key_path, path) = (folder.join(KEY), folder.join(CERTIFICATE));
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::Io { operation, path, source }
        };
        let key = match std::fs::read_to_string(&key_path) {
            Ok(text) => KeyPair::from_pem(&text)
                .map_err(|source| AuthorityError::Key { path: key_path, source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = made(KeyPair::generate(), "the authority")?;
                private_file::write(&key_path, key.serialize_pem().as_bytes())
                    .map_err(failed("write", &key_path))?;
                key
            }
            Err(error) => return Err(failed("read", &key_path)(error)),
        };
        let params = authority_params(&key, now);
        // The key goes first: a start that was cut off in between signs its certificate anew.
        let pem = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pem = made(params.self_signed(&key), "the authority")?.pem();
                private_file::write(&path, pem.as_bytes()).map_err(failed("write", &path))?;
                pem
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// For a listener that is asked for by these names and addresses.
    ///
    /// # Errors
    /// A name that no certificate can carry.
    pub fn server(&self, names: &[String], now: Timestamp) -> Result<Pair, AuthorityError> {
        let subject = names.join(", ");
        let mut params = made(CertificateParams::new(names), &subject)?;
        params.distinguished_name = called("ballast", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, now, now + SERVER_LIFE, &subject)
    }

    /// For a person or a node: the common name is the user, the organisation its role.
    ///
    /// # Errors
    /// None that a checked name can cause.
    pub fn client(
        &self,
        name: &str,
        role: &str,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<Pair, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = called(name, Some(role));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, now, expires, name)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        now: Timestamp,
        expires: Timestamp,
        subject: &str,
    ) -> Result<Pair, AuthorityError> {
        valid(&mut params, now - EARLIER, expires);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = made(KeyPair::generate(), subject)?;
        let certificate = made(params.signed_by(&key, &self.issuer), subject)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        })
    }
}

fn made<T>(made: Result<T, rcgen::Error>, subject: &str) -> Result<T, AuthorityError> {
    made.map_err(|source| AuthorityError::Make { subject: subject.to_owned(), source })
}

/// The name follows from the key, so that the authority is the same at every start and two
/// installations' authorities are told apart.
fn authority_params(key: &KeyPair, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mark = hex::encode(&fingerprint(key.public_key_raw())[..4]);
    params.distinguished_name = called(&format!("ballast-ca-{mark}"), None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    valid(&mut params, now - EARLIER, now + AUTHORITY_LIFE);
    params
}

fn called(name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    if let Some(organisation) = organisation {
        called.push(DnType::OrganizationName, organisation);
    }
    called
}

/// From the midnight before to the midnight after: rcgen counts in days, the credentials' list in
/// seconds.
fn valid(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let midnight = |at: Timestamp| {
        let date = TimeZone::UTC.to_datetime(at).date();
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    };
    params.not_before = midnight(from);
    params.not_after = midnight(until + SignedDuration::from_hours(24));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_the_same_at_every_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = "2026-01-01T12:00:00Z".parse().expect("a time");
        let first = Authority::open(folder.path(), now).expect("made");
        let later = now + SignedDuration::from_hours(24 * 100);
        let second = Authority::open(folder.path(), later).expect("opened");
        assert_eq!(first.pem, second.pem);
        // One whose certificate was lost signs a new one of the same name and key.
        std::fs::remove_file(folder.path().join(FOLDER).join(CERTIFICATE)).expect("removed");
        let third = Authority::open(folder.path(), later).expect("made again");
        assert_ne!(first.pem, third.pem);
        let key = folder.path().join(FOLDER).join(KEY);
        let text = std::fs::read_to_string(&key).expect("there");
        std::fs::write(&key, "no key").expect("damaged");
        let told = Authority::open(folder.path(), now).err().expect("damaged").to_string();
        assert!(told.contains("ca.key is no private key of ours"), "{told}");
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}
