//! Pure: the shapes of names, with the reference server's sentences for what breaks them.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn too_long(text: &str, limit: usize) -> Option<String> {
    (text.len() > limit).then(|| format!("must be no more than {limit} characters"))
}

/// Why a text can be no segment of a path that names an object (`path.IsValidPathSegmentName`).
pub fn segment_fault(text: &str) -> Option<String> {
    if matches!(text, "." | "..") {
        return Some(format!("may not be '{text}'"));
    }
    let told: Vec<String> = ['/', '%']
        .into_iter()
        .filter(|illegal| text.contains(*illegal))
        .map(|illegal| format!("may not contain '{illegal}'"))
        .collect();
    (!told.is_empty()).then(|| told.join(";"))
}

/// RFC 1123 label, at most 63: namespaces, containers, ports' hosts. Empty means valid.
pub fn label_faults(text: &str) -> Vec<String> {
    too_long(text, 63).into_iter().chain((!is_label(text)).then(|| LABEL.to_owned())).collect()
}

/// RFC 1123 subdomain, at most 253: most objects' names.
pub fn subdomain_faults(text: &str) -> Vec<String> {
    too_long(text, 253)
        .into_iter()
        .chain((!text.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned()))
        .collect()
}

/// DNS-1035 label, at most 63: Services' names.
pub fn dns1035_faults(text: &str) -> Vec<String> {
    let valid = is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    too_long(text, 63).into_iter().chain((!valid).then(|| DNS1035.to_owned())).collect()
}
